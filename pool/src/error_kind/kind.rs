//! Kinds of database errors, and how the pool reacts to each.

use std::fmt;

use serde::Serialize;

/// The kind of a database error. It decides whether the connection is closed and whether a retry can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub enum DbErrorKind {
    /// The connection was refused: nothing listens at the address.
    Refused,
    /// The host name cannot be resolved.
    NameResolution,
    /// TLS negotiation failed.
    Tls,
    /// The server rejected the user or the password.
    Authentication,
    /// The source of the password failed.
    PasswordUnavailable,
    /// The database does not exist, or the file is not a database.
    NoSuchDatabase,
    /// The server's configuration is not supported; the error message says what to change.
    Unsuitable,
    /// The server has reached its limit of connections.
    TooManyConnections,
    /// The server is starting up, shutting down or recovering.
    NotAccepting,
    /// The server terminated the connection.
    Terminated,
    /// The connection was lost.
    Lost,
    /// The server did not respond in time.
    Silent,
    /// The server is read-only: a replica, or a demoted primary.
    ReadOnly,
    /// A schema change invalidated a prepared statement.
    StalePlan,
    /// The server has reached its limit of prepared statements (`max_prepared_stmt_count`).
    TooManyStatements,
    /// A connection pooler rejected the statement, or mixed up the prepared statements of its clients.
    Pooler,
    /// The transaction conflicts with another one: deadlock, serialization failure or (MySQL) lock wait timeout.
    Conflict,
    /// The statement timed out or was cancelled.
    StatementTimeout,
    /// The disk is full.
    DiskFull,
    /// The server is temporarily out of another resource, such as memory or locks, or is busy.
    Exhausted,
    /// The database user lacks a privilege.
    PrivilegeMissing,
    /// The database's encoding cannot represent a text.
    Encoding,
    /// A statement or a value exceeds the server's size limit.
    TooLarge,
    /// A unique constraint was violated.
    UniqueViolation,
    /// Any other error in the statement, the schema or the data.
    Other,
}

impl DbErrorKind {
    /// Whether the connection on which it occurred must be closed.
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

    /// Whether the database rejects some statements and serves others until an operator intervenes.
    pub(crate) fn is_impairment(self) -> bool {
        matches!(self, Self::ReadOnly | Self::DiskFull | Self::TooManyStatements)
    }

    /// Whether the same request may succeed later, unchanged.
    #[must_use]
    pub fn is_transient(self) -> bool {
        !matches!(self, Self::PrivilegeMissing | Self::Encoding | Self::TooLarge | Self::UniqueViolation | Self::Other)
    }

    /// Whether the error is a response from a server.
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

    /// Whether retrying to connect cannot help: the server refuses until the settings change.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Authentication | Self::NoSuchDatabase | Self::Unsuitable)
    }

    /// Returns a description without names or addresses.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Refused => "the database refuses connections",
            Self::NameResolution => "the database's host name cannot be resolved",
            Self::Tls => "TLS negotiation with the database failed",
            Self::PasswordUnavailable => "the password for the database cannot be read",
            Self::Authentication => "the database rejected the user or the password",
            Self::NoSuchDatabase => "the database does not exist",
            Self::Unsuitable => "the configuration of the database is not supported",
            Self::TooManyConnections => "the database has reached its connection limit",
            Self::NotAccepting => "the database is starting up, shutting down or recovering",
            Self::Terminated => "the database terminated the connection",
            Self::Lost => "the connection to the database was lost",
            Self::Silent => "the database does not respond",
            Self::ReadOnly => "the database is read-only",
            Self::StalePlan => "a schema change invalidated a prepared statement",
            Self::TooManyStatements => "the database has reached its limit of prepared statements",
            Self::Pooler => {
                "a connection pooler in front of the database rejected the statement; use session mode, or PgBouncer \
                 1.21 or later with max_prepared_statements above 0, and a URL without startup options"
            }
            Self::Conflict => "the transaction conflicts with another one",
            Self::StatementTimeout => "the statement timed out or was cancelled",
            Self::DiskFull => "the database's disk is full",
            Self::Exhausted => "the database is temporarily out of resources",
            Self::PrivilegeMissing => "the database user lacks a privilege",
            Self::Encoding => "the database's encoding cannot represent a text",
            Self::TooLarge => "the statement exceeds the database's size limit",
            Self::UniqueViolation => "a unique constraint was violated",
            Self::Other => "the database returned an error",
        }
    }
}

impl fmt::Display for DbErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}
