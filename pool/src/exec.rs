//! Runs operations on the pool's runtime: admission, retries, and the connection that a body gets.

mod check_in;
pub(crate) mod connection;
pub(crate) mod operation;
pub(crate) mod pooled;
pub(crate) mod progress;
pub(crate) mod runtime;
mod session_effect;
mod traits;
pub(crate) mod transaction;
