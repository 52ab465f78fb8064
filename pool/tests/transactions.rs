//! Transactions that the server has ended, or that an operation has begun with plain SQL.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use orm_pool::{Connection, Error, PoolOptions};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr, TransactionSession, TransactionTrait};
use test_support::{
    Engine, Proxy,
    bare::{end, pool, pool_on, read, run},
    cases, connect, number,
};
use tokio::sync::Notify;

use crate::Context;

cases![
    an_ignored_deadlock_is_retried,
    nothing_of_a_failed_attempt_is_committed,
    an_open_transaction_is_not_seen_by_the_next_operation,
    session_settings_are_not_seen_by_the_next_operation,
    a_transaction_is_not_retried_after_an_implicit_commit,
    a_savepoint_cannot_be_used_after_its_transaction,
    a_failed_commit_needs_no_rollback,
];

fn one_connection() -> PoolOptions {
    PoolOptions::default().max(1).min(1)
}

/// A deadlock between a transaction of the pool, which is the victim, and one of a direct connection. InnoDB rolls back
/// the victim's whole transaction, and autocommits the statements that follow.
#[derive(Default)]
struct Deadlock {
    reached: Notify,
    locked: Notify,
}

impl Deadlock {
    /// The part of the victim, which holds row 1 and requests row 2.
    async fn lose(&self, tx: &impl ConnectionTrait) -> Result<(), DbErr> {
        self.reached.notify_one();
        self.locked.notified().await;
        tx.execute_unprepared("UPDATE t SET n = n + 1 WHERE id = 2").await.map(drop)
    }

    /// The part of the winner, which holds row 2, requests row 1 and commits.
    async fn win(&self, outside: &DatabaseConnection) {
        self.reached.notified().await;
        outside.execute_unprepared("BEGIN").await.unwrap();
        // InnoDB chooses the transaction with fewer changes as the victim.
        for row in 10..60 {
            outside.execute_unprepared(&format!("INSERT INTO heavy VALUES ({row})")).await.unwrap();
        }
        outside.execute_unprepared("UPDATE t SET n = n + 10 WHERE id = 2").await.unwrap();
        self.locked.notify_one();
        outside.execute_unprepared("UPDATE t SET n = n + 10 WHERE id = 1").await.unwrap();
        outside.execute_unprepared("COMMIT").await.unwrap();
    }
}

async fn an_ignored_deadlock_is_retried(context: Context) {
    if !context.engine().is_mysql_like() {
        return;
    }
    let pool = pool(&context, PoolOptions::default()).await;
    run(&pool, "CREATE TABLE heavy (id INTEGER PRIMARY KEY)").await;
    let outside = connect(&context.last_database()).await;
    let (deadlock, attempts) = (Arc::new(Deadlock::default()), Arc::new(AtomicU32::new(0)));
    let careless = {
        let (deadlock, attempts) = (Arc::clone(&deadlock), Arc::clone(&attempts));
        move |tx: Connection| {
            let (deadlock, attempt) = (Arc::clone(&deadlock), attempts.fetch_add(1, Ordering::Relaxed) + 1);
            async move {
                tx.execute_unprepared("UPDATE t SET n = n + 1 WHERE id = 1").await?;
                if attempt == 1 {
                    let _ignored = deadlock.lose(&tx).await;
                } else {
                    tx.execute_unprepared("UPDATE t SET n = n + 1 WHERE id = 2").await?;
                }
                Ok::<_, Error>(())
            }
        }
    };
    let ((), outcome) = tokio::join!(deadlock.win(&outside), pool.transaction("test.careless", careless));
    outcome.unwrap();
    assert_eq!(attempts.load(Ordering::Relaxed), 2, "the whole transaction was retried");
    assert_eq!(read(&pool, "SELECT n FROM t WHERE id = 1").await, 11);
    assert_eq!(read(&pool, "SELECT n FROM t WHERE id = 2").await, 11);
    outside.close().await.unwrap();
    end(pool).await;
}

async fn nothing_of_a_failed_attempt_is_committed(context: Context) {
    if !context.engine().is_mysql_like() {
        return;
    }
    let pool = pool(&context, PoolOptions::default()).await;
    run(&pool, "CREATE TABLE heavy (id INTEGER PRIMARY KEY)").await;
    run(&pool, "CREATE TABLE log (attempt INTEGER, line INTEGER)").await;
    let outside = connect(&context.last_database()).await;
    let (deadlock, attempts) = (Arc::new(Deadlock::default()), AtomicU32::new(0));
    let import = {
        let deadlock = Arc::clone(&deadlock);
        move |tx: Connection| {
            let (deadlock, attempt) = (Arc::clone(&deadlock), attempts.fetch_add(1, Ordering::Relaxed) + 1);
            async move {
                tx.execute_unprepared("UPDATE t SET n = n + 1 WHERE id = 1").await?;
                for line in 1..=5 {
                    let deadlock = Arc::clone(&deadlock);
                    // An import that skips lines with errors.
                    let _skipped = tx
                        .transaction::<_, (), DbErr>(move |inner| {
                            Box::pin(async move {
                                if line == 3 && attempt == 1 {
                                    deadlock.lose(inner).await?;
                                }
                                let sql = format!("INSERT INTO log VALUES ({attempt}, {line})");
                                inner.execute_unprepared(&sql).await.map(drop)
                            })
                        })
                        .await;
                }
                Ok::<_, Error>(())
            }
        }
    };
    let ((), outcome) = tokio::join!(deadlock.win(&outside), pool.transaction("test.import", import));
    outcome.unwrap();
    assert_eq!(number(&outside, "SELECT COUNT(*) FROM log WHERE attempt = 1").await.unwrap(), 0, "it was rolled back");
    assert_eq!(number(&outside, "SELECT COUNT(*) FROM log WHERE attempt = 2").await.unwrap(), 5);
    assert_eq!(number(&outside, "SELECT n FROM t WHERE id = 1").await.unwrap(), 11);
    outside.close().await.unwrap();
    end(pool).await;
}

