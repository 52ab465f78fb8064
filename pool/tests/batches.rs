//! Batches: concurrent operations that share a statement.

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
    waiting_requests_share_one_statement,
    batch_max_limits_a_batch,
    cancelled_requests_are_left_out,
    queue_limit_and_timeouts_apply_to_each_request,
    without_batching_each_request_runs_alone,
    no_request_completes_before_the_commit,
    a_read_never_shares_a_statement_that_began_before_it,
    a_slow_statement_does_not_delay_the_next,
    a_draining_pool_refuses_waiting_requests,
    coalesced_reads_share_a_statement_by_key,
];

/// The keys of each statement, in order.
pub(crate) type Statements = Arc<Mutex<Vec<Vec<i64>>>>;

/// A batch of reads that return ten times the key, with one statement for all keys.
pub(crate) fn tens(pool: &Pool, statements: &Statements) -> Batch<i64, i64> {
    let statements = Arc::clone(statements);
    pool.batch_reads("test.tens", move |db: Connection, keys: Arc<[i64]>| {
        statements.lock().unwrap().push(keys.to_vec());
        async move {
            let ten = number(&db, "SELECT 10").await?;
            Ok(keys.iter().map(|key| key * ten).collect())
        }
    })
}

/// A batch of writes that insert (key, 1), row by row. `INVALID_KEY` fails, and `PANICKING_KEY`
/// panics.
pub(crate) fn inserts(pool: &Pool, statements: &Statements) -> Batch<i64, ()> {
    let statements = Arc::clone(statements);
    pool.batch_writes("test.insert", move |db: Connection, keys: Arc<[i64]>| {
        statements.lock().unwrap().push(keys.to_vec());
        async move {
            for key in keys.iter() {
                assert!(*key != PANICKING_KEY, "a bug");
                let value = if *key == INVALID_KEY { "NULL" } else { "1" };
                db.execute_unprepared(&format!("INSERT INTO t VALUES ({key}, {value})")).await?;
            }
            Ok(vec![(); keys.len()])
        }
    })
}

pub(crate) const INVALID_KEY: i64 = 666;
pub(crate) const PANICKING_KEY: i64 = 667;

pub(crate) fn spawn_load<V: Send + 'static>(batch: &Batch<i64, V>, key: i64) -> JoinHandle<Result<V, Error>> {
    let batch = batch.clone();
    tokio::spawn(async move { batch.load(key).await })
}

/// Holds the only connection until it is released.
pub(crate) struct HeldConnection {
    release: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Error>>,
}

impl HeldConnection {
    pub(crate) async fn of(pool: &Pool) -> Self {
        let (release, released) = oneshot::channel::<()>();
        let released = Arc::new(Mutex::new(Some(released)));
        let task = tokio::spawn({
            let pool = pool.clone();
            async move {
                pool.read("test.hold", move |_| {
                    let released = released.lock().unwrap().take();
                    async move {
                        if let Some(released) = released {
                            drop(released.await);
                        }
                        Ok::<_, Error>(())
                    }
                })
                .await
            }
        });
        eventually("the connection is held", || async { (pool.status().in_use == 1).then_some(()) }).await;
        Self { release, task }
    }

    pub(crate) async fn release(self) {
        drop(self.release);
        self.task.await.unwrap().unwrap();
    }
}

pub(crate) async fn pool_of_one(context: &Context, options: PoolOptions) -> (Pool, Statements) {
    let options = options.max(1).min(1).acquire(Duration::from_secs(60));
    (pool(context, options).await, Statements::default())
}

pub(crate) async fn await_waiting(pool: &Pool, count: u32) {
    eventually("requests wait", || async { (pool.status().waiting == count).then_some(()) }).await;
}

