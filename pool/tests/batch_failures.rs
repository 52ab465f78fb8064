//! Batches that fail: which requests get the error, and what is retried.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use orm_pool::{Batch, Connection, Error, Pool, PoolOptions, RequestContext};
use sea_orm::{ConnectionTrait, DbErr};
use test_support::{
    Engine, Proxy,
    bare::{end, pool, pool_on, read, run},
    cases, connect, eventually, number,
};

use crate::{
    Context,
    batches::{HeldConnection, INVALID_KEY, PANICKING_KEY, await_waiting, inserts, pool_of_one, spawn_load},
};

cases![
    a_failed_batch_is_retried_individually,
    a_panic_fails_only_its_request,
    a_blocked_key_delays_no_other_key,
    retries_end_at_the_latest_deadline,
    a_commit_without_a_response_is_not_retried,
    a_failed_commit_is_retried_individually,
    an_implicit_commit_prevents_the_retry,
    too_few_results_are_an_error,
];

/// Inserts (key, 1) for all keys with one statement.
fn multi_row_inserts(pool: &Pool) -> Batch<i64, ()> {
    pool.batch_writes("test.insert_at_once", |db: Connection, keys: Arc<[i64]>| async move {
        let rows: Vec<String> = keys.iter().map(|key| format!("({key}, 1)")).collect();
        db.execute_unprepared(&format!("INSERT INTO t VALUES {}", rows.join(", "))).await?;
        Ok(vec![(); keys.len()])
    })
}

async fn a_failed_batch_is_retried_individually(context: Context) {
    let (pool, statements) = pool_of_one(&context, PoolOptions::default()).await;
    let inserts = inserts(&pool, &statements);
    let holder = HeldConnection::of(&pool).await;
    // Key 1 exists already.
    let keys = [10, 11, INVALID_KEY, 12, 1, 13];
    let loads: Vec<_> = keys.iter().map(|key| spawn_load(&inserts, *key)).collect();
    await_waiting(&pool, 6).await;
    holder.release().await;
    for (key, outcome) in keys.into_iter().zip(loads) {
        let outcome = outcome.await.unwrap();
        match key {
            INVALID_KEY | 1 => assert!(matches!(outcome, Err(Error::Database(_))), "{key}: {outcome:?}"),
            _ => outcome.unwrap(),
        }
    }
    assert_eq!(read(&pool, "SELECT COUNT(*) FROM t").await, 2 + 4, "each key is inserted once");
    assert_eq!(statements.lock().unwrap()[0].len(), 6, "one batch at first");
    assert_eq!(statements.lock().unwrap().len(), 1 + 6, "then each request alone");
    end(pool).await;
}

async fn a_panic_fails_only_its_request(context: Context) {
    let (pool, statements) = pool_of_one(&context, PoolOptions::default()).await;
    let inserts = inserts(&pool, &statements);
    let holder = HeldConnection::of(&pool).await;
    let loads: Vec<_> = [10, PANICKING_KEY, 11].iter().map(|key| spawn_load(&inserts, *key)).collect();
    await_waiting(&pool, 3).await;
    holder.release().await;
    let mut outcomes = Vec::new();
    for outcome in loads {
        outcomes.push(outcome.await.unwrap());
    }
    assert!(matches!(outcomes[1], Err(Error::Panicked { operation: "test.insert" })), "{outcomes:?}");
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    assert_eq!(read(&pool, "SELECT COUNT(*) FROM t").await, 2 + 2);
    end(pool).await;
}