async fn an_open_transaction_is_not_seen_by_the_next_operation(context: Context) {
    let pool = pool(&context, one_connection()).await;
    let begin = if context.engine() == Engine::Sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" };
    let outside = connect(&context.last_database()).await;
    // On MySQL, creating the table was an implicit commit.
    let before = pool.snapshot().counters.closed_session_changed;
    for (count, returns_early) in [(1, true), (2, false)] {
        let outcome = pool
            .write("test.careless", move |db| async move {
                db.execute_unprepared(begin).await?;
                db.execute_unprepared("UPDATE t SET n = 9").await?;
                if returns_early {
                    return Err(Error::Database(DbErr::Custom("early".to_owned())));
                }
                Ok(())
            })
            .await;
        assert_eq!(outcome.is_err(), returns_early);
        run(&pool, "INSERT INTO t SELECT MAX(id) + 1, 0 FROM t").await;
        let stored = number(&outside, "SELECT COUNT(*) FROM t").await.unwrap();
        assert_eq!(stored, 2 + count, "acknowledged rows are stored");
        let closed = pool.snapshot().counters.closed_session_changed - before;
        assert_eq!(closed, u64::try_from(count).unwrap());
    }
    assert_eq!(number(&outside, "SELECT MAX(n) FROM t").await.unwrap(), 0, "uncommitted changes are not stored");
    outside.close().await.unwrap();
    end(pool).await;
}

async fn session_settings_are_not_seen_by_the_next_operation(context: Context) {
    let pool = pool(&context, one_connection()).await;
    let (set, query, expected) = match context.engine() {
        Engine::Sqlite => ("PRAGMA foreign_keys = 0", "SELECT foreign_keys FROM pragma_foreign_keys", 1),
        Engine::Postgres => {
            ("SET work_mem = '77kB'", "SELECT (setting = '77')::int FROM pg_settings WHERE name = 'work_mem'", 0)
        }
        Engine::MariaDb | Engine::MySql => ("SET autocommit = 0", "SELECT @@autocommit", 1),
    };
    pool.read("test.set", move |db| async move { Ok::<_, Error>(db.execute_unprepared(set).await.map(drop)?) })
        .await
        .unwrap();
    assert_eq!(read(&pool, query).await, expected);
    assert_eq!(pool.status().total, 1);
    end(pool).await;
}

async fn a_transaction_is_not_retried_after_an_implicit_commit(context: Context) {
    if !context.engine().is_mysql_like() {
        return;
    }
    let pool = pool(&context, one_connection()).await;
    let attempts = Arc::new(AtomicU32::new(0));
    let body = {
        let attempts = Arc::clone(&attempts);
        move |tx: Connection| {
            let attempt = attempts.fetch_add(1, Ordering::Relaxed);
            async move {
                tx.execute_unprepared(&format!("INSERT INTO t VALUES ({}, 1)", 10 + attempt)).await?;
                tx.execute_unprepared(&format!("CREATE TABLE other_{attempt} (id INTEGER)")).await?;
                tx.execute_unprepared("KILL CONNECTION_ID()").await?;
                tx.execute_unprepared("SELECT 1").await?;
                Ok::<_, Error>(())
            }
        }
    };
    let outcome = pool.transaction("test.implicit", body).await;
    assert!(outcome.is_err());
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
    assert_eq!(read(&pool, "SELECT COUNT(*) FROM t WHERE id >= 10").await, 1);
    end(pool).await;
}

async fn a_savepoint_cannot_be_used_after_its_transaction(context: Context) {
    let pool = pool(&context, one_connection()).await;
    pool.write("test.outlives", |db| async move {
        let outer = db.begin().await?;
        let (inner, dropped) = (outer.begin().await?, outer.begin().await?);
        outer.execute_unprepared("UPDATE t SET n = 1 WHERE id = 1").await?;
        outer.commit().await?;
        let late = inner.execute_unprepared("UPDATE t SET n = 2 WHERE id = 1").await;
        assert!(late.is_err(), "it would run outside a transaction");
        assert!(inner.begin().await.is_err());
        assert!(inner.commit().await.is_err());
        drop(dropped);
        // A later transaction is not affected.
        let next = db.begin().await?;
        next.execute_unprepared("UPDATE t SET n = n + 2 WHERE id = 1").await?;
        next.commit().await?;
        Ok::<_, Error>(())
    })
    .await
    .unwrap();
    assert_eq!(read(&pool, "SELECT n FROM t WHERE id = 1").await, 3);
    end(pool).await;
}

/// PostgreSQL has ended the transaction, and would log a warning about a ROLLBACK outside a transaction.
async fn a_failed_commit_needs_no_rollback(context: Context) {
    if context.engine() != Engine::Postgres {
        return;
    }
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let pool = pool_on(&url, one_connection()).await;
    run(&pool, "CREATE TABLE t (id INTEGER PRIMARY KEY)").await;
    run(&pool, "CREATE TABLE child (t INTEGER REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)").await;
    proxy.record();
    // A deferred constraint fails at the commit, as a serialization failure does.
    let orphan = |tx: Connection| async move {
        tx.execute_unprepared("INSERT INTO child VALUES (99)").await?;
        Ok::<_, Error>(())
    };
    assert!(pool.transaction("test.orphan", orphan).await.is_err());
    assert_eq!((proxy.sent("COMMIT"), proxy.sent("ROLLBACK")), (1, 0));
    assert_eq!(read(&pool, "SELECT COUNT(*) FROM child").await, 0);
    end(pool).await;
}
