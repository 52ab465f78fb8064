//! What an operation is promised, on the pool itself: repeated where it is safe, and only there; done whole or not at all.

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
    conflicts_are_run_again,
    a_read_outlives_four_connections,
    a_transaction_whose_connection_dies_before_the_commit_is_run_again,
    a_transaction_whose_commit_was_sent_is_not_run_again,
    isolation_and_access_mode_reach_the_server,
    a_panic_costs_nobody_else_anything,
    plans_for_an_old_schema_cost_no_read,
    a_conflict_inside_a_savepoint_is_run_again,
];

fn serializable() -> TransactionOptions {
    TransactionOptions { isolation_level: Some(IsolationLevel::Serializable), ..TransactionOptions::default() }
}

/// Reads both rows, waits for the others to have read them as well, then counts one of them up.
async fn count_up(tx: Connection, row: i64, met: Option<Arc<Barrier>>) -> Result<(), Error> {
    let sum = number(&tx, "SELECT SUM(n) FROM t").await?;
    if let Some(met) = met {
        met.wait().await;
    }
    let sql = format!("UPDATE t SET n = {} WHERE id = {row}", sum + 1);
    tx.execute_unprepared(&sql).await?;
    Ok(())
}

async fn conflicts_are_run_again(context: Context) {
    if context.engine() == Engine::Sqlite {
        // One writer at a time: nothing stands in anybody's way.
        return;
    }
    let pool = pool(&context, PoolOptions::default().max(4)).await;
    // Both read both rows before either writes: a serializable database lets only one of them through. PostgreSQL fails
    // the other one (40001), at its update or at its commit; in MariaDB each waits for the other (1213).
    let met = Arc::new(Barrier::new(2));
    let both = [1, 2].map(|row| {
        let (pool, met, attempts) = (pool.clone(), Arc::clone(&met), AtomicU32::new(0));
        tokio::spawn(async move {
            let caller = RequestContext::new("test").timeout(Duration::from_secs(30));
            let body = move |tx| {
                let is_first = attempts.fetch_add(1, Ordering::Relaxed) == 0;
                count_up(tx, row, is_first.then(|| Arc::clone(&met)))
            };
            caller.scope(pool.transaction_with("test.count", serializable(), body)).await
        })
    });
    for one in both {
        one.await.unwrap().unwrap();
    }
    assert!(pool.snapshot().counters.retried_conflicts >= 1, "{:?}", pool.snapshot().counters);
    // One after the other they see 0 and then 1: one row has 1, the other 2.
    assert_eq!((read(&pool, "SELECT MIN(n) FROM t").await, read(&pool, "SELECT MAX(n) FROM t").await), (1, 2));
    end(pool).await;
}

async fn a_read_outlives_four_connections(context: Context) {
    let suicide = match context.engine() {
        Engine::Sqlite => return,
        Engine::Postgres => "SELECT pg_terminate_backend(pg_backend_pid())",
        Engine::MariaDb | Engine::MySql => "KILL CONNECTION_ID()",
    };
    let pool = pool(&context, PoolOptions::default().max(2)).await;
    for (deaths, survives) in [(4, true), (5, false)] {
        let attempts = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&attempts);
        let body = move |db: Connection| {
            let attempt = counted.fetch_add(1, Ordering::Relaxed);
            async move {
                if attempt < deaths {
                    db.execute_unprepared(suicide).await?;
                }
                Ok::<_, Error>(number(&db, "SELECT 1").await?)
            }
        };
        let answer = pool.read("test.read", body).await;
        assert_eq!(answer.is_ok(), survives, "after {deaths} deaths: {answer:?}");
        assert_eq!(attempts.load(Ordering::Relaxed), 5);
    }
    end(pool).await;
}

async fn a_transaction_whose_connection_dies_before_the_commit_is_run_again(context: Context) {
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
                    proxy.mend();
                }
                tx.execute_unprepared("INSERT INTO t VALUES (2, 2)").await?;
                Ok::<_, Error>(())
            }
        }
    };
    let caller = RequestContext::new("test").timeout(Duration::from_secs(30));
    caller.scope(pool.transaction("test.insert", body)).await.unwrap();
    assert!(attempts.load(Ordering::Relaxed) >= 2);
    assert_eq!(read(&pool, "SELECT COUNT(*) FROM t").await, 2, "once, and whole");
    end(pool).await;
}

