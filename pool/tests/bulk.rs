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
use tokio::{sync::oneshot, task::JoinHandle};

use crate::Context;

cases![
    bulk_operations_never_use_all_connections,
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

async fn bulk_operations_never_use_all_connections(context: Context) {
    if context.engine() == Engine::Sqlite {
        // SQLite runs one transaction at a time anyway.
        return;
    }
    let options = PoolOptions::default().max(4).bulk_share(50).queue_limit(4);
    let pool = pool(&context, options).await;
    let (release, released) = tokio::sync::watch::channel(false);
    let running = Arc::new(AtomicU32::new(0));
    let all: Vec<_> = (0..6)
        .map(|_| {
            let (pool, running, released) = (pool.clone(), Arc::clone(&running), released.clone());
            tokio::spawn(async move {
                let body = move |db: Connection| {
                    let (running, mut released) = (Arc::clone(&running), released.clone());
                    async move {
                        running.fetch_add(1, Ordering::Relaxed);
                        released.wait_for(|released| *released).await.unwrap();
                        Ok::<_, Error>(number(&db, "SELECT 1").await?)
                    }
                };
                pool.bulk_transaction("test.bulk", body).await
            })
        })
        .collect();
    eventually("two run", || async { (running.load(Ordering::Relaxed) == 2).then_some(()) }).await;
    // Other bulk operations wait, and reads do not.
    for _ in 0..10 {
        assert_eq!(read(&pool, "SELECT COUNT(*) FROM t").await, 2);
        assert_eq!(running.load(Ordering::Relaxed), 2);
    }
    assert_eq!(pool.status().in_use, 2);
    // The waiting ones are reported, and `queue_limit` applies to them.
    let is_full = || async {
        {
            let bulk = pool.snapshot().bulk;
            ((bulk.places, bulk.taken, bulk.waiting) == (2, 2, 4)).then_some(())
        }
    };
    eventually("four wait", is_full).await;
    let refused = pool.bulk_read("test.bulk", |_| async { Ok::<_, Error>(()) }).await.unwrap_err();
    assert!(matches!(&refused, Error::Refused { reason: AcquireError::QueueFull { limit: 4 }, .. }), "{refused:?}");
    // A cancelled bulk operation keeps its permit until it ends.
    for caller in all {
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
    }
    let late = {
        let (pool, running) = (pool.clone(), Arc::clone(&running));
        tokio::spawn(async move {
            let body = move |db: Connection| {
                running.fetch_add(1, Ordering::Relaxed);
                async move { Ok::<_, Error>(number(&db, "SELECT 1").await?) }
            };
            pool.bulk_read("test.bulk", body).await
        })
    };
    for _ in 0..50 {
        assert_eq!(read(&pool, "SELECT COUNT(*) FROM t").await, 2);
        assert_eq!(running.load(Ordering::Relaxed), 2);
    }
    release.send(true).unwrap();
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
