//! Batches that fail: who gets the error, and what is tried again.

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
    batches::{BUG, Holder, SPOILER, asks, inserts, one, waits},
};

cases![
    one_that_fails_spoils_it_for_nobody,
    a_panic_spoils_it_for_nobody,
    one_that_is_blocked_blocks_no_other,
    retries_end_with_the_last_deadline,
    a_commit_without_an_answer_is_not_taken_apart,
    a_commit_that_is_refused_is_taken_apart,
    what_was_committed_past_the_pool_is_not_written_again,
    a_body_that_forgets_somebody_is_an_error,
];

/// Inserts (key, 1), all with one statement.
fn inserts_at_once(pool: &Pool) -> Batch<i64, ()> {
    pool.batch_writes("test.insert_at_once", |db: Connection, keys: Arc<[i64]>| async move {
        let rows: Vec<String> = keys.iter().map(|key| format!("({key}, 1)")).collect();
        db.execute_unprepared(&format!("INSERT INTO t VALUES {}", rows.join(", "))).await?;
        Ok(vec![(); keys.len()])
    })
}

async fn one_that_fails_spoils_it_for_nobody(context: Context) {
    let (pool, asked) = one(&context, PoolOptions::default()).await;
    let inserts = inserts(&pool, &asked);
    let holder = Holder::of(&pool).await;
    // 1 is in the table already.
    let keys = [10, 11, SPOILER, 12, 1, 13];
    let asking: Vec<_> = keys.iter().map(|key| asks(&inserts, *key)).collect();
    waits(&pool, 6).await;
    holder.let_go().await;
    for (key, outcome) in keys.into_iter().zip(asking) {
        let outcome = outcome.await.unwrap();
        match key {
            SPOILER | 1 => assert!(matches!(outcome, Err(Error::Database(_))), "{key}: {outcome:?}"),
            _ => outcome.unwrap(),
        }
    }
    assert_eq!(read(&pool, "SELECT COUNT(*) FROM t").await, 2 + 4, "each once");
    assert_eq!(asked.lock().unwrap()[0].len(), 6, "together at first");
    assert_eq!(asked.lock().unwrap().len(), 1 + 6, "then each for itself");
    end(pool).await;
}

async fn a_panic_spoils_it_for_nobody(context: Context) {
    let (pool, asked) = one(&context, PoolOptions::default()).await;
    let inserts = inserts(&pool, &asked);
    let holder = Holder::of(&pool).await;
    let asking: Vec<_> = [10, BUG, 11].iter().map(|key| asks(&inserts, *key)).collect();
    waits(&pool, 3).await;
    holder.let_go().await;
    let mut outcomes = Vec::new();
    for outcome in asking {
        outcomes.push(outcome.await.unwrap());
    }
    assert!(matches!(outcomes[1], Err(Error::Panicked { operation: "test.insert" })), "{outcomes:?}");
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    assert_eq!(read(&pool, "SELECT COUNT(*) FROM t").await, 2 + 2);
    end(pool).await;
}

async fn one_that_is_blocked_blocks_no_other(context: Context) {
    if context.engine() == Engine::Sqlite {
        // One writer at a time blocks all others.
        return;
    }
    let options = PoolOptions::default().max(4).statement_timeout(Duration::from_mins(1));
    let pool = pool(&context, options.acquire(Duration::from_secs(60))).await;
    let inserts = inserts_at_once(&pool);
    let outside = connect(&context.last_database()).await;
    outside.execute_unprepared("BEGIN").await.unwrap();
    outside.execute_unprepared("INSERT INTO t VALUES (50, 1)").await.unwrap();
    // The first of them sets off alone; the others share.
    let asking: Vec<_> = [40, 41, 50, 42, 43, 44].map(|key| (key, asks(&inserts, key))).into();
    let mut blocked = None;
    for (key, outcome) in asking {
        if key == 50 {
            blocked = Some(outcome);
            continue;
        }
        // Long before the statement that is blocked has to end.
        let served =
            tokio::time::timeout(Duration::from_secs(20), outcome).await.expect("it waits for the blocked one");
        served.unwrap().unwrap();
    }
    // All others were answered while it was blocked.
    let blocked = blocked.unwrap();
    assert!(!blocked.is_finished());
    outside.execute_unprepared("COMMIT").await.unwrap();
    outside.close().await.unwrap();
    let outcome = blocked.await.unwrap();
    assert!(matches!(outcome, Err(Error::Database(_))), "its key is taken: {outcome:?}");
    assert_eq!(read(&pool, "SELECT COUNT(*) FROM t").await, 2 + 6);
    if context.engine().is_mysql_like() {
        let own = connect(&context.last_database()).await;
        let expected = number(&own, "SELECT @@innodb_lock_wait_timeout").await.unwrap().min(61);
        own.close().await.unwrap();
        for _ in 0..4 {
            assert_eq!(read(&pool, "SELECT @@innodb_lock_wait_timeout").await, expected, "as before");
        }
    }
    end(pool).await;
}

