//! Connections are clean between operations: no open transaction, no unread response, no use after the end.

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
    a_failed_transaction_is_not_reported_as_committed,
    an_error_before_a_transaction_does_not_fail_it,
    a_write_that_fails_after_its_last_row_is_an_error,
    a_dropped_savepoint_is_rolled_back,
    the_response_of_a_dropped_statement_is_not_read_by_the_next,
    a_dropped_begin_leaves_no_transaction_open,
    a_clone_cannot_be_used_after_its_operation,
];

async fn a_failed_transaction_is_not_reported_as_committed(context: Context) {
    let pool = pool(&context, PoolOptions::default()).await;
    // The body ignores an error. PostgreSQL then rolls back at the COMMIT, without an error.
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

async fn a_dropped_savepoint_is_rolled_back(context: Context) {
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
    // A failed statement inside a dropped savepoint is rolled back with it, even if the commit follows directly.
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
    // The same for a transaction inside an operation without one.
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

async fn the_response_of_a_dropped_statement_is_not_read_by_the_next(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let pool = pool(&context, PoolOptions::default().max(1).min(1)).await;
    let sleep = if context.engine() == Engine::Postgres { "SELECT pg_sleep(2)" } else { "SELECT SLEEP(2)" };
    let dropped = pool
        .read("test.dropped", move |db| async move {
            let slow = db.execute_unprepared(sleep);
            assert!(tokio::time::timeout(Duration::from_millis(50), slow).await.is_err());
            Ok::<_, Error>(number(&db, "SELECT 1").await.is_err())
        })
        .await
        .unwrap();
    assert!(dropped, "the next response belongs to the dropped statement");
    assert_eq!(read(&pool, "SELECT COUNT(*) FROM t").await, 2);
    assert_eq!(pool.snapshot().counters.closed_broken, 1);
    end(pool).await;
}

async fn an_error_before_a_transaction_does_not_fail_it(context: Context) {
    let pool = pool(&context, PoolOptions::default()).await;
    pool.write("test.upsert", |db| async move {
        let duplicate = db.execute_unprepared("INSERT INTO t VALUES (1, 5)").await.unwrap_err();
        assert_eq!(DbErrorKind::of(&duplicate), DbErrorKind::UniqueViolation);
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

/// SQLite commits a statement outside a transaction at its end, after its last row.
async fn a_write_that_fails_after_its_last_row_is_an_error(context: Context) {
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
        // Usually the BEGIN is still in flight when it is dropped; otherwise its transaction is dropped.
        drop(db.begin().now_or_never());
        Ok::<_, Error>(())
    })
    .await
    .unwrap();
    run(&pool, "INSERT INTO t VALUES (3, 0)").await;
    let outside = connect(&context.last_database()).await;
    assert_eq!(number(&outside, "SELECT COUNT(*) FROM t").await.unwrap(), 3, "the acknowledged row is stored");
    outside.close().await.unwrap();
    end(pool).await;
}

async fn a_clone_cannot_be_used_after_its_operation(context: Context) {
    let pool = pool(&context, PoolOptions::default().max(1).min(1)).await;
    let sleep = match context.engine() {
        Engine::Postgres => "SELECT pg_sleep(2)",
        Engine::MariaDb | Engine::MySql => "SELECT SLEEP(2)",
        Engine::Sqlite => {
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000000) SELECT MAX(i) FROM n"
        }
    };
    let (sender, receiver) = oneshot::channel();
    let sender = Arc::new(Mutex::new(Some(sender)));
    pool.read("test.kept", move |db| {
        let sender = Arc::clone(&sender);
        async move {
            let clone = db.clone();
            let (started, starts) = oneshot::channel();
            let slow = tokio::spawn(async move {
                let mut slow = Box::pin(clone.execute_unprepared(sleep));
                assert!(slow.as_mut().now_or_never().is_none());
                started.send(()).unwrap();
                let _ = slow.await;
                clone.execute_unprepared("UPDATE t SET n = 9").await.is_err()
            });
            starts.await.unwrap();
            sender.lock().await.take().unwrap().send(slow).unwrap();
            Ok::<_, Error>(())
        }
    })
    .await
    .unwrap();
    let slow = receiver.await.unwrap();
    assert!(slow.await.unwrap(), "a clone fails once its operation has ended");
    assert_eq!(read(&pool, "SELECT MAX(n) FROM t").await, 0);
    assert!(pool.status().total <= 1, "{:?}", pool.status());
    tokio::time::timeout(Duration::from_secs(30), end(pool)).await.unwrap();
}