async fn waiting_requests_share_one_statement(context: Context) {
    let (pool, statements) = pool_of_one(&context, PoolOptions::default()).await;
    let tens = tens(&pool, &statements);
    assert_eq!(tens.load(4).await.unwrap(), 40, "without a batch");
    let before = pool.snapshot().counters;
    let holder = HeldConnection::of(&pool).await;
    let loads: Vec<_> = (0..60).map(|number| (number % 20, spawn_load(&tens, number % 20))).collect();
    await_waiting(&pool, 60).await;
    holder.release().await;
    for (key, result) in loads {
        assert_eq!(result.await.unwrap().unwrap(), key * 10);
    }
    let mut statements = statements.lock().unwrap().clone();
    assert_eq!(statements.remove(0), [4]);
    assert_eq!(statements.len(), 1, "{statements:?}");
    statements[0].sort_unstable();
    assert_eq!(statements[0], (0..20).collect::<Vec<_>>(), "each key is read once");
    let after = pool.snapshot().counters;
    assert_eq!((after.batches, after.batched), (1, 60));
    assert_eq!(after.operations - before.operations, 61, "all requests, and the holder");
    // Values are sent before the connection is returned.
    eventually("the connection is returned", || async { (pool.status().in_use == 0).then_some(()) }).await;
    assert_eq!(pool.status().waiting, 0);
    end(pool).await;
}

async fn batch_max_limits_a_batch(context: Context) {
    let (pool, statements) = pool_of_one(&context, PoolOptions::default().batch_max(8)).await;
    let tens = tens(&pool, &statements);
    let holder = HeldConnection::of(&pool).await;
    let loads: Vec<_> = (0..20).map(|key| spawn_load(&tens, key)).collect();
    await_waiting(&pool, 20).await;
    holder.release().await;
    for (key, result) in (0..).zip(loads) {
        assert_eq!(result.await.unwrap().unwrap(), key * 10);
    }
    let mut sizes: Vec<usize> = statements.lock().unwrap().iter().map(Vec::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [4, 8, 8]);
    end(pool).await;
}

async fn cancelled_requests_are_left_out(context: Context) {
    let (pool, statements) = pool_of_one(&context, PoolOptions::default()).await;
    let inserts = inserts(&pool, &statements);
    let holder = HeldConnection::of(&pool).await;
    let loads: Vec<_> = (10..15).map(|key| spawn_load(&inserts, key)).collect();
    await_waiting(&pool, 5).await;
    loads[1].abort();
    loads[3].abort();
    await_waiting(&pool, 3).await;
    holder.release().await;
    for (number, outcome) in loads.into_iter().enumerate() {
        match number {
            1 | 3 => assert!(outcome.await.unwrap_err().is_cancelled()),
            _ => outcome.await.unwrap().unwrap(),
        }
    }
    let mut statements = statements.lock().unwrap().clone();
    assert_eq!(statements.len(), 1);
    statements[0].sort_unstable();
    assert_eq!(statements[0], [10, 12, 14]);
    end(pool).await;
}

async fn queue_limit_and_timeouts_apply_to_each_request(context: Context) {
    let (pool, statements) = pool_of_one(&context, PoolOptions::default().queue_limit(3)).await;
    let tens = tens(&pool, &statements);
    let holder = HeldConnection::of(&pool).await;
    let served = [spawn_load(&tens, 1), spawn_load(&tens, 2)];
    await_waiting(&pool, 2).await;
    let hurried = {
        let tens = tens.clone();
        tokio::spawn(
            RequestContext::new("hurried").timeout(Duration::from_secs(5)).scope(async move { tens.load(3).await }),
        )
    };
    await_waiting(&pool, 3).await;
    assert!(pool.snapshot().longest_waiters.iter().any(|waiter| waiter.request.as_deref() == Some("hurried")));
    let refused = tens.load(4).await.unwrap_err();
    assert!(matches!(&refused, Error::Refused { reason: AcquireError::QueueFull { limit: 3 }, .. }), "{refused:?}");
    let refused = hurried.await.unwrap().unwrap_err();
    assert!(matches!(&refused, Error::Refused { reason: AcquireError::TimedOut { .. }, .. }), "{refused:?}");
    assert_eq!(pool.status().waiting, 2, "refused requests have left the queue");
    holder.release().await;
    for (key, result) in (1..).zip(served) {
        assert_eq!(result.await.unwrap().unwrap(), key * 10);
    }
    assert_eq!(pool.snapshot().counters.timed_out, 1);
    end(pool).await;
}

async fn without_batching_each_request_runs_alone(context: Context) {
    let (pool, statements) = pool_of_one(&context, PoolOptions::default().batch(false)).await;
    let tens = tens(&pool, &statements);
    let holder = HeldConnection::of(&pool).await;
    let loads: Vec<_> = (0..5).map(|key| spawn_load(&tens, key)).collect();
    await_waiting(&pool, 5).await;
    holder.release().await;
    for (key, result) in (0..).zip(loads) {
        assert_eq!(result.await.unwrap().unwrap(), key * 10);
    }
    assert_eq!(statements.lock().unwrap().len(), 5);
    assert_eq!(pool.snapshot().counters.batches, 0);
    end(pool).await;
}

