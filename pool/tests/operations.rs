//! Guarantees of an operation: it is retried only if that is safe, and it is atomic.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use orm_pool::{Connection, DbErrorKind, Error, PoolOptions, RequestContext};
use sea_orm::{
    AccessMode, ConnectionTrait, IsolationLevel, Statement, TransactionOptions, TransactionSession, TransactionTrait,
};
use tokio::sync::Barrier;

use test_support::{
    Engine, Proxy,
    bare::{end, pool, pool_on, read, run},
    cases, connect, eventually, number,
};

use crate::Context;

cases![
    conflicts_are_retried,
    a_read_survives_four_broken_connections,
    a_transaction_is_retried_if_its_connection_breaks_before_the_commit,
    a_transaction_is_not_retried_after_its_commit_was_sent,
    isolation_and_access_mode_reach_the_server,
    a_panic_rolls_back_and_keeps_the_connection,
    reads_succeed_after_a_schema_change,
    a_conflict_inside_a_savepoint_is_retried,
];

fn serializable() -> TransactionOptions {
    TransactionOptions { isolation_level: Some(IsolationLevel::Serializable), ..TransactionOptions::default() }
}

/// Reads both rows, waits until the other transaction has read them as well, then updates one of them.
async fn update_sum(tx: Connection, row: i64, barrier: Option<Arc<Barrier>>) -> Result<(), Error> {
    let sum = number(&tx, "SELECT SUM(n) FROM t").await?;
    if let Some(barrier) = barrier {
        barrier.wait().await;
    }
    let sql = format!("UPDATE t SET n = {} WHERE id = {row}", sum + 1);
    tx.execute_unprepared(&sql).await?;
    Ok(())
}

async fn conflicts_are_retried(context: Context) {
    if context.engine() == Engine::Sqlite {
        // One writer at a time: there are no conflicts.
        return;
    }
    let pool = pool(&context, PoolOptions::default().max(4)).await;
    // Both read both rows before either writes: a serializable database lets only one of them through. PostgreSQL fails
    // the other one (40001), at its update or at its commit; in MariaDB each waits for the other (1213).
    let barrier = Arc::new(Barrier::new(2));
    let both = [1, 2].map(|row| {
        let (pool, barrier, attempts) = (pool.clone(), Arc::clone(&barrier), AtomicU32::new(0));
        tokio::spawn(async move {
            let request = RequestContext::new("test").timeout(Duration::from_secs(30));
            let body = move |tx| {
                let is_first = attempts.fetch_add(1, Ordering::Relaxed) == 0;
                update_sum(tx, row, is_first.then(|| Arc::clone(&barrier)))
            };
            request.scope(pool.transaction_with("test.count", serializable(), body)).await
        })
    });
    for transaction in both {
        transaction.await.unwrap().unwrap();
    }
    assert!(pool.snapshot().counters.retried_conflicts >= 1, "{:?}", pool.snapshot().counters);
    // As if they ran in sequence, the sums are 0 and 1: one row is 1, the other 2.
    assert_eq!((read(&pool, "SELECT MIN(n) FROM t").await, read(&pool, "SELECT MAX(n) FROM t").await), (1, 2));
    end(pool).await;
}

async fn a_read_survives_four_broken_connections(context: Context) {
    let kill_self = match context.engine() {
        Engine::Sqlite => return,
        Engine::Postgres => "SELECT pg_terminate_backend(pg_backend_pid())",
        Engine::MariaDb | Engine::MySql => "KILL CONNECTION_ID()",
    };
    let pool = pool(&context, PoolOptions::default().max(2)).await;
    for (failures, succeeds) in [(4, true), (5, false)] {
        let attempts = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&attempts);
        let body = move |db: Connection| {
            let attempt = counted.fetch_add(1, Ordering::Relaxed);
            async move {
                if attempt < failures {
                    db.execute_unprepared(kill_self).await?;
                }
                Ok::<_, Error>(number(&db, "SELECT 1").await?)
            }
        };
        let outcome = pool.read("test.read", body).await;
        assert_eq!(outcome.is_ok(), succeeds, "after {failures} broken connections: {outcome:?}");
        assert_eq!(attempts.load(Ordering::Relaxed), 5);
    }
    end(pool).await;
}

