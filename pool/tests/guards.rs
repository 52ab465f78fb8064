//! Connections that a caller holds: with a guard, and while it streams rows.

use std::time::Duration;

use futures_util::TryStreamExt;
use orm_pool::{Error, PoolOptions};
use sea_orm::{ConnectionTrait, Statement, StreamTrait, TransactionSession, TransactionTrait};
use test_support::{
    Engine, Proxy,
    bare::{end, pool, pool_on, read},
    cases, eventually, number,
};

use crate::Context;

cases![
    a_guard_returns_its_connection,
    a_dropped_guard_rolls_back,
    a_guard_inside_an_operation_is_refused,
    a_statement_of_a_guard_is_aborted_without_a_response,
    rows_are_streamed,
    rows_of_a_dropped_stream_are_not_read_by_the_next_statement,
];

fn one_connection() -> PoolOptions {
    PoolOptions::default().max(1).min(1)
}

async fn a_guard_returns_its_connection(context: Context) {
    let pool = pool(&context, one_connection()).await;
    let opened = pool.snapshot().counters.opened;
    for count in 0..10 {
        let connection = pool.acquire("test.guard").await.unwrap();
        assert_eq!(pool.snapshot().longest_holders[0].operation, "test.guard");
        let transaction = connection.begin().await.unwrap();
        transaction.execute_unprepared("UPDATE t SET n = n + 1 WHERE id = 1").await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(number(&connection, "SELECT n FROM t WHERE id = 1").await.unwrap(), count + 1);
    }
    assert_eq!(read(&pool, "SELECT n FROM t WHERE id = 1").await, 10);
    assert_eq!(pool.snapshot().counters.opened, opened, "the connection is reused");
    assert_eq!(pool.snapshot().counters.failed, 0);
    end(pool).await;
}

async fn a_dropped_guard_rolls_back(context: Context) {
    let pool = pool(&context, one_connection()).await;
    let connection = pool.acquire("test.guard").await.unwrap();
    let transaction = connection.begin().await.unwrap();
    transaction.execute_unprepared("UPDATE t SET n = 9").await.unwrap();
    let clone = (*connection).clone();
    // The guard is dropped before its transaction, which then has no connection.
    drop(connection);
    assert_eq!(read(&pool, "SELECT MAX(n) FROM t").await, 0);
    assert!(transaction.commit().await.is_err());
    assert!(clone.execute_unprepared("UPDATE t SET n = 9").await.is_err(), "the guard was dropped");
    assert_eq!(read(&pool, "SELECT MAX(n) FROM t").await, 0);
    end(pool).await;
}

async fn a_guard_inside_an_operation_is_refused(context: Context) {
    let pool = pool(&context, one_connection()).await;
    let inner = pool.clone();
    let refused = pool
        .read("test.outer", move |_| {
            let inner = inner.clone();
            async move { inner.acquire_reader("test.inner").await.map(drop) }
        })
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::Nested { operation: "test.inner", within: "test.outer" }), "{refused:?}");
    end(pool).await;
}

async fn a_statement_of_a_guard_is_aborted_without_a_response(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let options = PoolOptions::default().max(2).min(2).statement_timeout(Duration::from_secs(1));
    let pool = pool_on(&url, options).await;
    let connection = pool.acquire("test.guard").await.unwrap();
    assert_eq!(number(&connection, "SELECT 1").await.unwrap(), 1);
    proxy.stall();
    assert!(number(&connection, "SELECT 1").await.is_err(), "there is no response");
    drop(connection);
    eventually("its permit is released", || async { (pool.status().in_use == 0).then_some(()) }).await;
    assert_eq!(pool.snapshot().counters.stranded, 1);
    proxy.restore();
    eventually("the pool serves again", || async { pool.acquire_reader("test.guard").await.ok() }).await;
    end(pool).await;
}

/// A query that returns this many rows.
fn rows(context: &Context, count: u32) -> String {
    match context.engine() {
        Engine::Postgres => format!("SELECT i::bigint FROM generate_series(1, {count}) AS g (i)"),
        _ => format!(
            "WITH RECURSIVE g (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM g WHERE i < {count}) SELECT i FROM g"
        ),
    }
}

async fn rows_are_streamed(context: Context) {
    let pool = pool(&context, one_connection()).await;
    let sql = rows(&context, 900);
    let sum = pool
        .read("test.stream", move |db| {
            let statement = Statement::from_string(ConnectionTrait::get_database_backend(&db), sql.clone());
            async move {
                let mut rows = db.stream_raw(statement).await?;
                let mut sum = 0;
                while let Some(row) = rows.try_next().await? {
                    sum += row.try_get_by_index::<i64>(0).or_else(|_| row.try_get_by_index::<i32>(0).map(i64::from))?;
                }
                drop(rows);
                // The connection can be used again.
                Ok::<_, Error>((sum, number(&db, "SELECT 7").await?))
            }
        })
        .await
        .unwrap();
    assert_eq!(sum, (900 * 901 / 2, 7));
    let bad = Statement::from_string(pool_backend(&context), "SELECT * FROM nowhere");
    let connection = pool.acquire_reader("test.stream").await.unwrap();
    let failed = async { connection.stream_raw(bad).await?.try_next().await.map(drop) }.await;
    assert!(failed.is_err(), "errors of the query are returned");
    assert_eq!(number(&connection, "SELECT 7").await.unwrap(), 7);
    drop(connection);
    end(pool).await;
}

fn pool_backend(context: &Context) -> sea_orm::DbBackend {
    match context.engine() {
        Engine::Sqlite => sea_orm::DbBackend::Sqlite,
        Engine::Postgres => sea_orm::DbBackend::Postgres,
        Engine::MariaDb | Engine::MySql => sea_orm::DbBackend::MySql,
    }
}

async fn rows_of_a_dropped_stream_are_not_read_by_the_next_statement(context: Context) {
    let pool = pool(&context, one_connection()).await;
    let sql = rows(&context, 900);
    let next = pool
        .read("test.stream", move |db| {
            let statement = Statement::from_string(ConnectionTrait::get_database_backend(&db), sql.clone());
            async move {
                let mut rows = db.stream_raw(statement).await?;
                assert!(rows.try_next().await?.is_some());
                drop(rows);
                Ok::<_, Error>(number(&db, "SELECT 7").await.ok())
            }
        })
        .await
        .unwrap();
    assert!(next.is_none_or(|seven| seven == 7), "the response of another statement: {next:?}");
    assert_eq!(read(&pool, "SELECT 7").await, 7);
    end(pool).await;
}