async fn no_request_completes_before_the_commit(context: Context) {
    let (pool, statements) = pool_of_one(&context, PoolOptions::default()).await;
    let outside = connect(&context.last_database()).await;
    let inserts = inserts(&pool, &statements);
    let holder = HeldConnection::of(&pool).await;
    let mut loads: tokio::task::JoinSet<_> = (10..30)
        .map(|key| {
            let inserts = inserts.clone();
            async move { inserts.load(key).await }
        })
        .collect();
    await_waiting(&pool, 20).await;
    assert_eq!(number(&outside, "SELECT COUNT(*) FROM t").await.unwrap(), 2);
    holder.release().await;
    loads.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(number(&outside, "SELECT COUNT(*) FROM t").await.unwrap(), 22, "all rows at the first result");
    outside.close().await.unwrap();
    end(pool).await;
}

/// A batch of reads of `n` that wait for a permit of `gate` after the query, and the number of queries.
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

async fn a_read_never_shares_a_statement_that_began_before_it(context: Context) {
    let pool = pool(&context, PoolOptions::default()).await;
    let gate = Arc::new(Semaphore::new(0));
    let (held, count) = held_back(&pool, &gate);
    let early = spawn_load(&held, 1);
    eventually("its query has run", || async { (count.load(Ordering::Relaxed) == 1).then_some(()) }).await;
    run(&pool, "UPDATE t SET n = 7").await;
    let late = spawn_load(&held, 1);
    gate.add_permits(2);
    assert_eq!(early.await.unwrap().unwrap(), 0);
    assert_eq!(late.await.unwrap().unwrap(), 7);
    end(pool).await;
}

async fn a_slow_statement_does_not_delay_the_next(context: Context) {
    let pool = pool(&context, PoolOptions::default().max(5)).await;
    let gate = Arc::new(Semaphore::new(0));
    let (held, _) = held_back(&pool, &gate);
    let mut slow = Vec::new();
    for count in 1..=4 {
        slow.push(spawn_load(&held, 1));
        eventually("it uses another connection", || async { (pool.status().in_use == count).then_some(()) }).await;
    }
    gate.add_permits(4);
    for read in slow {
        assert_eq!(read.await.unwrap().unwrap(), 0);
    }
    end(pool).await;
}

async fn a_draining_pool_refuses_waiting_requests(context: Context) {
    let (pool, statements) = pool_of_one(&context, PoolOptions::default()).await;
    let tens = tens(&pool, &statements);
    let holder = HeldConnection::of(&pool).await;
    let loads: Vec<_> = (0..5).map(|key| spawn_load(&tens, key)).collect();
    await_waiting(&pool, 5).await;
    pool.drain();
    for load in loads {
        let refused = load.await.unwrap().unwrap_err();
        assert!(matches!(&refused, Error::Refused { reason: AcquireError::Closing, .. }), "{refused:?}");
    }
    let refused = tens.load(1).await.unwrap_err();
    assert!(matches!(&refused, Error::Refused { reason: AcquireError::Closing, .. }), "{refused:?}");
    holder.release().await;
    end(pool).await;
}

async fn coalesced_reads_share_a_statement_by_key(context: Context) {
    let (pool, statements) = pool_of_one(&context, PoolOptions::default()).await;
    let recorded = Arc::clone(&statements);
    let tens = pool.coalesce_reads("test.tens", move |db: Connection, keys: Arc<[i64]>| {
        recorded.lock().unwrap().push(keys.to_vec());
        async move {
            let ten = number(&db, "SELECT 10").await?;
            Ok(keys.iter().map(|key| key * ten).collect())
        }
    });
    let holder = HeldConnection::of(&pool).await;
    let loads: Vec<_> = (0..20).map(|number| (number % 4, spawn_load(&tens, number % 4))).collect();
    await_waiting(&pool, 20).await;
    holder.release().await;
    for (key, result) in loads {
        assert_eq!(result.await.unwrap().unwrap(), key * 10);
    }
    let mut statements = statements.lock().unwrap().clone();
    statements.sort();
    assert_eq!(statements, [[0], [1], [2], [3]], "one statement for each key");
    end(pool).await;
}
