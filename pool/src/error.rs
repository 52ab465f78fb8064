//! What can go wrong, told so that a caller can act on it.

use std::time::Duration;

use sea_orm::DbErr;

use crate::{InvalidOption, Status};

/// Why an operation gave no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operation never began.
    #[error("{operation} was refused: {reason} (pool: {} of {} in use, {} idle, {} waiting)", status.in_use, status.max, status.idle, status.waiting)]
    Refused {
        /// The operation's name.
        operation: &'static str,
        /// Why.
        reason: Refusal,
        /// The pool at that moment.
        status: Status,
    },
    /// The operation's body panicked; its connection is not used again.
    #[error("{operation} panicked")]
    Panicked {
        /// The operation's name.
        operation: &'static str,
    },
    /// The database gave no sign of life in time.
    #[error("the database did not answer within {waited:?}")]
    Silent {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The pool is closed.
    #[error("the pool is closed")]
    Closed,
    /// SeaORM or the driver failed.
    #[error("the database failed")]
    Database(#[source] DbErr),
}

/// Why an operation was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// All connections are in use and `wait` is off.
    #[error("all connections are in use")]
    AllInUse,
    /// As many operations wait as `queue_limit` allows.
    #[error("{limit} operations wait already")]
    QueueFull {
        /// The limit that was reached.
        limit: usize,
    },
    /// No connection came free within `acquire`.
    #[error("no connection came free in {waited:?}")]
    TimedOut {
        /// How long it was waited.
        waited: Duration,
    },
    /// The pool is being closed.
    #[error("the pool is closing")]
    Closing,
}

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// An option is outside its limits.
    #[error("pool option {0}")]
    Option(#[from] InvalidOption),
    /// The pool's runtime could not start.
    #[error("the pool's threads could not be started")]
    Runtime(#[source] std::io::Error),
    /// The database could not be reached in time.
    #[error("cannot reach the database {url} (tried for {waited:.1?})")]
    Unreachable {
        /// Where, without the password.
        url: String,
        /// How long it was tried.
        waited: Duration,
        /// The last cause.
        #[source]
        cause: DbErr,
    },
    /// The pool's runtime ended while it was connecting.
    #[error("connecting was interrupted")]
    Interrupted,
}

/// Why the pool did not close cleanly.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// Operations still ran when the limit was reached.
    #[error("the pool did not close within {limit:?}: {in_use} operations still running")]
    TimedOut {
        /// The limit.
        limit: Duration,
        /// Operations left behind.
        in_use: u32,
    },
    /// The driver failed.
    #[error("the pool did not close")]
    Failed(#[source] DbErr),
}