async fn a_blocked_key_delays_no_other_key(context: Context) {
    if context.engine() == Engine::Sqlite {
        // SQLite has a single writer, which blocks all others.
        return;
    }
    let options = PoolOptions::default().max(4).statement_timeout(Duration::from_mins(1));
    let pool = pool(&context, options.acquire(Duration::from_secs(60))).await;
    let inserts = multi_row_inserts(&pool);
    let outside = connect(&context.last_database()).await;
    outside.execute_unprepared("BEGIN").await.unwrap();
    outside.execute_unprepared("INSERT INTO t VALUES (50, 1)").await.unwrap();
    // The first request runs alone; the others form a batch.
    let loads: Vec<_> = [40, 41, 50, 42, 43, 44].map(|key| (key, spawn_load(&inserts, key))).into();
    let mut blocked = None;
    for (key, outcome) in loads {
        if key == 50 {
            blocked = Some(outcome);
            continue;
        }
        // Long before the blocked statement times out.
        let served =
            tokio::time::timeout(Duration::from_secs(20), outcome).await.expect("it waits for the blocked key");
        served.unwrap().unwrap();
    }
    // All others have completed while it was blocked.
    let blocked = blocked.unwrap();
    assert!(!blocked.is_finished());
    outside.execute_unprepared("COMMIT").await.unwrap();
    outside.close().await.unwrap();
    let outcome = blocked.await.unwrap();
    assert!(matches!(outcome, Err(Error::Database(_))), "its key exists: {outcome:?}");
    assert_eq!(read(&pool, "SELECT COUNT(*) FROM t").await, 2 + 6);
    if context.engine().is_mysql_like() {
        let direct = connect(&context.last_database()).await;
        let expected = number(&direct, "SELECT @@innodb_lock_wait_timeout").await.unwrap().min(61);
        direct.close().await.unwrap();
        for _ in 0..4 {
            assert_eq!(read(&pool, "SELECT @@innodb_lock_wait_timeout").await, expected, "it is restored");
        }
    }
    end(pool).await;
}

async fn retries_end_at_the_latest_deadline(context: Context) {
    let conflict = match context.engine() {
        // No statement raises a conflict in SQLite.
        Engine::Sqlite => return,
        Engine::Postgres => "DO $$ BEGIN RAISE EXCEPTION SQLSTATE '40001'; END $$",
        Engine::MariaDb | Engine::MySql => "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213",
    };
    let (pool, _) = pool_of_one(&context, PoolOptions::default()).await;
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    let fails = pool.batch_reads("test.fails", move |db: Connection, keys: Arc<[i64]>| {
        counted.fetch_add(usize::from(keys.len() > 1), Ordering::Relaxed);
        async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            db.execute_unprepared(conflict).await.map(|_| Vec::<i64>::new())
        }
    });
    let holder = HeldConnection::of(&pool).await;
    let loads: Vec<_> = (0..5)
        .map(|key| {
            let fails = fails.clone();
            let load = async move { fails.load(key).await };
            // Long enough for all five to be queued on a busy machine.
            tokio::spawn(RequestContext::new("hurried").timeout(Duration::from_secs(3)).scope(load))
        })
        .collect();
    await_waiting(&pool, 5).await;
    holder.release().await;
    for load in loads {
        assert!(load.await.unwrap().is_err());
    }
    // Ten attempts of 500 ms take longer than the deadline.
    let attempts = attempts.load(Ordering::Relaxed);
    assert!((1..10).contains(&attempts), "{attempts} attempts of the batch");
    end(pool).await;
}

/// The batch is not retried once its commit was sent.
async fn a_commit_without_a_response_is_not_retried(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let direct = context.database().await;
    let (proxy, url) = Proxy::before(&direct).await;
    let options = PoolOptions::default().max(1).min(1).outage_wait(Duration::from_secs(30));
    let pool = pool_on(&url, options.acquire(Duration::from_secs(60))).await;
    run(&pool, "CREATE TABLE log (n INTEGER NOT NULL)").await;
    let proxy = Arc::new(proxy);
    let holding = Arc::clone(&proxy);
    let inserts = pool.batch_writes("test.log", move |db: Connection, keys: Arc<[i64]>| {
        let proxy = Arc::clone(&holding);
        async move {
            for key in keys.iter() {
                db.execute_unprepared(&format!("INSERT INTO log VALUES ({key})")).await?;
            }
            // The commit succeeds, and its response does not arrive.
            proxy.hold_responses();
            Ok(vec![(); keys.len()])
        }
    });
    let holder = HeldConnection::of(&pool).await;
    let loads: Vec<_> = (0..5).map(|key| spawn_load(&inserts, key)).collect();
    await_waiting(&pool, 5).await;
    holder.release().await;
    let outside = connect(&direct).await;
    eventually("the batch is committed", || async {
        (number(&outside, "SELECT COUNT(*) FROM log").await.unwrap() == 5).then_some(())
    })
    .await;
    proxy.cut();
    proxy.restore();
    for load in loads {
        assert!(load.await.unwrap().is_err(), "the outcome is unknown");
    }
    assert_eq!(number(&outside, "SELECT COUNT(*) FROM log").await.unwrap(), 5, "each key is inserted once");
    outside.close().await.unwrap();
    end(pool).await;
}

