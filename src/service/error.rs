//! The errors of the use cases. The pool classifies database errors; what they mean to clients is decided here, and
//! only here: a unique violation by the name of its constraint.

use entity::users::EMAIL_KEY_INDEX;
use orm_pool::DbErrorKind;
use sea_orm::{
    DbErr, RuntimeErr, SqlxError, SqlxPostgresError, SqlxSqliteError,
    sqlx::error::{DatabaseError, ErrorKind},
};

use crate::domain::{Scope, Version};

/// Why a use case failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No user has this id.
    #[error("user not found")]
    NotFound,
    /// No API key has this id.
    #[error("API key not found")]
    KeyNotFound,
    /// The API key has been revoked or rotated, or has expired.
    #[error("API key inactive: revoked, rotated or expired")]
    KeyInactive,
    /// The caller would get a scope that it does not have.
    #[error("the caller lacks the scope {0}")]
    ScopesExceeded(Scope),
    /// Another user has this email.
    #[error("email already in use")]
    EmailTaken,
    /// The precondition does not hold for the user's version.
    #[error("precondition failed: the user is at version {current}")]
    PreconditionFailed {
        /// The user's version.
        current: Version,
    },
    /// Another writer changed the user between the read and the write.
    #[error("the user was changed concurrently")]
    VersionConflict,
    /// The idempotency key was already used for a different request.
    #[error("the idempotency key was already used for a different request")]
    KeyReused,
    /// A request with this idempotency key is in flight.
    #[error("a request with this idempotency key is in flight")]
    KeyInUse,
    /// The request cannot be served now. It may succeed later.
    #[error("{kind}")]
    Unavailable {
        /// Why it cannot be served.
        kind: Unavailable,
        /// The cause, for the log.
        #[source]
        source: Cause,
    },
    /// A bug or a misconfiguration.
    #[error("internal error")]
    Internal(#[source] Cause),
}

/// What the pool or the database reported, for the log. Other modules can only print it: its type is one of the ORM.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Cause(pub(super) orm_pool::Error);

/// Why a request cannot be served now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// No connection of the pool was available in time.
    #[error("no database connection is available")]
    PoolExhausted,
    /// The database is down, or cannot execute the operation now.
    #[error("the database is unavailable")]
    Database,
    /// The service is shutting down.
    #[error("the service is shutting down")]
    ShuttingDown,
}

impl From<orm_pool::Error> for Error {
    fn from(error: orm_pool::Error) -> Self {
        use orm_pool::{AcquireError, Error as Pool};
        let kind = match &error {
            Pool::Refused { reason: AcquireError::Closing, .. } | Pool::Closed => Unavailable::ShuttingDown,
            Pool::Refused { reason: AcquireError::Down { .. }, .. } | Pool::Aborted { .. } => Unavailable::Database,
            Pool::Refused { .. } => Unavailable::PoolExhausted,
            Pool::Database(cause) if is_email_taken(cause) => return Self::EmailTaken,
            Pool::Database(cause) if DbErrorKind::of(cause).is_transient() => Unavailable::Database,
            // Including `Nested` and `Panicked`.
            _ => return Self::Internal(Cause(error)),
        };
        Self::Unavailable { kind, source: Cause(error) }
    }
}

/// Returns the error of a request that the service cannot serve because it is shutting down.
#[must_use]
pub(crate) fn shutting_down() -> Error {
    orm_pool::Error::Closed.into()
}

/// Converts an error of the ORM, which no higher layer uses.
pub(super) fn database(error: DbErr) -> Error {
    orm_pool::Error::from(error).into()
}

fn is_email_taken(error: &DbErr) -> bool {
    let (DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error))) = error else {
        return false;
    };
    match error.as_ref() {
        SqlxError::Database(error) if error.kind() == ErrorKind::UniqueViolation => {
            violates(error.as_ref(), EMAIL_KEY_INDEX)
        }
        _ => false,
    }
}

/// Returns whether a unique violation is one of `index`.
fn violates(error: &dyn DatabaseError, index: &str) -> bool {
    if error.try_downcast_ref::<SqlxPostgresError>().is_some() {
        return error.constraint() == Some(index);
    }
    // MySQL's protocol has no field for the name of the key: `users::create` queries for the other user instead. SQLite
    // reports columns, not indexes. Code 2067 is a UNIQUE constraint, of which the table has one; a primary key is
    // 1555.
    error.try_downcast_ref::<SqlxSqliteError>().is_some() && error.code().as_deref() == Some("2067")
}
