//! What an error of the database means, by the driver's code and never by its text.

use std::sync::Arc;

#[cfg(feature = "mysql")]
use sea_orm::sqlx::mysql::MySqlDatabaseError;
#[cfg(feature = "postgres")]
use sea_orm::sqlx::postgres::{PgDatabaseError, PgSeverity};
#[cfg(feature = "sqlite")]
use sea_orm::sqlx::sqlite::SqliteError;
use sea_orm::{
    ConnAcquireErr, DbErr, RuntimeErr,
    sqlx::{
        self,
        error::{DatabaseError, ErrorKind},
    },
};
use serde::Serialize;

/// What an error of the database means for the caller and for the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub enum DbErrorKind {
    /// Nobody listens at the address.
    Refused,
    /// The host's name means nothing.
    NameResolution,
    /// No secure channel could be agreed on.
    Tls,
    /// The server does not know the user or the password.
    Authentication,
    /// The server has no such database, or the file is none.
    NoSuchDatabase,
    /// The database cannot be used as it is set up; the error's text says what to change.
    Unsuitable,
    /// The server has no connection to spare.
    TooManyConnections,
    /// The server is starting, stopping or recovering.
    NotAccepting,
    /// The server ended the connection on purpose.
    Terminated,
    /// The connection broke.
    Lost,
    /// There was no answer in time.
    Silent,
    /// The server takes no writes (a replica, or a primary that was demoted).
    ReadOnly,
    /// The schema changed under a prepared statement.
    StalePlan,
    /// The server holds as many prepared statements as it may (`max_prepared_stmt_count`).
    TooManyStatements,
    /// A connection pooler refused, or mixed up the prepared statements of its clients.
    Pooler,
    /// Another transaction stood in the way, and this one was rolled back: deadlock, serialization failure.
    Conflict,
    /// The server ended a statement that ran too long, or was asked to.
    StatementTimeout,
    /// The disk is full.
    DiskFull,
    /// The server lacks something else that passes: memory, locks, a free turn.
    Exhausted,
    /// The database user may not do that.
    PrivilegeMissing,
    /// A text cannot be stored in the database's encoding.
    Encoding,
    /// A statement or a value is larger than the server takes.
    TooLarge,
    /// A unique constraint was violated.
    UniqueViolation,
    /// Anything else: a mistake in the statement, in the schema, in the data.
    Other,
}

impl DbErrorKind {
    /// Reads an error of SeaORM.
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

    /// Reads an error of the driver.
    #[must_use]
    pub fn of_driver(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(error) => match error.kind() {
                std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound => Self::Refused,
                std::io::ErrorKind::TimedOut => Self::Silent,
                _ if is_of_tls(error) => Self::Tls,
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
        #[cfg(feature = "postgres")]
        if let Some(error) = error.try_downcast_ref::<PgDatabaseError>() {
            return Self::of_postgres(error);
        }
        #[cfg(feature = "mysql")]
        if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() {
            return Self::of_mysql(error.number());
        }
        #[cfg(feature = "sqlite")]
        if error.try_downcast_ref::<SqliteError>().is_some() {
            let code = error.code().and_then(|code| code.parse::<u32>().ok()).unwrap_or(0);
            return Self::of_sqlite(code);
        }
        Self::Other
    }

    #[cfg(feature = "postgres")]
    fn of_postgres(error: &PgDatabaseError) -> Self {
        let code = error.code();
        match code {
            "3D000" => Self::NoSuchDatabase,
            "53300" => Self::TooManyConnections,
            "53100" => Self::DiskFull,
            "57P03" => Self::NotAccepting,
            "57P01" | "57P02" | "57P04" | "57P05" | "25P03" => Self::Terminated,
            "57014" => Self::StatementTimeout,
            "25006" => Self::ReadOnly,
            // The statement of that name exists already, or does not; most that PgBouncer itself refuses is 08P01.
            "42P05" | "26000" | "08P01" => Self::Pooler,
            // "cached plan must not change result type".
            "0A000" if error.routine() == Some("RevalidateCachedQuery") => Self::StalePlan,
            "40001" | "40P01" => Self::Conflict,
            "55P03" => Self::Exhausted,
            "42501" => Self::PrivilegeMissing,
            "22021" | "22P05" => Self::Encoding,
            "54000" => Self::TooLarge,
            _ => match &code[..2.min(code.len())] {
                "08" => Self::Lost,
                "28" => Self::Authentication,
                "40" | "53" | "57" | "58" => Self::Exhausted,
                _ if matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic) => Self::Terminated,
                _ => Self::Other,
            },
        }
    }

