//! Operations that share a statement, on the pool itself.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use orm_pool::{AcquireError, Batch, Connection, Error, Pool, PoolOptions, RequestContext};
use sea_orm::{ConnectionTrait, DbErr};
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinHandle,
};

use test_support::{
    Engine, Proxy,
    bare::{end, pool, pool_on, read, run},
    cases, connect, eventually, number,
};

use crate::Context;

cases![
    those_who_wait_share_one_statement,
    a_batch_has_a_bound,
    one_that_fails_spoils_it_for_nobody,
    a_panic_spoils_it_for_nobody,
    who_has_gone_is_left_out,
    limits_hold_for_each_one,
    alone_if_so_wanted,
    nobody_is_answered_before_the_commit,
    a_read_never_shares_what_began_before_it,
    a_slow_statement_is_not_waited_for,
    those_who_wait_are_told_that_the_pool_closes,
    a_body_that_forgets_somebody_is_an_error,
    one_that_is_blocked_blocks_no_other,
    retries_end_with_the_last_deadline,
    different_keys_of_a_coalesced_read_do_not_wait_for_each_other,
    a_commit_without_an_answer_is_not_taken_apart,
    a_commit_that_is_refused_is_taken_apart,
    what_was_committed_past_the_pool_is_not_written_again,
];

/// What was asked for, statement by statement.
type Asked = Arc<Mutex<Vec<Vec<i64>>>>;

/// Reads of ten times the key, one statement for all of them.
fn tens(pool: &Pool, asked: &Asked) -> Batch<i64, i64> {
    let asked = Arc::clone(asked);
    pool.batch_reads("test.tens", move |db: Connection, keys: Arc<[i64]>| {
        asked.lock().unwrap().push(keys.to_vec());
        async move {
            let ten = number(&db, "SELECT 10").await?;
            Ok(keys.iter().map(|key| key * ten).collect())
        }
    })
}

/// Inserts (key, 1), row by row. `SPOILER` cannot be inserted, and `BUG` panics.
fn inserts(pool: &Pool, asked: &Asked) -> Batch<i64, ()> {
    let asked = Arc::clone(asked);
    pool.batch_writes("test.insert", move |db: Connection, keys: Arc<[i64]>| {
        asked.lock().unwrap().push(keys.to_vec());
        async move {
            for key in keys.iter() {
                assert!(*key != BUG, "a bug");
                let value = if *key == SPOILER { "NULL" } else { "1" };
                db.execute_unprepared(&format!("INSERT INTO t VALUES ({key}, {value})")).await?;
            }
            Ok(vec![(); keys.len()])
        }
    })
}

const SPOILER: i64 = 666;
const BUG: i64 = 667;

fn asks<V: Send + 'static>(batch: &Batch<i64, V>, key: i64) -> JoinHandle<Result<V, Error>> {
    let batch = batch.clone();
    tokio::spawn(async move { batch.load(key).await })
}

/// Holds the only connection until it is let go.
struct Holder {
    go: oneshot::Sender<()>,
    done: JoinHandle<Result<(), Error>>,
}

impl Holder {
    async fn of(pool: &Pool) -> Self {
        let (go, gone) = oneshot::channel::<()>();
        let gone = Arc::new(Mutex::new(Some(gone)));
        let done = tokio::spawn({
            let pool = pool.clone();
            async move {
                pool.read("test.hold", move |_| {
                    let gone = gone.lock().unwrap().take();
                    async move {
                        if let Some(gone) = gone {
                            drop(gone.await);
                        }
                        Ok::<_, Error>(())
                    }
                })
                .await
            }
        });
        eventually("the connection is held", || async { (pool.status().in_use == 1).then_some(()) }).await;
        Self { go, done }
    }

    async fn let_go(self) {
        drop(self.go);
        self.done.await.unwrap().unwrap();
    }
}

async fn one(context: &Context, options: PoolOptions) -> (Pool, Asked) {
    let options = options.max(1).min(1).acquire(Duration::from_secs(60));
    (pool(context, options).await, Asked::default())
}

async fn waits(pool: &Pool, count: u32) {
    eventually("they wait", || async { (pool.status().waiting == count).then_some(()) }).await;
}

