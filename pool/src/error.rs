//! Errors, in a form that a caller can act on.

use std::time::Duration;

use sea_orm::DbErr;

use crate::{
    connect::url::Engine,
    error_kind::DbErrorKind,
    options::InvalidOption,
    set::AcquireError,
    stats::snapshot::{OperationInfo, Status},
};

/// Why an operation gave no result.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operation never began.
    #[error("{operation} was refused: {reason} ({usage})")]
    Refused {
        /// The operation's name.
        operation: &'static str,
        /// Why.
        reason: AcquireError,
        /// The pool at that moment, for the log.
        usage: Box<PoolUsage>,
    },
    /// The operation asked for a second connection while it held one. In a full pool it would wait for itself.
    #[error("{operation} asked for a connection inside {within}, which holds one already; use that one")]
    Nested {
        /// The operation that was refused.
        operation: &'static str,
        /// The one that it was asked for in.
        within: &'static str,
    },
    /// The operation's body panicked; what it did inside a transaction is rolled back.
    #[error("{operation} panicked")]
    Panicked {
        /// The operation's name.
        operation: &'static str,
    },
    /// The operation was given up because the database had gone silent. Whether a write took effect is not known.
    #[error("{operation} was given up: the database had gone silent")]
    Abandoned {
        /// The operation's name.
        operation: &'static str,
    },
    /// The pool is closed.
    #[error("the pool is closed")]
    Closed,
    /// SeaORM or the driver failed.
    #[error("the database failed")]
    Database(#[source] DbErr),
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        Self::Database(error)
    }
}

/// The pool at the moment of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolUsage {
    /// What is there and who waits.
    pub counts: Status,
    /// Who has held a connection longest.
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

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// An option is outside its limits.
    #[error("pool option {0}")]
    Option(#[from] InvalidOption),
    /// The crate was built without the engine of the URL.
    #[error("orm-pool was built without {0:?}; enable its feature `{feature}`", feature = .0.feature())]
    EngineDisabled(Engine),
    /// The pool's runtime could not start.
    #[error("the pool's threads could not be started")]
    Runtime(#[source] std::io::Error),
    /// The database could not be reached in time.
    #[error("cannot reach the database {url} (tried for {waited:.1?}): {kind}")]
    Unreachable {
        /// Where, without the password.
        url: String,
        /// How long it was tried.
        waited: Duration,
        /// The kind of the last cause.
        kind: DbErrorKind,
        /// The last cause.
        #[source]
        cause: DbErr,
    },
    /// The pool's runtime ended while it was connecting.
    #[error("connecting was interrupted")]
    Interrupted,
}

/// Why settings were not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconfigureError {
    /// An option is outside its limits.
    #[error("pool option {0}")]
    Option(#[from] InvalidOption),
    /// The new URL leads to another database.
    #[error("another database needs a restart; only the credentials can change while it runs")]
    AnotherDatabase,
    /// The new credentials were tried, and the old ones stay.
    #[error("the new credentials were refused and the old ones stay: {kind}")]
    Refused {
        /// The kind of the cause.
        kind: DbErrorKind,
        /// The cause.
        #[source]
        cause: DbErr,
    },
    /// The pool is closed.
    #[error("the pool is closed")]
    Closed,
}

/// Why the pool did not close cleanly.
#[derive(Debug, thiserror::Error)]
#[error("the pool did not close within {limit:?}: {} operations still running ({})", operations.len(), operations.join(", "))]
#[non_exhaustive]
pub struct CloseError {
    /// The limit.
    pub limit: Duration,
    /// The operations that were left behind.
    pub operations: Vec<&'static str>,
}
