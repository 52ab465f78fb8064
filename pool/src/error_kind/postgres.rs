//! Classifies PostgreSQL errors by their SQLSTATE.

use sea_orm::sqlx::error::DatabaseError;
#[cfg(feature = "postgres")]
use sea_orm::sqlx::postgres::{PgDatabaseError, PgSeverity};

use super::kind::DbErrorKind;

/// Returns `None` for errors of other engines.
#[cfg(feature = "postgres")]
pub(super) fn kind(error: &dyn DatabaseError) -> Option<DbErrorKind> {
    let error = error.try_downcast_ref::<PgDatabaseError>()?;
    let code = error.code();
    let kind = match code {
        "3D000" => DbErrorKind::NoSuchDatabase,
        "53300" => DbErrorKind::TooManyConnections,
        "53100" => DbErrorKind::DiskFull,
        "57P03" => DbErrorKind::NotAccepting,
        "57P01" | "57P02" | "57P04" | "57P05" | "25P03" => DbErrorKind::Terminated,
        "57014" => DbErrorKind::StatementTimeout,
        "25006" => DbErrorKind::ReadOnly,
        // A prepared statement of that name already exists, or does not exist; most errors of PgBouncer itself are
        // 08P01.
        "42P05" | "26000" | "08P01" => DbErrorKind::Pooler,
        // "cached plan must not change result type".
        "0A000" if error.routine() == Some("RevalidateCachedQuery") => DbErrorKind::StalePlan,
        "40001" | "40P01" => DbErrorKind::Conflict,
        "55P03" => DbErrorKind::Exhausted,
        "42501" => DbErrorKind::PrivilegeMissing,
        "22021" | "22P05" => DbErrorKind::Encoding,
        "54000" => DbErrorKind::TooLarge,
        _ => match &code[..2.min(code.len())] {
            "08" => DbErrorKind::Lost,
            "28" => DbErrorKind::Authentication,
            "40" | "53" | "57" | "58" => DbErrorKind::Exhausted,
            _ if matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic) => DbErrorKind::Terminated,
            _ => DbErrorKind::Other,
        },
    };
    Some(kind)
}

#[cfg(not(feature = "postgres"))]
pub(super) fn kind(_: &dyn DatabaseError) -> Option<DbErrorKind> {
    None
}
