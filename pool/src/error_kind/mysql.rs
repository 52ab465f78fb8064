//! Classifies MySQL and MariaDB errors by their number.

#[cfg(feature = "mysql")]
use sea_orm::sqlx::mysql::MySqlDatabaseError;
use sea_orm::sqlx::{self, error::DatabaseError};

use super::kind::DbErrorKind;

/// Returns `None` for errors of other engines.
pub(super) fn kind(error: &dyn DatabaseError) -> Option<DbErrorKind> {
    server_number(error).map(of_number)
}

/// Returns the error number, if a MySQL or MariaDB server reported the error.
pub(crate) fn number(error: &sqlx::Error) -> Option<u16> {
    match error {
        sqlx::Error::Database(error) => server_number(error.as_ref()),
        _ => None,
    }
}

/// Whether the server interrupted the statement: by `KILL QUERY`, or because the whole session is being killed.
pub(crate) fn is_interrupted(error: &sqlx::Error) -> bool {
    number(error) == Some(1317)
}

/// Whether InnoDB rolled the transaction back for a reason other than a conflict: its lock table is full.
pub(super) fn ends_transaction(error: &sqlx::Error) -> bool {
    number(error) == Some(1206)
}

#[cfg(feature = "mysql")]
fn server_number(error: &dyn DatabaseError) -> Option<u16> {
    error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}

#[cfg(not(feature = "mysql"))]
fn server_number(_: &dyn DatabaseError) -> Option<u16> {
    None
}

fn of_number(number: u16) -> DbErrorKind {
    match number {
        1040 | 1203 | 1226 => DbErrorKind::TooManyConnections,
        // The last two: the password has expired, the account is locked.
        1044 | 1045 | 1698 | 1862 | 3118 => DbErrorKind::Authentication,
        1049 => DbErrorKind::NoSuchDatabase,
        // The last two: a Galera node is not ready for queries, or lost the cluster before a commit.
        1053 | 1077 | 1079 | 3032 | 1047 | 1180 => DbErrorKind::NotAccepting,
        // Killed; disconnected by an administrator or for inactivity (MySQL 8).
        1927 | 3169 | 4031 => DbErrorKind::Terminated,
        1142 | 1143 | 1227 | 1370 => DbErrorKind::PrivilegeMissing,
        // The server closes the connection as well.
        1153 => DbErrorKind::TooLarge,
        1042 | 1043 | 1129 | 1130 | 1152 | 1154..=1161 => DbErrorKind::Lost,
        1290 | 1836 | 1792 => DbErrorKind::ReadOnly,
        // Lock wait timeout; deadlock; row newer than the snapshot (MariaDB 11.6); conflict with another group member
        // (MySQL).
        1205 | 1213 | 1020 | 3101 => DbErrorKind::Conflict,
        1317 | 1969 | 3024 => DbErrorKind::StatementTimeout,
        1021 | 1114 => DbErrorKind::DiskFull,
        1300 | 1366 | 3988 => DbErrorKind::Encoding,
        // Out of memory, file handles or locks.
        1028 | 1037..=1039 | 1041 | 1206 => DbErrorKind::Exhausted,
        1461 => DbErrorKind::TooManyStatements,
        _ => DbErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_numbers_map_to_kinds() {
        for (number, kind) in [
            // A Galera node that is not ready; another one may be.
            (1047, DbErrorKind::NotAccepting),
            // A commit without the cluster: "provider status: Not connected to Primary Component".
            (1180, DbErrorKind::NotAccepting),
            // A conflict with another group member.
            (3101, DbErrorKind::Conflict),
            (1206, DbErrorKind::Exhausted),
            (1461, DbErrorKind::TooManyStatements),
        ] {
            assert_eq!(of_number(number), kind, "{number}");
        }
        assert!(DbErrorKind::NotAccepting.breaks_connection() && DbErrorKind::TooManyStatements.breaks_connection());
    }
}