async fn those_who_wait_share_one_statement(context: Context) {
    let (pool, asked) = one(&context, PoolOptions::default()).await;
    let tens = tens(&pool, &asked);
    assert_eq!(tens.load(4).await.unwrap(), 40, "alone");
    let before = pool.snapshot().counters;
    let holder = Holder::of(&pool).await;
    let asking: Vec<_> = (0..60).map(|number| (number % 20, asks(&tens, number % 20))).collect();
    waits(&pool, 60).await;
    holder.let_go().await;
    for (key, answer) in asking {
        assert_eq!(answer.await.unwrap().unwrap(), key * 10);
    }
    let mut statements = asked.lock().unwrap().clone();
    assert_eq!(statements.remove(0), [4]);
    assert_eq!(statements.len(), 1, "{statements:?}");
    statements[0].sort_unstable();
    assert_eq!(statements[0], (0..20).collect::<Vec<_>>(), "each key once");
    let after = pool.snapshot().counters;
    assert_eq!((after.batches, after.batched), (1, 60));
    assert_eq!(after.operations - before.operations, 61, "each of them counts, and the one that held");
    assert_eq!((pool.status().waiting, pool.status().in_use), (0, 0));
    end(pool).await;
}

async fn a_batch_has_a_bound(context: Context) {
    let (pool, asked) = one(&context, PoolOptions::default().batch_max(8)).await;
    let tens = tens(&pool, &asked);
    let holder = Holder::of(&pool).await;
    let asking: Vec<_> = (0..20).map(|key| asks(&tens, key)).collect();
    waits(&pool, 20).await;
    holder.let_go().await;
    for (key, answer) in (0..).zip(asking) {
        assert_eq!(answer.await.unwrap().unwrap(), key * 10);
    }
    let mut sizes: Vec<usize> = asked.lock().unwrap().iter().map(Vec::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [4, 8, 8]);
    end(pool).await;
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

async fn who_has_gone_is_left_out(context: Context) {
    let (pool, asked) = one(&context, PoolOptions::default()).await;
    let inserts = inserts(&pool, &asked);
    let holder = Holder::of(&pool).await;
    let asking: Vec<_> = (10..15).map(|key| asks(&inserts, key)).collect();
    waits(&pool, 5).await;
    asking[1].abort();
    asking[3].abort();
    waits(&pool, 3).await;
    holder.let_go().await;
    for (number, outcome) in asking.into_iter().enumerate() {
        match number {
            1 | 3 => assert!(outcome.await.unwrap_err().is_cancelled()),
            _ => outcome.await.unwrap().unwrap(),
        }
    }
    let mut statements = asked.lock().unwrap().clone();
    assert_eq!(statements.len(), 1);
    statements[0].sort_unstable();
    assert_eq!(statements[0], [10, 12, 14]);
    end(pool).await;
}

async fn limits_hold_for_each_one(context: Context) {
    let (pool, asked) = one(&context, PoolOptions::default().queue_limit(3)).await;
    let tens = tens(&pool, &asked);
    let holder = Holder::of(&pool).await;
    let patient = [asks(&tens, 1), asks(&tens, 2)];
    waits(&pool, 2).await;
    let hurried = {
        let tens = tens.clone();
        tokio::spawn(
            RequestContext::new("hurried").timeout(Duration::from_secs(5)).scope(async move { tens.load(3).await }),
        )
    };
    waits(&pool, 3).await;
    assert!(pool.snapshot().longest_waiters.iter().any(|waiter| waiter.request.as_deref() == Some("hurried")));
    let refused = tens.load(4).await.unwrap_err();
    assert!(matches!(&refused, Error::Refused { reason: AcquireError::QueueFull { limit: 3 }, .. }), "{refused:?}");
    let refused = hurried.await.unwrap().unwrap_err();
    assert!(matches!(&refused, Error::Refused { reason: AcquireError::TimedOut { .. }, .. }), "{refused:?}");
    assert_eq!(pool.status().waiting, 2, "who was refused has left the queue");
    holder.let_go().await;
    for (key, answer) in (1..).zip(patient) {
        assert_eq!(answer.await.unwrap().unwrap(), key * 10);
    }
    assert_eq!(pool.snapshot().counters.timed_out, 1);
    end(pool).await;
}

async fn alone_if_so_wanted(context: Context) {
    let (pool, asked) = one(&context, PoolOptions::default().batch(false)).await;
    let tens = tens(&pool, &asked);
    let holder = Holder::of(&pool).await;
    let asking: Vec<_> = (0..5).map(|key| asks(&tens, key)).collect();
    waits(&pool, 5).await;
    holder.let_go().await;
    for (key, answer) in (0..).zip(asking) {
        assert_eq!(answer.await.unwrap().unwrap(), key * 10);
    }
    assert_eq!(asked.lock().unwrap().len(), 5);
    assert_eq!(pool.snapshot().counters.batches, 0);
    end(pool).await;
}

async fn nobody_is_answered_before_the_commit(context: Context) {
    let (pool, asked) = one(&context, PoolOptions::default()).await;
    let outside = connect(&context.last_database()).await;
    let inserts = inserts(&pool, &asked);
    let holder = Holder::of(&pool).await;
    let mut asking: tokio::task::JoinSet<_> = (10..30)
        .map(|key| {
            let inserts = inserts.clone();
            async move { inserts.load(key).await }
        })
        .collect();
    waits(&pool, 20).await;
    assert_eq!(number(&outside, "SELECT COUNT(*) FROM t").await.unwrap(), 2);
    holder.let_go().await;
    asking.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(number(&outside, "SELECT COUNT(*) FROM t").await.unwrap(), 22, "seen by everybody at the first answer");
    outside.close().await.unwrap();
    end(pool).await;
}

/// Reads of `n`, each of which is held back after it was read until there is a permit. Counts those that have read.
fn held_back(pool: &Pool, gate: &Arc<Semaphore>) -> (Batch<i64, i64>, Arc<AtomicUsize>) {
    let (gate, count) = (Arc::clone(gate), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    let held = pool.batch_reads("test.held", move |db: Connection, keys: Arc<[i64]>| {
        let (gate, counted) = (Arc::clone(&gate), Arc::clone(&counted));
        async move {
            let value = number(&db, "SELECT MAX(n) FROM t").await?;
            counted.fetch_add(1, Ordering::Relaxed);
            gate.acquire().await.map_err(|error| DbErr::Custom(error.to_string()))?.forget();
            Ok(vec![value; keys.len()])
        }
    });
    (held, count)
}

async fn a_read_never_shares_what_began_before_it(context: Context) {
    let pool = pool(&context, PoolOptions::default()).await;
    let gate = Arc::new(Semaphore::new(0));
    let (held, count) = held_back(&pool, &gate);
    let early = asks(&held, 1);
    eventually("it has read", || async { (count.load(Ordering::Relaxed) == 1).then_some(()) }).await;
    run(&pool, "UPDATE t SET n = 7").await;
    let late = asks(&held, 1);
    gate.add_permits(2);
    assert_eq!(early.await.unwrap().unwrap(), 0);
    assert_eq!(late.await.unwrap().unwrap(), 7);
    end(pool).await;
}

async fn a_slow_statement_is_not_waited_for(context: Context) {
    let pool = pool(&context, PoolOptions::default().max(5)).await;
    let gate = Arc::new(Semaphore::new(0));
    let (held, _) = held_back(&pool, &gate);
    let mut slow = Vec::new();
    for count in 1..=4 {
        slow.push(asks(&held, 1));
        eventually("it has a connection of its own", || async { (pool.status().in_use == count).then_some(()) }).await;
    }
    gate.add_permits(4);
    for one in slow {
        assert_eq!(one.await.unwrap().unwrap(), 0);
    }
    end(pool).await;
}

async fn those_who_wait_are_told_that_the_pool_closes(context: Context) {
    let (pool, asked) = one(&context, PoolOptions::default()).await;
    let tens = tens(&pool, &asked);
    let holder = Holder::of(&pool).await;
    let asking: Vec<_> = (0..5).map(|key| asks(&tens, key)).collect();
    waits(&pool, 5).await;
    pool.drain();
    for one in asking {
        let refused = one.await.unwrap().unwrap_err();
        assert!(matches!(&refused, Error::Refused { reason: AcquireError::Closing, .. }), "{refused:?}");
    }
    let refused = tens.load(1).await.unwrap_err();
    assert!(matches!(&refused, Error::Refused { reason: AcquireError::Closing, .. }), "{refused:?}");
    holder.let_go().await;
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

/// Inserts (key, 1), all with one statement.
fn inserts_at_once(pool: &Pool) -> Batch<i64, ()> {
    pool.batch_writes("test.insert_at_once", |db: Connection, keys: Arc<[i64]>| async move {
        let rows: Vec<String> = keys.iter().map(|key| format!("({key}, 1)")).collect();
        db.execute_unprepared(&format!("INSERT INTO t VALUES {}", rows.join(", "))).await?;
        Ok(vec![(); keys.len()])
    })
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

async fn different_keys_of_a_coalesced_read_do_not_wait_for_each_other(context: Context) {
    let (pool, asked) = one(&context, PoolOptions::default()).await;
    let ten = Arc::clone(&asked);
    let tens = pool.coalesce_reads("test.tens", move |db: Connection, keys: Arc<[i64]>| {
        ten.lock().unwrap().push(keys.to_vec());
        async move {
            let ten = number(&db, "SELECT 10").await?;
            Ok(keys.iter().map(|key| key * ten).collect())
        }
    });
    let holder = Holder::of(&pool).await;
    let asking: Vec<_> = (0..20).map(|number| (number % 4, asks(&tens, number % 4))).collect();
    waits(&pool, 20).await;
    holder.let_go().await;
    for (key, answer) in asking {
        assert_eq!(answer.await.unwrap().unwrap(), key * 10);
    }
    let mut statements = asked.lock().unwrap().clone();
    statements.sort();
    assert_eq!(statements, [[0], [1], [2], [3]], "one for each key, and none for several");
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
