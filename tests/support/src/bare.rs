//! Helpers for tests that use a pool without the service. The table `t (id, n)` has two rows.

use std::time::Duration;

use orm_pool::{DatabaseUrl, DbErrorKind, Error, Pool, PoolOptions};
use sea_orm::ConnectionTrait;

use crate::{Databases, number};

pub async fn pool_on(url: &str, options: PoolOptions) -> Pool {
    Pool::connect(&DatabaseUrl::parse(url).unwrap(), &options).await.unwrap()
}

pub async fn pool(databases: &Databases, options: PoolOptions) -> Pool {
    let pool = pool_on(&databases.database().await, options).await;
    create_table(&pool).await;
    pool
}

pub async fn create_table(pool: &Pool) {
    run(pool, "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)").await;
    run(pool, "INSERT INTO t VALUES (1, 0), (2, 0)").await;
}

pub async fn run(pool: &Pool, sql: &'static str) {
    pool.write("test.run", move |db| async move { Ok::<_, Error>(db.execute_unprepared(sql).await.map(drop)?) })
        .await
        .unwrap();
}

pub async fn write(pool: &Pool, sql: String) -> Result<(), Error> {
    pool.write("test.write", move |db| {
        let sql = sql.clone();
        async move { Ok(db.execute_unprepared(&sql).await.map(drop)?) }
    })
    .await
}

/// The kind of a database error; panics on success and on any other error.
pub fn db_error_kind<T: std::fmt::Debug>(outcome: Result<T, Error>) -> DbErrorKind {
    match outcome.unwrap_err() {
        Error::Database(error) => DbErrorKind::of(&error),
        other => panic!("not a database error: {other:?}"),
    }
}

pub async fn read(pool: &Pool, sql: &'static str) -> i64 {
    pool.read("test.read", move |db| async move { Ok::<_, Error>(number(&db, sql).await?) }).await.unwrap()
}

/// Runs the operation `test.inner` inside the operation `test.outer`, and returns its error.
pub async fn nested_operation_error(pool: &Pool) -> Error {
    let inner = pool.clone();
    let refused = pool.read("test.outer", move |_| {
        let inner = inner.clone();
        async move { inner.read("test.inner", |_| async { Ok::<_, Error>(()) }).await }
    });
    refused.await.unwrap_err()
}

pub async fn end(pool: Pool) {
    pool.close(Duration::from_secs(10)).await.unwrap();
}
