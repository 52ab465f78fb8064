//! Bulk operations: when they wait for a permit, and when they stop waiting.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use orm_pool::{AcquireError, BulkUsage, Connection, DatabaseUrl, Error, Pool, PoolOptions};
use test_support::{
    Engine,
    bare::{end, pool, read},
    cases, eventually, number,
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::Context;

cases![
    bulk_operations_never_use_all_connections,
    a_cancelled_bulk_operation_keeps_its_permit,
    bulk_operations_give_way_only_to_other_operations,
    a_draining_pool_refuses_waiting_bulk_operations,
    a_larger_bulk_share_admits_waiting_bulk_operations,
];

/// Spawns a bulk operation that runs until the sender is used or dropped.
fn held_operation(pool: &Pool) -> (oneshot::Sender<()>, JoinHandle<Result<(), Error>>) {
    let (release, released) = oneshot::channel::<()>();
    let released = Arc::new(Mutex::new(Some(released)));
    let pool = pool.clone();
    let operation = tokio::spawn(async move {
        let body = move |_| {
            let released = released.lock().unwrap().take();
            async move {
                if let Some(released) = released {
                    drop(released.await);
                }
                Ok(())
            }
        };
        pool.bulk_read("test.bulk", body).await
    });
    (release, operation)
}

async fn await_usage(pool: &Pool, what: &str, taken: u32, waiting: u32) {
    let matches = |usage: BulkUsage| (usage.taken, usage.waiting) == (taken, waiting);
    eventually(what, || async { matches(pool.snapshot().bulk).then_some(()) }).await;
}

async fn a_draining_pool_refuses_waiting_bulk_operations(context: Context) {
    let pool = pool(&context, PoolOptions::default().max(4).bulk_share(1)).await;
    let (release, running) = held_operation(&pool);
    await_usage(&pool, "one runs", 1, 0).await;
    let (_release, waiting) = held_operation(&pool);
    await_usage(&pool, "another waits", 1, 1).await;
    pool.drain();
    let refused = waiting.await.unwrap().unwrap_err();
    assert!(matches!(refused, Error::Refused { reason: AcquireError::Closing, .. }), "{refused:?}");
    assert!(!running.is_finished(), "running operations continue");
    release.send(()).unwrap();
    running.await.unwrap().unwrap();
    end(pool).await;
}

async fn a_larger_bulk_share_admits_waiting_bulk_operations(context: Context) {
    let options = PoolOptions::default().max(4).bulk_share(1);
    let pool = pool(&context, options.clone()).await;
    let (first, running) = held_operation(&pool);
    await_usage(&pool, "one runs", 1, 0).await;
    let (second, waiting) = held_operation(&pool);
    await_usage(&pool, "another waits", 1, 1).await;
    let url = DatabaseUrl::parse(&context.last_database()).unwrap();
    pool.reconfigure(&url, &options.bulk_share(50)).await.unwrap();
    await_usage(&pool, "both run", 2, 0).await;
    for release in [first, second] {
        release.send(()).unwrap();
    }
    for operation in [running, waiting] {
        operation.await.unwrap().unwrap();
    }
    end(pool).await;
}

/// Six bulk transactions on a pool whose share for them is two connections: two run until the release, four wait.
struct SixTransactions {
    release: watch::Sender<bool>,
    /// How many bodies have begun.
    begun: Arc<AtomicU32>,
    callers: Vec<JoinHandle<Result<i64, Error>>>,
}

fn options_for_six_transactions() -> PoolOptions {
    PoolOptions::default().max(4).bulk_share(50).queue_limit(4)
}

impl SixTransactions {
    async fn start(pool: &Pool) -> Self {
        let (release, released) = watch::channel(false);
        let begun = Arc::new(AtomicU32::new(0));
        let callers = (0..6).map(|_| {
            let (pool, begun, released) = (pool.clone(), Arc::clone(&begun), released.clone());
            tokio::spawn(async move {
                let body = move |db: Connection| {
                    let (begun, mut released) = (Arc::clone(&begun), released.clone());
                    async move {
                        begun.fetch_add(1, Ordering::Relaxed);
                        released.wait_for(|released| *released).await.unwrap();
                        Ok::<_, Error>(number(&db, "SELECT 1").await?)
                    }
                };
                pool.bulk_transaction("test.bulk", body).await
            })
        });
        let this = Self { release, callers: callers.collect(), begun };
        eventually("two run", || async { (this.begun() == 2).then_some(()) }).await;
        await_usage(pool, "four wait", 2, 4).await;
        this
    }

    fn begun(&self) -> u32 {
        self.begun.load(Ordering::Relaxed)
    }
}

async fn bulk_operations_never_use_all_connections(context: Context) {
    if context.engine() == Engine::Sqlite {
        // SQLite runs one transaction at a time anyway.
        return;
    }
    let pool = pool(&context, options_for_six_transactions()).await;
    let bulk = SixTransactions::start(&pool).await;
    // Other bulk operations wait, and reads do not.
    for _ in 0..10 {
        assert_eq!(read(&pool, "SELECT COUNT(*) FROM t").await, 2);
        assert_eq!(bulk.begun(), 2);
    }
    assert_eq!(pool.status().in_use, 2);
    assert_eq!(pool.snapshot().bulk.places, 2);
    // `queue_limit` applies to the waiting ones.
    let refused = pool.bulk_read("test.bulk", |_| async { Ok::<_, Error>(()) }).await.unwrap_err();
    assert!(matches!(&refused, Error::Refused { reason: AcquireError::QueueFull { limit: 4 }, .. }), "{refused:?}");
    bulk.release.send(true).unwrap();
    for caller in bulk.callers {
        assert_eq!(caller.await.unwrap().unwrap(), 1);
    }
    end(pool).await;
}

async fn a_cancelled_bulk_operation_keeps_its_permit(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let pool = pool(&context, options_for_six_transactions()).await;
    let mut bulk = SixTransactions::start(&pool).await;
    for caller in std::mem::take(&mut bulk.callers) {
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
    }
    let late = {
        let (pool, begun) = (pool.clone(), Arc::clone(&bulk.begun));
        tokio::spawn(async move {
            let body = move |db: Connection| {
                begun.fetch_add(1, Ordering::Relaxed);
                async move { Ok::<_, Error>(number(&db, "SELECT 1").await?) }
            };
            pool.bulk_read("test.bulk", body).await
        })
    };
    for _ in 0..50 {
        assert_eq!(read(&pool, "SELECT COUNT(*) FROM t").await, 2);
        assert_eq!(bulk.begun(), 2);
    }
    bulk.release.send(true).unwrap();
    assert_eq!(late.await.unwrap().unwrap(), 1);
    end(pool).await;
}

async fn bulk_operations_give_way_only_to_other_operations(context: Context) {
    let pool = pool(&context, PoolOptions::default().bulk_share(1)).await;
    let bulk = |with_others: bool| {
        let pool = pool.clone();
        async move {
            let (inner, outside) = (pool.clone(), tokio::runtime::Handle::current());
            let body = move |db: Connection| {
                let (inner, outside) = (inner.clone(), outside.clone());
                async move {
                    if with_others {
                        // Like another request: in a task outside the pool's runtime.
                        outside.spawn(async move { read(&inner, "SELECT 1").await }).await.unwrap();
                    }
                    Ok::<_, Error>(number(&db, "SELECT 1").await?)
                }
            };
            pool.bulk_read("test.bulk", body).await.unwrap();
        }
    };
    for _ in 0..5 {
        bulk(false).await;
        assert!(!pool.bulk_is_yielding(), "no other operation has run");
    }
    bulk(true).await;
    assert!(pool.bulk_is_yielding());
    bulk(false).await;
    assert!(!pool.bulk_is_yielding(), "no other operation was running");
    end(pool).await;
}
