//! The kinds of database errors, and what follows from each.

use std::fmt;

use serde::Serialize;

/// What an error of the database means for the caller and for the pool.
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
    /// A connection pooler refused the statement, or confused the prepared statements of its clients.
    Pooler,
    /// The transaction was rolled back because of another one: deadlock or serialization failure.
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

    /// Whether an operator has to fix the database.
    pub(crate) fn is_impairment(self) -> bool {
        matches!(self, Self::ReadOnly | Self::DiskFull | Self::TooManyStatements)
    }

    /// Whether the same request may succeed later, unchanged.
    #[must_use]
    pub fn is_transient(self) -> bool {
        !matches!(self, Self::PrivilegeMissing | Self::Encoding | Self::TooLarge | Self::UniqueViolation | Self::Other)
    }

    /// Whether a server responded, with whatever error.
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
            Self::Tls => "no secure connection to the database",
            Self::Authentication => "the database does not accept the user or the password",
            Self::NoSuchDatabase => "the database does not exist",
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

impl fmt::Display for DbErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}