    #[cfg(feature = "mysql")]
    fn of_mysql(number: u16) -> Self {
        match number {
            1040 | 1203 | 1226 => Self::TooManyConnections,
            // The last two: a password that has expired, an account that is locked.
            1044 | 1045 | 1698 | 1862 | 3118 => Self::Authentication,
            1049 => Self::NoSuchDatabase,
            // The last: a Galera node that is not ready for queries. Another one may be.
            1053 | 1077 | 1079 | 3032 | 1047 => Self::NotAccepting,
            // Killed; ended by an administrator or for idleness (MySQL 8).
            1927 | 3169 | 4031 => Self::Terminated,
            1142 | 1143 | 1227 | 1370 => Self::PrivilegeMissing,
            // The server closes the connection as well.
            1153 => Self::TooLarge,
            1042 | 1043 | 1129 | 1130 | 1152 | 1154..=1161 => Self::Lost,
            1290 | 1836 | 1792 => Self::ReadOnly,
            // A lock that was not had in time; a deadlock; a row that is newer than the snapshot (MariaDB 11.6); a conflict
            // with another member of the group (MySQL).
            1205 | 1213 | 1020 | 3101 => Self::Conflict,
            1317 | 1969 | 3024 => Self::StatementTimeout,
            1021 | 1114 => Self::DiskFull,
            1300 | 1366 | 3988 => Self::Encoding,
            // Out of memory, of files, of locks.
            1028 | 1037..=1039 | 1041 | 1206 => Self::Exhausted,
            1461 => Self::TooManyStatements,
            _ => Self::Other,
        }
    }

    #[cfg(feature = "sqlite")]
    fn of_sqlite(code: u32) -> Self {
        // The low byte is the primary code.
        match code & 0xff {
            5 | 6 | 9 => Self::Exhausted,
            8 => Self::ReadOnly,
            10 => Self::Lost,
            13 => Self::DiskFull,
            14 | 26 => Self::NoSuchDatabase,
            18 => Self::TooLarge,
            _ => Self::Other,
        }
    }

    /// Whether the connection that met it is of no further use.
    #[must_use]
    pub fn breaks_connection(self) -> bool {
        matches!(
            self,
            Self::Refused
                | Self::Tls
                | Self::Authentication
                | Self::Unsuitable
                | Self::TooManyConnections
                | Self::NotAccepting
                | Self::Terminated
                | Self::Lost
                | Self::Silent
                | Self::ReadOnly
                | Self::StalePlan
                | Self::TooLarge
                | Self::Pooler
                // Closing it frees its prepared statements.
                | Self::TooManyStatements
        )
    }

    /// Whether it is a state of the database that an operator has to fix.
    pub(crate) fn is_impairment(self) -> bool {
        matches!(self, Self::ReadOnly | Self::DiskFull | Self::TooManyStatements)
    }

    /// Whether the same request may succeed at another time, unchanged.
    #[must_use]
    pub fn is_transient(self) -> bool {
        !matches!(self, Self::PrivilegeMissing | Self::Encoding | Self::TooLarge | Self::UniqueViolation | Self::Other)
    }

    /// Whether a server has answered, whatever it says.
    pub(crate) fn is_response(self) -> bool {
        matches!(
            self,
            Self::Authentication
                | Self::NoSuchDatabase
                | Self::Unsuitable
                | Self::TooManyConnections
                | Self::NotAccepting
                | Self::Exhausted
        )
    }

    /// Whether trying again to connect cannot help: the server refuses it until the settings change.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Authentication | Self::NoSuchDatabase | Self::Unsuitable)
    }

    /// In words, without any name or address.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Refused => "the database refuses connections",
            Self::NameResolution => "the database's host name cannot be resolved",
            Self::Tls => "no secure connection to the database",
            Self::Authentication => "the database does not accept the user or the password",
            Self::NoSuchDatabase => "there is no such database",
            Self::Unsuitable => "the database cannot be used as it is set up",
            Self::TooManyConnections => "the database has no connection to spare",
            Self::NotAccepting => "the database is starting, stopping or recovering",
            Self::Terminated => "the database ended the connection",
            Self::Lost => "the connection to the database broke",
            Self::Silent => "the database does not answer",
            Self::ReadOnly => "the database takes no writes",
            Self::StalePlan => "the schema changed under a prepared statement",
            Self::TooManyStatements => "the database has no room for another prepared statement",
            Self::Pooler => {
                "a connection pooler stands in between and refused; it needs session mode, or PgBouncer 1.21 or later with \
                 max_prepared_statements above 0, and a URL without startup options"
            }
            Self::Conflict => "another transaction stood in the way",
            Self::StatementTimeout => "a statement took too long",
            Self::DiskFull => "the database's disk is full",
            Self::Exhausted => "the database is short of resources",
            Self::PrivilegeMissing => "the database user lacks a privilege",
            Self::Encoding => "the database's encoding cannot store a text",
            Self::TooLarge => "a statement is larger than the database takes",
            Self::UniqueViolation => "a unique constraint was violated",
            Self::Other => "the database refused",
        }
    }
}

