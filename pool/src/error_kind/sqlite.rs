//! Classifies SQLite errors by their result code.

#[cfg(feature = "sqlite")]
use sea_orm::sqlx::sqlite::SqliteError;
use sea_orm::sqlx::{self, error::DatabaseError};

use super::kind::DbErrorKind;

/// Returns `None` for errors of other engines.
pub(super) fn kind(error: &dyn DatabaseError) -> Option<DbErrorKind> {
    primary_code(error).map(of_code)
}

/// Whether SQLite rolled the transaction back, or may have: interrupted, out of memory, I/O error, disk full.
pub(super) fn ends_transaction(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => matches!(primary_code(error.as_ref()), Some(7 | 9 | 10 | 13)),
        _ => false,
    }
}

/// Returns the primary result code, which is the low byte of the extended one.
#[cfg(feature = "sqlite")]
fn primary_code(error: &dyn DatabaseError) -> Option<u32> {
    error.try_downcast_ref::<SqliteError>()?;
    Some(error.code()?.parse::<u32>().ok()? & 0xff)
}

#[cfg(not(feature = "sqlite"))]
fn primary_code(_: &dyn DatabaseError) -> Option<u32> {
    None
}

fn of_code(code: u32) -> DbErrorKind {
    match code {
        5 | 6 | 9 => DbErrorKind::Exhausted,
        8 => DbErrorKind::ReadOnly,
        10 => DbErrorKind::Lost,
        13 => DbErrorKind::DiskFull,
        14 | 26 => DbErrorKind::NoSuchDatabase,
        18 => DbErrorKind::TooLarge,
        _ => DbErrorKind::Other,
    }
}