async fn a_transaction_whose_commit_was_sent_is_not_run_again(context: Context) {
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
    let overlooks = context.engine().is_mysql_like();
    let body = {
        let (proxy, attempts) = (Arc::clone(&proxy), Arc::clone(&attempts));
        move |tx: Connection| {
            let proxy = Arc::clone(&proxy);
            attempts.fetch_add(1, Ordering::Relaxed);
            async move {
                if overlooks {
                    // An error that the body can live with makes the commit no less of one.
                    assert!(tx.execute_unprepared("INSERT INTO one VALUES (1)").await.is_err());
                }
                tx.execute_unprepared("INSERT INTO t VALUES (1)").await?;
                proxy.mute();
                Ok::<_, Error>(())
            }
        }
    };
    let committing = {
        let pool = pool.clone();
        tokio::spawn(async move {
            let caller = RequestContext::new("test").timeout(Duration::from_secs(30));
            caller.scope(pool.transaction("test.insert", body)).await
        })
    };
    let outside = connect(&direct).await;
    eventually("it is committed", || async {
        (number(&outside, "SELECT COUNT(*) FROM t").await.unwrap() == 1).then_some(())
    })
    .await;
    proxy.cut();
    proxy.mend();
    let outcome = committing.await.unwrap();
    assert!(outcome.is_err(), "nobody can know that it was committed");
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
    assert_eq!(number(&outside, "SELECT COUNT(*) FROM t").await.unwrap(), 1, "once");
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
        // Tested by what it does: see the conflicts above. SQLite is always serializable.
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
        assert_eq!(pool.impairment(), None, "the database would take writes");
        assert_eq!(pool.snapshot().counters.closed_broken, 0, "and the connection is as good as before");
    }
    assert_eq!(read(&pool, "SELECT MAX(n) FROM t").await, 0);
    end(pool).await;
}

async fn a_panic_costs_nobody_else_anything(context: Context) {
    let pool = pool(&context, PoolOptions::default().max(1).min(1)).await;
    let opened = pool.snapshot().counters.opened;
    let bug = |tx: Connection| async move {
        tx.execute_unprepared("UPDATE t SET n = 9").await?;
        Ok::<_, Error>("x".parse::<u8>().expect("a bug"))
    };
    let failed = pool.transaction("test.bug", bug).await.unwrap_err();
    assert!(matches!(failed, Error::Panicked { operation: "test.bug" }), "{failed:?}");
    assert_eq!(read(&pool, "SELECT MAX(n) FROM t").await, 0, "its transaction was rolled back");
    assert_eq!(pool.snapshot().counters.opened, opened, "and its connection is as good as before");
    end(pool).await;
}

async fn plans_for_an_old_schema_cost_no_read(context: Context) {
    if context.engine() == Engine::Sqlite {
        // sqlx 0.9 loses its worker over a `SELECT *` whose columns have become more, and gives no rows and no error.
        // SeaORM names its columns.
        return;
    }
    let pool = pool(&context, PoolOptions::default().max(8).min(8)).await;
    let all = async || {
        // Eight at the same time, so that each connection prepares the statement.
        let met = Arc::new(Barrier::new(8));
        let reads = (0..8).map(|_| {
            let met = Arc::clone(&met);
            pool.read("test.all", move |db| {
                let met = Arc::clone(&met);
                async move {
                    let statement = Statement::from_string(db.get_database_backend(), "SELECT * FROM t");
                    let rows = db.query_all_raw(statement).await;
                    let _ = tokio::time::timeout(Duration::from_secs(5), met.wait()).await;
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
    // One after the other, so that each would meet another connection that still knows the old schema.
    for _ in 0..3 {
        let rows = pool.read("test.all", |db| async move {
            let statement = Statement::from_string(db.get_database_backend(), "SELECT * FROM t");
            Ok::<_, Error>(db.query_all_raw(statement).await?.len())
        });
        assert_eq!(rows.await.unwrap(), 2, "nobody notices that the schema was changed");
    }
    end(pool).await;
}

async fn a_conflict_inside_a_savepoint_is_run_again(context: Context) {
    if context.engine() == Engine::Sqlite {
        // One writer at a time: nothing stands in anybody's way.
        return;
    }
    let pool = pool(&context, PoolOptions::default().max(4)).await;
    let met = Arc::new(Barrier::new(2));
    let both = [(); 2].map(|()| {
        let (pool, met, attempts) = (pool.clone(), Arc::clone(&met), AtomicU32::new(0));
        tokio::spawn(async move {
            let caller = RequestContext::new("test").timeout(Duration::from_secs(30));
            let body = move |tx: Connection| {
                let met = (attempts.fetch_add(1, Ordering::Relaxed) == 0).then(|| Arc::clone(&met));
                async move {
                    let inner = tx.begin().await?;
                    let sum = number(&inner, "SELECT SUM(n) FROM t").await?;
                    if let Some(met) = met {
                        met.wait().await;
                    }
                    // The same row: the second one finds it changed by the first, in PostgreSQL as well.
                    let update = format!("UPDATE t SET n = {} WHERE id = 1", sum + 1);
                    if let Err(error) = inner.execute_unprepared(&update).await {
                        // As SeaORM's own `transaction` does it.
                        inner.rollback().await?;
                        return Err(error.into());
                    }
                    inner.commit().await?;
                    Ok::<_, Error>(())
                }
            };
            caller.scope(pool.transaction_with("test.count", serializable(), body)).await
        })
    });
    for one in both {
        one.await.unwrap().unwrap();
    }
    assert!(pool.snapshot().counters.retried_conflicts >= 1, "{:?}", pool.snapshot().counters);
    assert_eq!(read(&pool, "SELECT n FROM t WHERE id = 1").await, 2, "once each");
    end(pool).await;
}
