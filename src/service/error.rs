//! What can go wrong in a use case. A `DbErr` is classified here, once, by driver code and constraint name.

use entity::users::EMAIL_KEY_INDEX;
use sea_orm::{
    ConnAcquireErr, DbErr, RuntimeErr, SqlxError, SqlxMySqlError, SqlxPostgresError, SqlxSqliteError,
    sqlx::error::{DatabaseError, ErrorKind},
};

/// Why a use case gave no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such user.
    #[error("there is no such user")]
    NotFound,
    /// Another user has the email.
    #[error("another user has this email")]
    EmailTaken,
    /// The user was changed since the caller read it.
    #[error("the user was changed meanwhile")]
    VersionConflict,
    /// Nothing is wrong with the request; it cannot be served now.
    #[error("cannot be served now ({kind:?})")]
    Unavailable {
        /// What stands in the way.
        kind: Unavailable,
        /// The cause, for the log.
        #[source]
        source: orm_pool::Error,
    },
    /// A fault of ours.
    #[error("internal error")]
    Internal(#[source] orm_pool::Error),
}

/// What stands in the way of a request that could be served at another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// The pool has no connection to give.
    PoolExhausted,
    /// The database is away, or cannot take the operation now.
    Database,
    /// The service is being stopped.
    ShuttingDown,
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        orm_pool::Error::from(error).into()
    }
}

impl From<orm_pool::Error> for Error {
    fn from(error: orm_pool::Error) -> Self {
        use orm_pool::{Error as Pool, Refusal};
        let kind = match &error {
            Pool::Refused { reason: Refusal::Closing, .. } | Pool::Closed => Unavailable::ShuttingDown,
            Pool::Refused { .. } => Unavailable::PoolExhausted,
            Pool::Silent { .. } => Unavailable::Database,
            Pool::Panicked { .. } => return Self::Internal(error),
            Pool::Database(cause) => match Meaning::of(cause) {
                Meaning::EmailTaken => return Self::EmailTaken,
                Meaning::Closed => Unavailable::ShuttingDown,
                Meaning::Away => Unavailable::Database,
                Meaning::Bug => return Self::Internal(error),
            },
        };
        Self::Unavailable { kind, source: error }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    EmailTaken,
    Closed,
    Away,
    Bug,
}

impl Meaning {
    fn of(error: &DbErr) -> Self {
        match error {
            DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed) => Self::Closed,
            DbErr::Conn(RuntimeErr::SqlxError(error))
            | DbErr::Exec(RuntimeErr::SqlxError(error))
            | DbErr::Query(RuntimeErr::SqlxError(error)) => Self::of_driver(error),
            // Admission lets nobody in for whom there is no place: what could not be had in time is the database.
            DbErr::ConnectionAcquire(ConnAcquireErr::Timeout) | DbErr::Conn(_) => Self::Away,
            _ => Self::Bug,
        }
    }

    fn of_driver(error: &SqlxError) -> Self {
        match error {
            SqlxError::Io(_)
            | SqlxError::Tls(_)
            | SqlxError::Protocol(_)
            | SqlxError::PoolTimedOut
            | SqlxError::WorkerCrashed => Self::Away,
            SqlxError::PoolClosed => Self::Closed,
            SqlxError::Database(error) if error.kind() == ErrorKind::UniqueViolation => {
                if violates(error.as_ref(), EMAIL_KEY_INDEX) { Self::EmailTaken } else { Self::Bug }
            }
            SqlxError::Database(error) if passes(error.as_ref()) => Self::Away,
            _ => Self::Bug,
        }
    }
}

/// Whether a unique violation is that of `index`.
fn violates(error: &dyn DatabaseError, index: &str) -> bool {
    if error.try_downcast_ref::<SqlxPostgresError>().is_some() {
        return error.constraint() == Some(index);
    }
    if error.try_downcast_ref::<SqlxMySqlError>().is_some() {
        // The protocol has no field for the key's name; the server puts it last and in quotes, bare (MariaDB, MySQL 5)
        // or behind the table's name (MySQL 8). The value that a client sent stands before it.
        let last = error.message().trim_end_matches('\'').rsplit(['\'', '.']).next();
        return last == Some(index);
    }
    // SQLite names columns, not indexes. 2067 is a UNIQUE constraint and the table has one; a primary key is 1555.
    error.try_downcast_ref::<SqlxSqliteError>().is_some() && error.code().as_deref() == Some("2067")
}

/// Whether the database refuses for a reason of its own that passes.
fn passes(error: &dyn DatabaseError) -> bool {
    let code = error.code();
    let code = code.as_deref().unwrap_or_default();
    if error.try_downcast_ref::<SqlxPostgresError>().is_some() {
        // Connection (08), authentication (28), read-only transaction (25006), rollbacks (40), resources (53), operator
        // intervention (57, with statement time-outs), system (58).
        return code == "25006" || ["08", "28", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class));
    }
    if let Some(error) = error.try_downcast_ref::<SqlxMySqlError>() {
        // Too many connections, out of resources, access denied, shutdown, disk full, lock wait time-out, deadlock,
        // connection killed, read only, Galera not ready, statement time-outs.
        return matches!(
            error.number(),
            1021 | 1028 | 1037..=1045 | 1047 | 1053 | 1114 | 1152..=1161 | 1203 | 1205 | 1213 | 1290 | 1317 | 1836 | 1927 | 1969 | 3024
        );
    }
    // SQLite: busy, locked, interrupted, I/O error, full, cannot open; the low byte is the primary code.
    error.try_downcast_ref::<SqlxSqliteError>().is_some()
        && code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 8 | 9 | 10 | 13 | 14))
}
