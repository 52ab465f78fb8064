//! What an operation leaves on its connection: nothing.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use orm_pool::{Connection, DbErrorKind, Error, PoolOptions};
use sea_orm::{ConnectionTrait, Statement, TransactionSession, TransactionTrait};
use tokio::sync::{Mutex, oneshot};

use test_support::{
    Engine,
    bare::{end, pool, read, run},
    cases, connect, number,
};

use crate::Context;

cases![
    a_failed_transaction_is_not_taken_for_committed,
    a_failure_before_a_transaction_does_not_fail_it,
    a_write_that_fails_at_its_end_is_not_taken_for_done,
    a_dropped_savepoint_is_undone,
    a_dropped_statement_does_not_answer_the_next_one,
    a_dropped_begin_leaves_no_transaction_open,
    a_clone_that_was_kept_is_of_no_use,
];

async fn a_failed_transaction_is_not_taken_for_committed(context: Context) {
    let pool = pool(&context, PoolOptions::default()).await;
    // The body overlooks an error. PostgreSQL answers the COMMIT of such a transaction politely, and rolls back.
    let careless = |tx: Connection| async move {
        tx.execute_unprepared("UPDATE t SET n = 7").await?;
        let _ = tx.execute_unprepared("INSERT INTO t VALUES (1, 1)").await;
        Ok::<_, Error>(())
    };
    let outcome = pool.transaction("test.careless", careless).await;
    let expected = if context.engine() == Engine::Postgres { 0 } else { 7 };
    assert_eq!(outcome.is_ok(), context.engine() != Engine::Postgres, "{outcome:?}");
    assert_eq!(read(&pool, "SELECT MAX(n) FROM t").await, expected);
    end(pool).await;
}

async fn a_dropped_savepoint_is_undone(context: Context) {
    let pool = pool(&context, PoolOptions::default()).await;
    pool.transaction("test.nested", |tx| async move {
        tx.execute_unprepared("UPDATE t SET n = 1 WHERE id = 1").await?;
        let inner = tx.begin().await?;
        inner.execute_unprepared("UPDATE t SET n = 9 WHERE id = 2").await?;
        drop(inner);
        let inner = tx.begin().await?;
        inner.execute_unprepared("UPDATE t SET n = n + 1 WHERE id = 1").await?;
        inner.commit().await?;
        Ok::<_, Error>(())
    })
    .await
    .unwrap();
    assert_eq!(read(&pool, "SELECT n FROM t WHERE id = 1").await, 2);
    assert_eq!(read(&pool, "SELECT n FROM t WHERE id = 2").await, 0);
    // What failed inside the one that was dropped is undone with it, even when the commit is all that follows.
    pool.transaction("test.failed", |tx| async move {
        tx.execute_unprepared("UPDATE t SET n = 3 WHERE id = 1").await?;
        let inner = tx.begin().await?;
        assert!(inner.execute_unprepared("INSERT INTO t VALUES (1, 1)").await.is_err());
        drop(inner);
        Ok::<_, Error>(())
    })
    .await
    .unwrap();
    assert_eq!(read(&pool, "SELECT n FROM t WHERE id = 1").await, 3);
    // The same without a transaction of the pool's own around it.
    pool.write("test.dropped", |db| async move {
        let dropped = db.begin().await?;
        dropped.execute_unprepared("UPDATE t SET n = 9 WHERE id = 2").await?;
        drop(dropped);
        Ok::<_, Error>(())
    })
    .await
    .unwrap();
    assert_eq!(read(&pool, "SELECT n FROM t WHERE id = 2").await, 0);
    end(pool).await;
}

async fn a_dropped_statement_does_not_answer_the_next_one(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let pool = pool(&context, PoolOptions::default().max(1).min(1)).await;
    let sleep = if context.engine() == Engine::Postgres { "SELECT pg_sleep(2)" } else { "SELECT SLEEP(2)" };
    let dropped = pool
        .read("test.dropped", move |db| async move {
            let asked = db.execute_unprepared(sleep);
            assert!(tokio::time::timeout(Duration::from_millis(50), asked).await.is_err());
            Ok::<_, Error>(number(&db, "SELECT 1").await.is_err())
        })
        .await
        .unwrap();
    assert!(dropped, "what is on its way is the answer to another question");
    assert_eq!(read(&pool, "SELECT COUNT(*) FROM t").await, 2);
    assert_eq!(pool.snapshot().counters.closed_broken, 1);
    end(pool).await;
}

