use std::{sync::Arc, time::Duration};

use crate::error_kind::DbErrorKind;

/// The reason why an operation did not get a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// All connections are in use and `wait` is `false`.
    #[error("all connections are in use")]
    AllInUse,
    /// The queue has reached `queue_limit`.
    #[error("the queue is full: {limit} operations are waiting")]
    QueueFull {
        /// The limit that was reached.
        limit: usize,
    },
    /// The predicted wait, from the length of the queue and the mean hold time, exceeds the time that the operation may
    /// wait. Refused on arrival.
    #[error("the predicted wait for a connection, {predicted:.1?}, exceeds the time limit")]
    TooLate {
        /// The predicted wait.
        predicted: Duration,
    },
    /// No connection became available in time.
    #[error("timed out waiting for a connection after {waited:.1?}")]
    TimedOut {
        /// How long it waited.
        waited: Duration,
    },
    /// The database is down.
    #[error("{kind}: {detail}")]
    Down {
        /// The kind of the error.
        kind: DbErrorKind,
        /// The message of the driver or the server.
        detail: Arc<str>,
    },
    /// The pool is being closed.
    #[error("the pool is closing")]
    Closing,
}

impl AcquireError {
    /// All names.
    pub(crate) const NAMES: [&'static str; 6] =
        ["all-in-use", "queue-full", "too-late", "timed-out", "down", "closing"];

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