async fn a_transaction_is_retried_if_its_connection_breaks_before_the_commit(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let options = PoolOptions::default().max(2).outage_wait(Duration::from_secs(30));
    let pool = pool_on(&url, options).await;
    run(&pool, "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)").await;
    let proxy = Arc::new(proxy);
    let attempts = Arc::new(AtomicU32::new(0));
    let body = {
        let (proxy, attempts) = (Arc::clone(&proxy), Arc::clone(&attempts));
        move |tx: Connection| {
            let (proxy, attempt) = (Arc::clone(&proxy), attempts.fetch_add(1, Ordering::Relaxed));
            async move {
                tx.execute_unprepared("INSERT INTO t VALUES (1, 1)").await?;
                if attempt == 0 {
                    proxy.cut();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    proxy.restore();
                }
                tx.execute_unprepared("INSERT INTO t VALUES (2, 2)").await?;
                Ok::<_, Error>(())
            }
        }
    };
    let request = RequestContext::new("test").timeout(Duration::from_secs(30));
    request.scope(pool.transaction("test.insert", body)).await.unwrap();
    assert!(attempts.load(Ordering::Relaxed) >= 2);
    assert_eq!(read(&pool, "SELECT COUNT(*) FROM t").await, 2, "committed once");
    end(pool).await;
}

async fn a_transaction_is_not_retried_after_its_commit_was_sent(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let direct = context.database().await;
    let (proxy, url) = Proxy::before(&direct).await;
    let options = PoolOptions::default().max(2).outage_wait(Duration::from_secs(30));
    let pool = pool_on(&url, options).await;
    run(&pool, "CREATE TABLE t (n INTEGER NOT NULL)").await;
    run(&pool, "CREATE TABLE one (id INTEGER PRIMARY KEY)").await;
    run(&pool, "INSERT INTO one VALUES (1)").await;
    let (proxy, attempts) = (Arc::new(proxy), Arc::new(AtomicU32::new(0)));
    let ignores_error = context.engine().is_mysql_like();
    let body = {
        let (proxy, attempts) = (Arc::clone(&proxy), Arc::clone(&attempts));
        move |tx: Connection| {
            let proxy = Arc::clone(&proxy);
            attempts.fetch_add(1, Ordering::Relaxed);
            async move {
                if ignores_error {
                    // An error that the body ignores does not change the outcome of the commit.
                    assert!(tx.execute_unprepared("INSERT INTO one VALUES (1)").await.is_err());
                }
                tx.execute_unprepared("INSERT INTO t VALUES (1)").await?;
                proxy.hold_responses();
                Ok::<_, Error>(())
            }
        }
    };
    let committing = {
        let pool = pool.clone();
        tokio::spawn(async move {
            let request = RequestContext::new("test").timeout(Duration::from_secs(30));
            request.scope(pool.transaction("test.insert", body)).await
        })
    };
    let outside = connect(&direct).await;
    eventually("the transaction is committed", || async {
        (number(&outside, "SELECT COUNT(*) FROM t").await.unwrap() == 1).then_some(())
    })
    .await;
    proxy.cut();
    proxy.restore();
    let outcome = committing.await.unwrap();
    assert!(outcome.is_err(), "the outcome of the commit is unknown");
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
    assert_eq!(number(&outside, "SELECT COUNT(*) FROM t").await.unwrap(), 1, "committed once");
    outside.close().await.unwrap();
    end(pool).await;
}

async fn isolation_and_access_mode_reach_the_server(context: Context) {
    let pool = pool(&context, PoolOptions::default()).await;
    let read_only = TransactionOptions { access_mode: Some(AccessMode::ReadOnly), ..TransactionOptions::default() };
    match context.engine() {
        Engine::Postgres => {
            let level = pool
                .transaction_with("test.level", serializable(), |tx| async move {
                    let row = Statement::from_string(tx.get_database_backend(), "SHOW transaction_isolation");
                    Ok::<_, Error>(tx.query_one_raw(row).await?.unwrap().try_get_by_index::<String>(0)?)
                })
                .await
                .unwrap();
            assert_eq!(level, "serializable");
        }
        // `conflicts_are_retried` tests the effect. SQLite is always serializable.
        Engine::MariaDb | Engine::MySql | Engine::Sqlite => {}
    }
    if context.engine() != Engine::Sqlite {
        let write = |tx: Connection| async move {
            tx.execute_unprepared("UPDATE t SET n = 5").await?;
            Ok::<_, Error>(())
        };
        let refused = pool.transaction_with("test.write", read_only, write).await.unwrap_err();
        assert!(
            matches!(&refused, Error::Database(error) if DbErrorKind::of(error) == DbErrorKind::ReadOnly),
            "{refused:?}"
        );
        assert_eq!(pool.impairment(), None, "the database itself accepts writes");
        assert_eq!(pool.snapshot().counters.closed_broken, 0, "the connection is kept");
    }
    assert_eq!(read(&pool, "SELECT MAX(n) FROM t").await, 0);
    end(pool).await;
}

