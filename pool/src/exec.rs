//! Operations and what they see: from admission to the answer, on the pool's own runtime.

pub(crate) mod connection;
mod lending;
pub(crate) mod operation;
pub(crate) mod pooled;
pub(crate) mod progress;
pub(crate) mod runtime;
mod session_effect;
mod traits;
pub(crate) mod transaction;
