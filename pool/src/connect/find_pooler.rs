//! Finds a connection pooler, such as PgBouncer, between the pool and PostgreSQL.
//!
//! A pooler does not say what it is, so it is found by what it does, once, on the first connection.

use std::time::Duration;

use sea_orm::sqlx::{
    self, AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _,
    postgres::{PgConnectOptions, PgConnection},
};
use tokio::time::timeout;

use super::pooler::Pooler;
use crate::error_kind::PoolError;

const MIXES_STATEMENTS: &str = "a connection pooler in transaction mode stands in between and mixes up prepared statements; \
    use its session mode, or PgBouncer 1.21 or later with max_prepared_statements above 0";

/// Others who use the same pooler can hide what it does from one comparison, and hardly from this many.
const COMPARISONS: usize = 4;
/// A pooler in session mode may have no second connection to give.
const COMPARISON_TIMEOUT: Duration = Duration::from_millis(500);

/// Finds a pooler in transaction mode.
///
/// # Errors
///
/// [`DbErrorKind::Unsuitable`](crate::DbErrorKind::Unsuitable) if there is one that prepared statements or transactions do not work with.
pub(super) async fn find(first: &mut PgConnection, address: &PgConnectOptions) -> Result<Option<Pooler>, sqlx::Error> {
    if !shares_sessions(first, address).await? {
        return Ok(None);
    }
    check_statements(first).await?;
    Ok(Some(Pooler::Transaction))
}

/// Whether two connections meet the same session of the server, or one meets several.
async fn shares_sessions(first: &mut PgConnection, address: &PgConnectOptions) -> Result<bool, sqlx::Error> {
    let Ok(Ok(mut second)) = timeout(COMPARISON_TIMEOUT, address.connect()).await else { return Ok(false) };
    let before = session_id(first).await?;
    let mut is_shared = false;
    for _ in 0..COMPARISONS {
        let Ok(Ok(others)) = timeout(COMPARISON_TIMEOUT, session_id(&mut second)).await else { return Ok(false) };
        let own = session_id(first).await?;
        is_shared = own != before || own == others;
        if is_shared {
            break;
        }
    }
    // A peer that does not hear it is as closed as one that does.
    let _ = timeout(COMPARISON_TIMEOUT, second.close()).await;
    Ok(is_shared)
}

async fn session_id(raw: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(raw).await?.try_get(0)
}

/// Whether the pooler gives each client's statements names of their own: the driver's names are the same on all connections.
async fn check_statements(raw: &mut PgConnection) -> Result<(), sqlx::Error> {
    let refused = |error: sqlx::Error| match error {
        sqlx::Error::Database(error) => PoolError::unsuitable(format!(
            "a connection pooler stands in between and refuses transactions ({}); use its session or transaction mode",
            error.message()
        )),
        error => error,
    };
    // Inside a transaction both statements meet the same session.
    sqlx::raw_sql("BEGIN").execute(&mut *raw).await.map_err(refused)?;
    let probe = format!("SELECT 1 AS orm_pool_{:x}", fastrand::u64(..));
    let is_named = match sqlx::query(AssertSqlSafe(probe.clone())).execute(&mut *raw).await {
        Ok(_) => {
            let sql = format!(
                "SELECT count(*) FROM pg_prepared_statements WHERE statement = '{probe}' AND name LIKE 'sqlx%'"
            );
            let found: i64 = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(&mut *raw).await?.try_get(0)?;
            raw.clear_cached_statements().await?;
            found == 0
        }
        // Another client's statement has the name.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P05") => false,
        Err(error) => return Err(error),
    };
    sqlx::raw_sql("ROLLBACK").execute(raw).await?;
    if is_named { Ok(()) } else { Err(PoolError::unsuitable(MIXES_STATEMENTS)) }
}