async fn retries_end_with_the_last_deadline(context: Context) {
    let conflict = match context.engine() {
        // It has no statement that raises one.
        Engine::Sqlite => return,
        Engine::Postgres => "DO $$ BEGIN RAISE EXCEPTION SQLSTATE '40001'; END $$",
        Engine::MariaDb | Engine::MySql => "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213",
    };
    let (pool, _) = one(&context, PoolOptions::default()).await;
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    let fails = pool.batch_reads("test.fails", move |db: Connection, keys: Arc<[i64]>| {
        counted.fetch_add(usize::from(keys.len() > 1), Ordering::Relaxed);
        async move { db.execute_unprepared(conflict).await.map(|_| Vec::<i64>::new()) }
    });
    let holder = Holder::of(&pool).await;
    let asking: Vec<_> = (0..5)
        .map(|key| {
            let fails = fails.clone();
            let ask = async move { fails.load(key).await };
            tokio::spawn(RequestContext::new("hurried").timeout(Duration::from_millis(100)).scope(ask))
        })
        .collect();
    waits(&pool, 5).await;
    holder.let_go().await;
    for one in asking {
        assert!(one.await.unwrap().is_err());
    }
    // Ten attempts, with pauses up to 250 ms between them, take far longer than they have.
    let attempts = attempts.load(Ordering::Relaxed);
    assert!((1..10).contains(&attempts), "{attempts} attempts together");
    end(pool).await;
}

/// What was begun when the commit was sent is not begun again.
async fn a_commit_without_an_answer_is_not_taken_apart(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let direct = context.database().await;
    let (proxy, url) = Proxy::before(&direct).await;
    let options = PoolOptions::default().max(1).min(1).outage_wait(Duration::from_secs(30));
    let pool = pool_on(&url, options.acquire(Duration::from_secs(60))).await;
    run(&pool, "CREATE TABLE log (n INTEGER NOT NULL)").await;
    let proxy = Arc::new(proxy);
    let mutes = Arc::clone(&proxy);
    let inserts = pool.batch_writes("test.log", move |db: Connection, keys: Arc<[i64]>| {
        let proxy = Arc::clone(&mutes);
        async move {
            for key in keys.iter() {
                db.execute_unprepared(&format!("INSERT INTO log VALUES ({key})")).await?;
            }
            // The commit is done, and its answer does not arrive.
            proxy.mute();
            Ok(vec![(); keys.len()])
        }
    });
    let holder = Holder::of(&pool).await;
    let asking: Vec<_> = (0..5).map(|key| asks(&inserts, key)).collect();
    waits(&pool, 5).await;
    holder.let_go().await;
    let outside = connect(&direct).await;
    eventually("it is committed", || async {
        (number(&outside, "SELECT COUNT(*) FROM log").await.unwrap() == 5).then_some(())
    })
    .await;
    proxy.cut();
    proxy.mend();
    for one in asking {
        assert!(one.await.unwrap().is_err(), "nothing is known of it");
    }
    assert_eq!(number(&outside, "SELECT COUNT(*) FROM log").await.unwrap(), 5, "each once");
    outside.close().await.unwrap();
    end(pool).await;
}

/// A deferred constraint is checked at the commit: the server says for certain that nothing was kept.
async fn a_commit_that_is_refused_is_taken_apart(context: Context) {
    if context.engine().is_mysql_like() {
        return;
    }
    let (pool, _) = one(&context, PoolOptions::default()).await;
    run(&pool, "CREATE TABLE child (t INTEGER REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)").await;
    let inserts = pool.batch_writes("test.child", |db: Connection, keys: Arc<[i64]>| async move {
        for key in keys.iter() {
            db.execute_unprepared(&format!("INSERT INTO child VALUES ({key})")).await?;
        }
        Ok(vec![(); keys.len()])
    });
    let holder = Holder::of(&pool).await;
    let asking: Vec<_> = [1, 2, 99, 1, 2].map(|key| (key, asks(&inserts, key))).into();
    waits(&pool, 5).await;
    holder.let_go().await;
    for (key, outcome) in asking {
        assert_eq!(outcome.await.unwrap().is_ok(), key != 99, "{key}");
    }
    assert_eq!(read(&pool, "SELECT COUNT(*) FROM child").await, 4);
    end(pool).await;
}

async fn what_was_committed_past_the_pool_is_not_written_again(context: Context) {
    if !context.engine().is_mysql_like() {
        // Only MySQL and MariaDB commit implicitly.
        return;
    }
    let (pool, _) = one(&context, PoolOptions::default()).await;
    run(&pool, "CREATE TABLE log (n INTEGER NOT NULL)").await;
    let inserts = pool.batch_writes("test.log", |db: Connection, keys: Arc<[i64]>| async move {
        for key in keys.iter() {
            db.execute_unprepared(&format!("INSERT INTO log VALUES ({key})")).await?;
        }
        db.execute_unprepared(&format!("CREATE TABLE made_{} (n INTEGER)", keys[0])).await?;
        Err::<Vec<()>, _>(DbErr::Custom("enough".to_owned()))
    });
    let holder = Holder::of(&pool).await;
    let asking: Vec<_> = (0..3).map(|key| asks(&inserts, key)).collect();
    waits(&pool, 3).await;
    holder.let_go().await;
    for outcome in asking {
        assert!(outcome.await.unwrap().is_err());
    }
    assert_eq!(read(&pool, "SELECT COUNT(*) FROM log").await, 3);
    end(pool).await;
}

async fn a_body_that_forgets_somebody_is_an_error(context: Context) {
    let (pool, _) = one(&context, PoolOptions::default()).await;
    let forgets = pool.batch_reads("test.forgets", |_: Connection, keys: Arc<[i64]>| async move {
        Ok(keys.iter().skip(1).copied().collect::<Vec<_>>())
    });
    let holder = Holder::of(&pool).await;
    let asking: Vec<_> = (0..3).map(|key| asks(&forgets, key)).collect();
    waits(&pool, 3).await;
    holder.let_go().await;
    for one in asking {
        let error = one.await.unwrap().unwrap_err();
        assert!(matches!(&error, Error::Database(DbErr::Custom(_))), "{error:?}");
    }
    end(pool).await;
}
