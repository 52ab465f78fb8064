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
    bare::{end, pool, run},
    cases, connect, eventually, number,
};

use crate::Context;

cases![
    those_who_wait_share_one_statement,
    a_batch_has_a_bound,
    who_has_gone_is_left_out,
    limits_hold_for_each_one,
    alone_if_so_wanted,
    nobody_is_answered_before_the_commit,
    a_read_never_shares_what_began_before_it,
    a_slow_statement_is_not_waited_for,
    those_who_wait_are_told_that_the_pool_closes,
    different_keys_of_a_coalesced_read_do_not_wait_for_each_other,
];

/// What was asked for, statement by statement.
pub(crate) type Asked = Arc<Mutex<Vec<Vec<i64>>>>;

/// Reads of ten times the key, one statement for all of them.
pub(crate) fn tens(pool: &Pool, asked: &Asked) -> Batch<i64, i64> {
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
pub(crate) fn inserts(pool: &Pool, asked: &Asked) -> Batch<i64, ()> {
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

pub(crate) const SPOILER: i64 = 666;
pub(crate) const BUG: i64 = 667;

pub(crate) fn asks<V: Send + 'static>(batch: &Batch<i64, V>, key: i64) -> JoinHandle<Result<V, Error>> {
    let batch = batch.clone();
    tokio::spawn(async move { batch.load(key).await })
}

/// Holds the only connection until it is let go.
pub(crate) struct Holder {
    go: oneshot::Sender<()>,
    done: JoinHandle<Result<(), Error>>,
}

impl Holder {
    pub(crate) async fn of(pool: &Pool) -> Self {
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

    pub(crate) async fn let_go(self) {
        drop(self.go);
        self.done.await.unwrap().unwrap();
    }
}

pub(crate) async fn one(context: &Context, options: PoolOptions) -> (Pool, Asked) {
    let options = options.max(1).min(1).acquire(Duration::from_secs(60));
    (pool(context, options).await, Asked::default())
}

pub(crate) async fn waits(pool: &Pool, count: u32) {
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
