//! Detects a connection pooler, such as PgBouncer, between the pool and PostgreSQL.
//!
//! A pooler does not identify itself, so the first connection detects it by its behavior.

use std::time::Duration;

use sea_orm::sqlx::{
    self, AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _,
    postgres::{PgConnectOptions, PgConnection},
};
use tokio::time::timeout;

use super::pooler::Pooler;
use crate::error_kind::PoolError;

const MIXES_UP_STATEMENTS: &str = "a connection pooler in front of the database uses transaction mode and mixes up \
    prepared statements; use its session mode, or PgBouncer 1.21 or later with max_prepared_statements above 0";

/// Other clients of the pooler can hide its behavior from one comparison, but hardly from this many.
const COMPARISONS: usize = 4;
/// A pooler in session mode may have no second connection to offer.
const COMPARISON_TIMEOUT: Duration = Duration::from_millis(500);

/// Detects a pooler in transaction mode.
///
/// # Errors
///
/// [`DbErrorKind::Unsuitable`](crate::DbErrorKind::Unsuitable) if prepared statements or transactions do not work
/// through the pooler.
pub(super) async fn find(first: &mut PgConnection, address: &PgConnectOptions) -> Result<Option<Pooler>, sqlx::Error> {
    if !shares_sessions(first, address).await? {
        return Ok(None);
    }
    check_prepared_statements(first).await?;
    Ok(Some(Pooler::Transaction))
}

/// Whether two connections use the same session of the server, or one uses several.
async fn shares_sessions(first: &mut PgConnection, address: &PgConnectOptions) -> Result<bool, sqlx::Error> {
    let Ok(Ok(mut second)) = timeout(COMPARISON_TIMEOUT, address.connect()).await else { return Ok(false) };
    let initial_id = session_id(first).await?;
    let mut is_shared = false;
    for _ in 0..COMPARISONS {
        let Ok(Ok(second_id)) = timeout(COMPARISON_TIMEOUT, session_id(&mut second)).await else { return Ok(false) };
        let first_id = session_id(first).await?;
        is_shared = first_id != initial_id || first_id == second_id;
        if is_shared {
            break;
        }
    }
    // Best effort: if this fails, dropping the connection closes it.
    let _ = timeout(COMPARISON_TIMEOUT, second.close()).await;
    Ok(is_shared)
}

async fn session_id(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(connection).await?.try_get(0)
}

/// Checks that the pooler gives the prepared statements of each client separate names: the driver uses the same names
/// on all connections.
async fn check_prepared_statements(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let refused = |error: sqlx::Error| match error {
        sqlx::Error::Database(error) => PoolError::unsuitable(format!(
            "a connection pooler in front of the database rejects transactions ({}); use its session or transaction \
             mode",
            error.message()
        )),
        error => error,
    };
    // Inside a transaction both statements run in the same session.
    sqlx::raw_sql("BEGIN").execute(&mut *connection).await.map_err(refused)?;
    let probe = format!("SELECT 1 AS orm_pool_{:x}", fastrand::u64(..));
    let is_renamed = match sqlx::query(AssertSqlSafe(probe.clone())).execute(&mut *connection).await {
        Ok(_) => {
            let sql = format!(
                "SELECT count(*) FROM pg_prepared_statements WHERE statement = '{probe}' AND name LIKE 'sqlx%'"
            );
            let found: i64 = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(&mut *connection).await?.try_get(0)?;
            connection.clear_cached_statements().await?;
            found == 0
        }
        // Another client's statement already has this name.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P05") => false,
        Err(error) => return Err(error),
    };
    sqlx::raw_sql("ROLLBACK").execute(connection).await?;
    if is_renamed { Ok(()) } else { Err(PoolError::unsuitable(MIXES_UP_STATEMENTS)) }
}
