//! Runs operations on the pool's runtime: admission, retries, and the connection that a body gets.

pub(crate) mod connection;
mod lending;
pub(crate) mod operation;
pub(crate) mod pooled;
pub(crate) mod progress;
pub(crate) mod runtime;
mod session_effect;
mod traits;
pub(crate) mod transaction;
