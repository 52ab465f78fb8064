//! Bulk work: who waits for a permit, and what ends the wait.

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
    work_in_bulk_never_takes_all,
    work_in_bulk_gives_way_to_others_and_to_nobody_else,
    a_pool_that_drains_refuses_bulk_work_that_waits,
    a_larger_share_wakes_bulk_work_that_waits,
];

/// Bulk work that ends when it is let go.
fn held(pool: &Pool) -> (oneshot::Sender<()>, JoinHandle<Result<(), Error>>) {
    let (go, gone) = oneshot::channel::<()>();
    let gone = Arc::new(Mutex::new(Some(gone)));
    let pool = pool.clone();
    let work = tokio::spawn(async move {
        let body = move |_| {
            let gone = gone.lock().unwrap().take();
            async move {
                if let Some(gone) = gone {
                    drop(gone.await);
                }
                Ok(())
            }
        };
        pool.bulk_read("test.bulk", body).await
    });
    (go, work)
}

async fn usage(pool: &Pool, what: &str, taken: u32, waiting: u32) {
    let is_so = |usage: BulkUsage| (usage.taken, usage.waiting) == (taken, waiting);
    eventually(what, || async { is_so(pool.snapshot().bulk).then_some(()) }).await;
}

async fn a_pool_that_drains_refuses_bulk_work_that_waits(context: Context) {
    let pool = pool(&context, PoolOptions::default().max(4).bulk_share(1)).await;
    let (go, running) = held(&pool);
    usage(&pool, "one works", 1, 0).await;
    let (_keep, waiting) = held(&pool);
    usage(&pool, "another waits", 1, 1).await;
    pool.drain();
    let refused = waiting.await.unwrap().unwrap_err();
    assert!(matches!(refused, Error::Refused { reason: AcquireError::Closing, .. }), "{refused:?}");
    assert!(!running.is_finished(), "what runs continues");
    go.send(()).unwrap();
    running.await.unwrap().unwrap();
    end(pool).await;
}

async fn a_larger_share_wakes_bulk_work_that_waits(context: Context) {
    let options = PoolOptions::default().max(4).bulk_share(1);
    let pool = pool(&context, options.clone()).await;
    let (first, running) = held(&pool);
    usage(&pool, "one works", 1, 0).await;
    let (second, waiting) = held(&pool);
    usage(&pool, "another waits", 1, 1).await;
    let url = DatabaseUrl::parse(&context.last_database()).unwrap();
    pool.reconfigure(&url, &options.bulk_share(50)).await.unwrap();
    usage(&pool, "both work", 2, 0).await;
    for go in [first, second] {
        go.send(()).unwrap();
    }
    for work in [running, waiting] {
        work.await.unwrap().unwrap();
    }
    end(pool).await;
}

async fn work_in_bulk_never_takes_all(context: Context) {
    if context.engine() == Engine::Sqlite {
        // Its transactions take turns anyway.
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
                        released.wait_for(|it| *it).await.unwrap();
                        Ok::<_, Error>(number(&db, "SELECT 1").await?)
                    }
                };
                pool.bulk_transaction("test.bulk", body).await
            })
        })
        .collect();
    eventually("two are at work", || async { (running.load(Ordering::Relaxed) == 2).then_some(()) }).await;
    // The others wait for these, and nobody waits for them.
    for _ in 0..10 {
        assert_eq!(read(&pool, "SELECT COUNT(*) FROM t").await, 2);
        assert_eq!(running.load(Ordering::Relaxed), 2);
    }
    assert_eq!(pool.status().in_use, 2);
    // They are told, and there are no more of them than may wait.
    let full = || async {
        {
            let bulk = pool.snapshot().bulk;
            ((bulk.places, bulk.taken, bulk.waiting) == (2, 2, 4)).then_some(())
        }
    };
    eventually("four wait", full).await;
    let refused = pool.bulk_read("test.bulk", |_| async { Ok::<_, Error>(()) }).await.unwrap_err();
    assert!(matches!(&refused, Error::Refused { reason: AcquireError::QueueFull { limit: 4 }, .. }), "{refused:?}");
    // Nor is a place free because nobody waits any more for what is done in it.
    for one in all {
        one.abort();
        assert!(one.await.unwrap_err().is_cancelled());
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

async fn work_in_bulk_gives_way_to_others_and_to_nobody_else(context: Context) {
    let pool = pool(&context, PoolOptions::default().bulk_share(1)).await;
    let bulk = |others: bool| {
        let pool = pool.clone();
        async move {
            let (inner, outside) = (pool.clone(), tokio::runtime::Handle::current());
            let body = move |db: Connection| {
                let (inner, outside) = (inner.clone(), outside.clone());
                async move {
                    if others {
                        // As another request: a task outside of the pool's runtime.
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
        assert!(!pool.bulk_gives_way(), "who is alone need not give way");
    }
    bulk(true).await;
    assert!(pool.bulk_gives_way());
    bulk(false).await;
    assert!(!pool.bulk_gives_way(), "it goes on once others have gone");
    end(pool).await;
}
