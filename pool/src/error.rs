//! The error types of the public API.

use std::{sync::Arc, time::Duration};

use sea_orm::DbErr;

use crate::{
    connect::url::Engine,
    error_kind::DbErrorKind,
    options::InvalidOption,
    set::AcquireError,
    stats::snapshot::{OperationInfo, Status},
};

/// The error type of operations.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operation got no connection. It had no effect: if an earlier attempt ran, that attempt was rolled back or
    /// changed nothing.
    #[error("{operation} was refused: {reason} ({usage})")]
    Refused {
        /// The operation's name.
        operation: &'static str,
        /// The reason.
        reason: AcquireError,
        /// The state of the pool at about that moment, for logs. Refusals in quick succession share it.
        usage: Arc<PoolUsage>,
    },
    /// The operation requested a second connection while it held one. In a full pool it would wait for itself.
    #[error("{operation} requested a connection inside {within}, which already holds one; use that connection")]
    Nested {
        /// The operation that was refused.
        operation: &'static str,
        /// The operation that already holds a connection.
        within: &'static str,
    },
    /// The operation's body panicked. Its open transaction is rolled back.
    #[error("{operation} panicked")]
    Panicked {
        /// The operation's name.
        operation: &'static str,
    },
    /// The operation was aborted because the database did not respond. Whether a write took effect is unknown.
    #[error("{operation} was aborted: no response from the database")]
    Aborted {
        /// The operation's name.
        operation: &'static str,
    },
    /// The pool is closed.
    #[error("the pool is closed")]
    Closed,
    /// SeaORM or the driver returned an error.
    #[error("database error")]
    Database(#[source] DbErr),
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        Self::Database(error)
    }
}

/// The state of the pool when an operation was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolUsage {
    /// Connections and waiting operations.
    pub counts: Status,
    /// The operations that have held a connection longest.
    pub holders: Vec<OperationInfo>,
}

impl std::fmt::Display for PoolUsage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Status { total, idle, in_use, waiting, .. } = self.counts;
        write!(f, "pool: {total} open, {idle} idle, {in_use} in use, {waiting} waiting")?;
        for (index, holder) in self.holders.iter().enumerate() {
            let lead = if index == 0 { "; held longest by" } else { "," };
            write!(f, "{lead} {} for {} ms", holder.operation, holder.for_ms)?;
        }
        Ok(())
    }
}

/// The error type of [`Pool::connect`](crate::Pool::connect).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// An option is outside its limits.
    #[error("pool option {0}")]
    Option(#[from] InvalidOption),
    /// The crate was built without the URL's engine.
    #[error("orm-pool was built without {0:?}; enable its feature `{feature}`", feature = .0.feature())]
    EngineDisabled(Engine),
    /// The pool's runtime could not be started.
    #[error("failed to start the pool's runtime")]
    Runtime(#[source] std::io::Error),
    /// The database could not be reached in time.
    #[error("cannot reach the database {url} (tried for {waited:.1?}): {kind}")]
    Unreachable {
        /// The URL, without the password.
        url: String,
        /// How long the pool has tried.
        waited: Duration,
        /// The kind of the last error.
        kind: DbErrorKind,
        /// The last error.
        #[source]
        cause: DbErr,
    },
    /// The pool's runtime ended while connecting.
    #[error("connecting was interrupted")]
    Interrupted,
}

/// The error type of [`Pool::reconfigure`](crate::Pool::reconfigure).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconfigureError {
    /// An option is outside its limits.
    #[error("pool option {0}")]
    Option(#[from] InvalidOption),
    /// The new URL names another database.
    #[error("the URL names another database; only credentials can change without a restart")]
    AnotherDatabase,
    /// A connection with the new credentials could not be opened. The old ones remain in use.
    #[error("the new credentials were rejected, the old ones remain in use: {kind}")]
    Refused {
        /// The kind of the error.
        kind: DbErrorKind,
        /// The error.
        #[source]
        cause: DbErr,
    },
    /// The pool is closed.
    #[error("the pool is closed")]
    Closed,
}

/// [`Pool::close`](crate::Pool::close) timed out while operations were still running.
#[derive(Debug, thiserror::Error)]
#[error("the pool did not close within {timeout:?}; operations still running: {} ({})", operations.len(), operations.join(", "))]
#[non_exhaustive]
pub struct CloseError {
    /// The timeout.
    pub timeout: Duration,
    /// The names of the operations that were still running.
    pub operations: Vec<&'static str>,
}
