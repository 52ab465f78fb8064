//! Open connections, their holders, and the queue of waiters.

mod acquire_error;
pub(crate) mod admission;
#[cfg(feature = "bulk")]
pub(crate) mod bulk_limiter;
pub(crate) mod connection_set;
pub(crate) mod entry;

pub use self::acquire_error::AcquireError;
pub(crate) use self::{
    admission::{Access, Admission, AdmissionParams, Admitted, WaiterKind},
    connection_set::{Holder, Members},
    entry::{CloseReason, PoolEntry},
};
