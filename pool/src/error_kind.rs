//! Classifies database errors by the driver's error code, never by their text.

mod kind;
mod mysql;
mod postgres;
mod sqlite;

use std::sync::Arc;

use sea_orm::{
    ConnAcquireErr, DbErr, RuntimeErr,
    sqlx::{
        self,
        error::{DatabaseError, ErrorKind},
    },
};

pub use self::kind::DbErrorKind;
pub(crate) use self::mysql::{is_interrupted, number as mysql_number};

impl DbErrorKind {
    /// Classifies a SeaORM error.
    #[must_use]
    pub fn of(error: &DbErr) -> Self {
        match error {
            DbErr::Conn(RuntimeErr::SqlxError(error))
            | DbErr::Exec(RuntimeErr::SqlxError(error))
            | DbErr::Query(RuntimeErr::SqlxError(error)) => Self::of_driver(error),
            DbErr::ConnectionAcquire(ConnAcquireErr::Timeout) => Self::Silent,
            DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed) | DbErr::Conn(_) => Self::Lost,
            _ => Self::Other,
        }
    }

    /// Classifies an sqlx error.
    #[must_use]
    pub fn of_driver(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(error) => match error.kind() {
                std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound => Self::Refused,
                std::io::ErrorKind::TimedOut => Self::Silent,
                _ if is_tls_error(error) => Self::Tls,
                _ => Self::Lost,
            },
            sqlx::Error::Tls(_) => Self::Tls,
            sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed | sqlx::Error::BeginFailed => Self::Lost,
            sqlx::Error::PoolTimedOut => Self::Silent,
            sqlx::Error::Configuration(error) | sqlx::Error::Encode(error) => {
                error.downcast_ref::<PoolError>().map_or(Self::Other, |error| error.kind)
            }
            sqlx::Error::Database(error) => Self::of_server(error.as_ref()),
            _ => Self::Other,
        }
    }

    fn of_server(error: &dyn DatabaseError) -> Self {
        if error.kind() == ErrorKind::UniqueViolation {
            return Self::UniqueViolation;
        }
        postgres::kind(error).or_else(|| mysql::kind(error)).or_else(|| sqlite::kind(error)).unwrap_or(Self::Other)
    }
}

/// Whether the server has, or may have, rolled back the whole transaction with this error. Other errors need no check
/// on PostgreSQL, which rejects all further statements of the transaction itself.
pub(crate) fn ends_transaction(error: &sqlx::Error) -> bool {
    DbErrorKind::of_driver(error) == DbErrorKind::Conflict
        || mysql::ends_transaction(error)
        || sqlite::ends_transaction(error)
}

/// Whether the server rejected the TLS connection, by sending an alert.
pub(crate) fn is_tls_alert(error: &sqlx::Error) -> bool {
    let sqlx::Error::Io(error) = error else { return false };
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::AlertReceived(_)))
}

/// Whether this is a TLS error, which the driver reports as an I/O error.
fn is_tls_error(error: &std::io::Error) -> bool {
    error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()).is_some()
}

/// An error detected by the pool itself, with its kind. It is wrapped in an [`sqlx::Error`].
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct PoolError {
    kind: DbErrorKind,
    text: String,
}

impl PoolError {
    pub(crate) fn with_kind(kind: DbErrorKind, text: impl Into<String>) -> sqlx::Error {
        sqlx::Error::Configuration(Box::new(Self { kind, text: text.into() }))
    }

    /// The configuration of the database is not supported.
    pub(crate) fn unsuitable(text: impl Into<String>) -> sqlx::Error {
        Self::with_kind(DbErrorKind::Unsuitable, text)
    }

    /// The statement exceeds the server's size limit and was not sent: the server would close the connection while
    /// still receiving it, and the reason would be lost.
    pub(crate) fn too_large(size: usize, limit: usize) -> sqlx::Error {
        let text = format!("the statement has {size} bytes; the server's max_allowed_packet is {limit}");
        sqlx::Error::Encode(Box::new(Self { kind: DbErrorKind::TooLarge, text }))
    }
}

/// A timeout as an sqlx error.
pub(crate) fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the server did not respond"))
}

/// Returns the message of the root cause.
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    loop {
        // As text, an error of PostgreSQL ends with a line of the server's source code.
        #[cfg(feature = "postgres")]
        if let Some(sqlx::Error::Database(error)) = of_driver(error)
            && let Some(error) = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
        {
            return error.message().to_owned();
        }
        let Some(source) = error.source() else { return error.to_string() };
        error = source;
    }
}

/// Returns the error as one of the drivers. SeaORM shares them.
#[cfg(feature = "postgres")]
fn of_driver<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a sqlx::Error> {
    let shared = || error.downcast_ref::<Arc<sqlx::Error>>().map(AsRef::as_ref);
    error.downcast_ref::<sqlx::Error>().or_else(shared)
}

/// Converts an sqlx error to the SeaORM error of a statement that returns no rows.
pub(crate) fn exec_error(error: sqlx::Error) -> DbErr {
    DbErr::Exec(RuntimeErr::SqlxError(error.into()))
}

/// Converts an sqlx error to the SeaORM error of a query.
pub(crate) fn query_error(error: sqlx::Error) -> DbErr {
    DbErr::Query(RuntimeErr::SqlxError(error.into()))
}

/// Converts an sqlx error to the SeaORM error of a connection attempt.
pub(crate) fn connection_error(error: Arc<sqlx::Error>) -> DbErr {
    DbErr::Conn(RuntimeErr::SqlxError(error))
}

/// Returns the sqlx error inside a SeaORM error, or wraps the SeaORM error in one.
pub(crate) fn driver_error(error: DbErr) -> sqlx::Error {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => {
            Arc::try_unwrap(error).unwrap_or_else(|error| sqlx::Error::Configuration(Box::new(error)))
        }
        error => sqlx::Error::Configuration(Box::new(error)),
    }
}
