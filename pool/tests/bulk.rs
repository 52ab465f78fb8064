//! Bulk work: who waits for a permit, and what ends the wait.

use std::sync::{Arc, Mutex};

use orm_pool::{AcquireError, BulkUsage, DatabaseUrl, Error, Pool, PoolOptions};
use test_support::{
    bare::{end, pool},
    cases, eventually,
};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::Context;

cases![a_pool_that_drains_refuses_bulk_work_that_waits, a_larger_share_wakes_bulk_work_that_waits];

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
