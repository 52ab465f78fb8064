//! Features of PostgreSQL: `cargo run -p orm-pool --example postgres postgres://USER@HOST/DATABASE`.
#![expect(clippy::print_stdout, reason = "examples print their results")]

use std::time::Duration;

use futures_util::TryStreamExt;
use orm_pool::{Connection, DatabaseUrl, Error, Pool, PoolOptions};
use sea_orm::{ConnectionTrait, DbBackend, IsolationLevel, Statement, StreamTrait, TransactionOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).ok_or("usage: postgres postgres://USER@HOST/DATABASE")?;
    let pool = Pool::builder(&DatabaseUrl::parse(&url)?)
        .options(PoolOptions::default().max(10).min(2).statement_timeout(Duration::from_secs(10)))
        .map_sqlx_postgres_opts(|options| options.statement_cache_capacity(200))
        // Runs on every new connection, before its first operation.
        .after_connect(|connection| {
            Box::pin(async move { connection.execute_unprepared("SET work_mem = '8MB'").await.map(drop) })
        })
        .connect()
        .await?;
    pool.write("counters.create", |db| async move {
        db.execute_unprepared(
            "CREATE TABLE IF NOT EXISTS orm_pool_counters (name text PRIMARY KEY, n bigint NOT NULL)",
        )
        .await?;
        Ok::<_, Error>(())
    })
    .await?;

    // The body is retried after serialization failures (40001) and deadlocks (40P01), also at the commit.
    let serializable =
        TransactionOptions { isolation_level: Some(IsolationLevel::Serializable), ..TransactionOptions::default() };
    let count = |tx: Connection| async move {
        tx.execute_unprepared(
            "INSERT INTO orm_pool_counters VALUES ('runs', 1) ON CONFLICT (name) DO UPDATE SET n = orm_pool_counters.n + 1",
        )
        .await?;
        Ok::<_, Error>(())
    };
    pool.transaction_with("counters.count", serializable, count).await?;

    // Streams rows on a connection that is held until it is dropped.
    let connection = pool.acquire_reader("counters.list").await?;
    let all = Statement::from_string(DbBackend::Postgres, "SELECT name, n FROM orm_pool_counters");
    let mut rows = connection.stream_raw(all).await?;
    while let Some(row) = rows.try_next().await? {
        println!("{} = {}", row.try_get::<String>("", "name")?, row.try_get::<i64>("", "n")?);
    }
    drop(rows);
    drop(connection);
    Ok(pool.close(Duration::from_secs(5)).await?)
}
