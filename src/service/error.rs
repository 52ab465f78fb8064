//! What can go wrong in a use case. What an error means to the pool, the pool says; what it means to users is decided
//! here, keyed, by constraint name.

use entity::users::EMAIL_KEY_INDEX;
use orm_pool::DbErrorKind;
use sea_orm::{
    DbErr, RuntimeErr, SqlxError, SqlxPostgresError, SqlxSqliteError,
    sqlx::error::{DatabaseError, ErrorKind},
};

use crate::domain::Version;

/// Why a use case gave no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such user.
    #[error("there is no such user")]
    NotFound,
    /// Another user has the email.
    #[error("another user has this email")]
    EmailTaken,
    /// The user is not at a version that the caller asks for.
    #[error("the user is at another version")]
    PreconditionFailed {
        /// The version that it is at.
        current: Version,
    },
    /// The user was changed by another writer between reading and writing.
    #[error("the user was changed meanwhile")]
    VersionConflict,
    /// The key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The request with this key is still under way.
    #[error("the request with this idempotency key is still under way")]
    KeyInUse,
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
        use orm_pool::{AcquireError, Error as Pool};
        let kind = match &error {
            Pool::Refused { reason: AcquireError::Closing, .. } | Pool::Closed => Unavailable::ShuttingDown,
            Pool::Refused { reason: AcquireError::Down { .. }, .. } | Pool::Abandoned { .. } => Unavailable::Database,
            Pool::Refused { .. } => Unavailable::PoolExhausted,
            Pool::Database(cause) if is_email_taken(cause) => return Self::EmailTaken,
            Pool::Database(cause) if DbErrorKind::of(cause).is_transient() => Unavailable::Database,
            // Among them `Nested` and `Panicked`.
            _ => return Self::Internal(error),
        };
        Self::Unavailable { kind, source: error }
    }
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

/// Whether a unique violation is that of `index`.
fn violates(error: &dyn DatabaseError, index: &str) -> bool {
    if error.try_downcast_ref::<SqlxPostgresError>().is_some() {
        return error.constraint() == Some(index);
    }
    // MySQL's protocol has no field for the key's name: `users::create` asks for it.
    // SQLite names columns, not indexes. 2067 is a UNIQUE constraint and the table has one; a primary key is 1555.
    error.try_downcast_ref::<SqlxSqliteError>().is_some() && error.code().as_deref() == Some("2067")
}