impl std::fmt::Display for DbErrorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.describe())
    }
}

/// The number of a MySQL error.
pub(crate) fn mysql_number(error: &sqlx::Error) -> Option<u16> {
    match error {
        #[cfg(feature = "mysql")]
        sqlx::Error::Database(error) => error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number),
        _ => None,
    }
}

/// Whether the server has rolled the whole transaction back with this error, or may have. PostgreSQL itself refuses what
/// follows any other error.
pub(crate) fn ends_transaction(error: &sqlx::Error) -> bool {
    // The table of locks is full: InnoDB gives up the transaction.
    const LOCK_TABLE_FULL: u16 = 1206;
    // SQLite: interrupted, out of memory, I/O error, disk full.
    const SQLITE: [u32; 4] = [7, 9, 10, 13];
    DbErrorKind::of_driver(error) == DbErrorKind::Conflict
        || mysql_number(error) == Some(LOCK_TABLE_FULL)
        || sqlite_code(error).is_some_and(|code| SQLITE.contains(&(code & 0xff)))
}

/// The extended code of an SQLite error.
fn sqlite_code(error: &sqlx::Error) -> Option<u32> {
    match error {
        #[cfg(feature = "sqlite")]
        sqlx::Error::Database(error) if error.try_downcast_ref::<SqliteError>().is_some() => error.code()?.parse().ok(),
        _ => None,
    }
}

/// Whether MySQL or MariaDB interrupted the statement: by `KILL QUERY`, or because the whole session is being killed.
pub(crate) fn is_interrupted(error: &sqlx::Error) -> bool {
    mysql_number(error) == Some(1317)
}

/// Whether it was the server that refused TLS.
pub(crate) fn is_refused_by_server(error: &sqlx::Error) -> bool {
    let sqlx::Error::Io(error) = error else { return false };
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::AlertReceived(_)))
}

/// Whether TLS refused the connection: the driver passes its errors on as those of the socket.
fn is_of_tls(error: &std::io::Error) -> bool {
    error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()).is_some()
}

/// An error that the pool itself has found, with its kind: it travels inside one of the driver's.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct PoolError {
    kind: DbErrorKind,
    text: String,
}

impl PoolError {
    /// The database cannot be used as it is set up.
    pub(crate) fn unsuitable(text: impl Into<String>) -> sqlx::Error {
        sqlx::Error::Configuration(Box::new(Self { kind: DbErrorKind::Unsuitable, text: text.into() }))
    }

    /// A statement that was not sent: the server would close the connection while it still comes in, and the reason would
    /// be lost.
    pub(crate) fn too_large(size: usize, largest: usize) -> sqlx::Error {
        let text = format!("the statement has {size} bytes, and the server's max_allowed_packet is {largest}");
        sqlx::Error::Encode(Box::new(Self { kind: DbErrorKind::TooLarge, text }))
    }
}

/// A time-out, as an error of the driver.
pub(crate) fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the server did not answer"))
}

/// The message of an error's root cause.
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// An error of the driver, as SeaORM gives it for a statement that returns no rows.
pub(crate) fn exec_error(error: sqlx::Error) -> DbErr {
    DbErr::Exec(RuntimeErr::SqlxError(error.into()))
}

/// The same for one that returns rows.
pub(crate) fn query_error(error: sqlx::Error) -> DbErr {
    DbErr::Query(RuntimeErr::SqlxError(error.into()))
}

/// The same for opening a connection.
pub(crate) fn connection_error(error: Arc<sqlx::Error>) -> DbErr {
    DbErr::Conn(RuntimeErr::SqlxError(error))
}

/// An error of SeaORM, as the driver would give it.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_mysql_mean_what_follows_from_them() {
        for (number, kind) in [
            // A Galera node that is not ready: another one may be.
            (1047, DbErrorKind::NotAccepting),
            // A conflict with another member of the group.
            (3101, DbErrorKind::Conflict),
            (1206, DbErrorKind::Exhausted),
            (1461, DbErrorKind::TooManyStatements),
        ] {
            assert_eq!(DbErrorKind::of_mysql(number), kind, "{number}");
        }
        assert!(DbErrorKind::NotAccepting.breaks_connection() && DbErrorKind::TooManyStatements.breaks_connection());
    }
}