async fn a_panic_rolls_back_and_keeps_the_connection(context: Context) {
    let pool = pool(&context, PoolOptions::default().max(1).min(1)).await;
    let opened = pool.snapshot().counters.opened;
    let bug = |tx: Connection| async move {
        tx.execute_unprepared("UPDATE t SET n = 9").await?;
        Ok::<_, Error>("x".parse::<u8>().expect("a bug"))
    };
    let failed = pool.transaction("test.bug", bug).await.unwrap_err();
    assert!(matches!(failed, Error::Panicked { operation: "test.bug" }), "{failed:?}");
    assert_eq!(read(&pool, "SELECT MAX(n) FROM t").await, 0, "its transaction was rolled back");
    assert_eq!(pool.snapshot().counters.opened, opened, "its connection is kept");
    end(pool).await;
}

async fn reads_succeed_after_a_schema_change(context: Context) {
    if context.engine() == Engine::Sqlite {
        // In sqlx 0.9, a cached `SELECT *` that gains columns ends the SQLite worker, and returns no rows and no error.
        // SeaORM lists its columns.
        return;
    }
    let pool = pool(&context, PoolOptions::default().max(8).min(8)).await;
    let all = async || {
        // Eight at the same time, so that each connection prepares the statement.
        let barrier = Arc::new(Barrier::new(8));
        let reads = (0..8).map(|_| {
            let barrier = Arc::clone(&barrier);
            pool.read("test.all", move |db| {
                let barrier = Arc::clone(&barrier);
                async move {
                    let statement = Statement::from_string(db.get_database_backend(), "SELECT * FROM t");
                    let rows = db.query_all_raw(statement).await;
                    let _ = tokio::time::timeout(Duration::from_secs(5), barrier.wait()).await;
                    Ok::<_, Error>(rows?.len())
                }
            })
        });
        futures_util::future::join_all(reads).await
    };
    for rows in all().await {
        assert_eq!(rows.unwrap(), 2);
    }
    run(&pool, "ALTER TABLE t ADD COLUMN m INTEGER").await;
    // In sequence, so that each read may use another connection whose plans are for the old schema.
    for _ in 0..3 {
        let rows = pool.read("test.all", |db| async move {
            let statement = Statement::from_string(db.get_database_backend(), "SELECT * FROM t");
            Ok::<_, Error>(db.query_all_raw(statement).await?.len())
        });
        assert_eq!(rows.await.unwrap(), 2, "the schema change is not visible to reads");
    }
    end(pool).await;
}

async fn a_conflict_inside_a_savepoint_is_retried(context: Context) {
    if context.engine() == Engine::Sqlite {
        // One writer at a time: there are no conflicts.
        return;
    }
    let pool = pool(&context, PoolOptions::default().max(4)).await;
    let barrier = Arc::new(Barrier::new(2));
    let both = [(); 2].map(|()| {
        let (pool, barrier, attempts) = (pool.clone(), Arc::clone(&barrier), AtomicU32::new(0));
        tokio::spawn(async move {
            let request = RequestContext::new("test").timeout(Duration::from_secs(30));
            let body = move |tx: Connection| {
                let barrier = (attempts.fetch_add(1, Ordering::Relaxed) == 0).then(|| Arc::clone(&barrier));
                async move {
                    let inner = tx.begin().await?;
                    let sum = number(&inner, "SELECT SUM(n) FROM t").await?;
                    if let Some(barrier) = barrier {
                        barrier.wait().await;
                    }
                    // The same row: the second transaction conflicts with the first, in PostgreSQL as well.
                    let update = format!("UPDATE t SET n = {} WHERE id = 1", sum + 1);
                    if let Err(error) = inner.execute_unprepared(&update).await {
                        // As SeaORM's `transaction` does.
                        inner.rollback().await?;
                        return Err(error.into());
                    }
                    inner.commit().await?;
                    Ok::<_, Error>(())
                }
            };
            request.scope(pool.transaction_with("test.count", serializable(), body)).await
        })
    });
    for transaction in both {
        transaction.await.unwrap().unwrap();
    }
    assert!(pool.snapshot().counters.retried_conflicts >= 1, "{:?}", pool.snapshot().counters);
    assert_eq!(read(&pool, "SELECT n FROM t WHERE id = 1").await, 2, "each committed once");
    end(pool).await;
}