/// A deferred constraint is checked at the commit: its error proves that nothing was stored.
async fn a_failed_commit_is_retried_individually(context: Context) {
    if context.engine().is_mysql_like() {
        return;
    }
    let (pool, _) = pool_of_one(&context, PoolOptions::default()).await;
    run(&pool, "CREATE TABLE child (t INTEGER REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)").await;
    let inserts = pool.batch_writes("test.child", |db: Connection, keys: Arc<[i64]>| async move {
        for key in keys.iter() {
            db.execute_unprepared(&format!("INSERT INTO child VALUES ({key})")).await?;
        }
        Ok(vec![(); keys.len()])
    });
    let holder = HeldConnection::of(&pool).await;
    let loads: Vec<_> = [1, 2, 99, 1, 2].map(|key| (key, spawn_load(&inserts, key))).into();
    await_waiting(&pool, 5).await;
    holder.release().await;
    for (key, outcome) in loads {
        assert_eq!(outcome.await.unwrap().is_ok(), key != 99, "{key}");
    }
    assert_eq!(read(&pool, "SELECT COUNT(*) FROM child").await, 4);
    end(pool).await;
}

async fn an_implicit_commit_prevents_the_retry(context: Context) {
    if !context.engine().is_mysql_like() {
        // Only MySQL and MariaDB commit implicitly.
        return;
    }
    let (pool, _) = pool_of_one(&context, PoolOptions::default()).await;
    run(&pool, "CREATE TABLE log (n INTEGER NOT NULL)").await;
    let inserts = pool.batch_writes("test.log", |db: Connection, keys: Arc<[i64]>| async move {
        for key in keys.iter() {
            db.execute_unprepared(&format!("INSERT INTO log VALUES ({key})")).await?;
        }
        db.execute_unprepared(&format!("CREATE TABLE made_{} (n INTEGER)", keys[0])).await?;
        Err::<Vec<()>, _>(DbErr::Custom("failed after the commit".to_owned()))
    });
    let holder = HeldConnection::of(&pool).await;
    let loads: Vec<_> = (0..3).map(|key| spawn_load(&inserts, key)).collect();
    await_waiting(&pool, 3).await;
    holder.release().await;
    for outcome in loads {
        assert!(outcome.await.unwrap().is_err());
    }
    assert_eq!(read(&pool, "SELECT COUNT(*) FROM log").await, 3);
    end(pool).await;
}

async fn too_few_results_are_an_error(context: Context) {
    let (pool, _) = pool_of_one(&context, PoolOptions::default()).await;
    let too_few = pool.batch_reads("test.too_few", |_: Connection, keys: Arc<[i64]>| async move {
        Ok(keys.iter().skip(1).copied().collect::<Vec<_>>())
    });
    let holder = HeldConnection::of(&pool).await;
    let loads: Vec<_> = (0..3).map(|key| spawn_load(&too_few, key)).collect();
    await_waiting(&pool, 3).await;
    holder.release().await;
    for load in loads {
        let error = load.await.unwrap().unwrap_err();
        assert!(matches!(&error, Error::Database(DbErr::Custom(_))), "{error:?}");
    }
    end(pool).await;
}
