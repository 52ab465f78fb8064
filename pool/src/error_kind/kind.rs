//! The kinds of database errors, and what follows from each.

use std::fmt;

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

impl fmt::Display for DbErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}
