use std::{sync::Arc, time::Duration};

use crate::error_kind::DbErrorKind;

/// Why an operation was refused a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// All connections are in use and `wait` is off.
    #[error("all connections are in use")]
    AllInUse,
    /// As many operations wait as `queue_limit` allows.
    #[error("{limit} operations wait already")]
    QueueFull {
        /// The limit that was reached.
        limit: usize,
    },
    /// It would have to wait for longer than it can, by the length of the queue and the measured use of connections. Found on
    /// arrival.
    #[error("a connection would come free in about {predicted:.1?}, which is too late")]
    TooLate {
        /// How long the wait would be.
        predicted: Duration,
    },
    /// No connection came free in time.
    #[error("no connection came free in {waited:.1?}")]
    TimedOut {
        /// How long it waited.
        waited: Duration,
    },
    /// The database is down.
    #[error("{kind}: {detail}")]
    Down {
        /// The kind of the cause.
        kind: DbErrorKind,
        /// What the driver or the server says.
        detail: Arc<str>,
    },
    /// The pool is being closed.
    #[error("the pool is closing")]
    Closing,
}

impl AcquireError {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::AllInUse => "all-in-use",
            Self::QueueFull { .. } => "queue-full",
            Self::TooLate { .. } => "too-late",
            Self::TimedOut { .. } => "timed-out",
            Self::Down { .. } => "down",
            Self::Closing => "closing",
        }
    }
}