async fn a_failure_before_a_transaction_does_not_fail_it(context: Context) {
    let pool = pool(&context, PoolOptions::default()).await;
    pool.write("test.upsert", |db| async move {
        let taken = db.execute_unprepared("INSERT INTO t VALUES (1, 5)").await.unwrap_err();
        assert_eq!(DbErrorKind::of(&taken), DbErrorKind::UniqueViolation);
        let transaction = db.begin().await?;
        transaction.execute_unprepared("UPDATE t SET n = 5 WHERE id = 1").await?;
        transaction.commit().await?;
        Ok::<_, Error>(())
    })
    .await
    .unwrap();
    assert_eq!(read(&pool, "SELECT n FROM t WHERE id = 1").await, 5);
    end(pool).await;
}

/// SQLite commits a single statement when it is at its end, which is after its last row.
async fn a_write_that_fails_at_its_end_is_not_taken_for_done(context: Context) {
    if context.engine() != Engine::Sqlite {
        return;
    }
    let pool = pool(&context, PoolOptions::default()).await;
    run(&pool, "CREATE TABLE child (t INTEGER REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)").await;
    let insert = |db: Connection| async move {
        let sql = "INSERT INTO child VALUES (99) RETURNING t";
        let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await?;
        Ok::<_, Error>(row.is_some())
    };
    let outcome = pool.write("test.orphan", insert).await;
    assert_eq!(read(&pool, "SELECT COUNT(*) FROM child").await, 0);
    assert!(outcome.is_err(), "nothing was stored: {outcome:?}");
    end(pool).await;
}

async fn a_dropped_begin_leaves_no_transaction_open(context: Context) {
    let pool = pool(&context, PoolOptions::default().max(1).min(1)).await;
    pool.write("test.impatient", |db| async move {
        // On its way as a rule, and nobody waits for it. If it is there already, it is dropped.
        drop(db.begin().now_or_never());
        Ok::<_, Error>(())
    })
    .await
    .unwrap();
    run(&pool, "INSERT INTO t VALUES (3, 0)").await;
    let outside = connect(&context.last_database()).await;
    assert_eq!(number(&outside, "SELECT COUNT(*) FROM t").await.unwrap(), 3, "what was answered is stored");
    outside.close().await.unwrap();
    end(pool).await;
}

async fn a_clone_that_was_kept_is_of_no_use(context: Context) {
    let pool = pool(&context, PoolOptions::default().max(1).min(1)).await;
    let sleep = match context.engine() {
        Engine::Postgres => "SELECT pg_sleep(2)",
        Engine::MariaDb | Engine::MySql => "SELECT SLEEP(2)",
        Engine::Sqlite => {
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000000) SELECT MAX(i) FROM n"
        }
    };
    let (kept, keeps) = oneshot::channel();
    let kept = Arc::new(Mutex::new(Some(kept)));
    pool.read("test.kept", move |db| {
        let kept = Arc::clone(&kept);
        async move {
            let clone = db.clone();
            let (began, begins) = oneshot::channel();
            let slow = tokio::spawn(async move {
                let mut slow = Box::pin(clone.execute_unprepared(sleep));
                assert!(slow.as_mut().now_or_never().is_none());
                began.send(()).unwrap();
                let _ = slow.await;
                clone.execute_unprepared("UPDATE t SET n = 9").await.is_err()
            });
            begins.await.unwrap();
            kept.lock().await.take().unwrap().send(slow).unwrap();
            Ok::<_, Error>(())
        }
    })
    .await
    .unwrap();
    let slow = keeps.await.unwrap();
    assert!(slow.await.unwrap(), "the operation has ended");
    assert_eq!(read(&pool, "SELECT MAX(n) FROM t").await, 0);
    assert!(pool.status().total <= 1, "{:?}", pool.status());
    tokio::time::timeout(Duration::from_secs(30), end(pool)).await.unwrap();
}
