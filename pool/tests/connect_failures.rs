//! A server that responds but refuses new connections: open connections continue to work.

use std::{sync::Arc, time::Duration};

use orm_pool::{Error, Pool, PoolOptions, PoolState};
use sea_orm::ConnectionTrait;
use tokio::{sync::Semaphore, task::JoinHandle};

use test_support::{
    Engine, Proxy,
    bare::{end, pool_on},
    cases, connect, eventually, kill_all, number,
};

use crate::Context;

cases![
    refused_connections_are_a_shortage_and_not_an_outage,
    responses_on_open_connections_end_an_outage,
    a_draining_pool_opens_no_connections,
];

/// Queries the database every few milliseconds until there is a permit.
fn busy(pool: &Pool, gate: &Arc<Semaphore>) -> JoinHandle<Result<i64, Error>> {
    let (pool, gate) = (pool.clone(), Arc::clone(gate));
    tokio::spawn(async move {
        pool.read("test.busy", move |db| {
            let gate = Arc::clone(&gate);
            async move {
                while gate.try_acquire().is_err() {
                    number(&db, "SELECT 1").await?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Ok(number(&db, "SELECT 1").await?)
            }
        })
        .await
    })
}

fn spawn_read(pool: &Pool) -> JoinHandle<Result<i64, Error>> {
    let pool = pool.clone();
    tokio::spawn(async move {
        pool.read("test.read", |db| async move { Ok::<_, Error>(number(&db, "SELECT 2").await?) }).await
    })
}

async fn refused_connections_are_a_shortage_and_not_an_outage(context: Context) {
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let options = PoolOptions::default().max(4).min(2).acquire(Duration::from_secs(60));
    let pool = pool_on(&url, options).await;
    let gate = Arc::new(Semaphore::new(0));
    let both = [busy(&pool, &gate), busy(&pool, &gate)];
    eventually("both are busy", || async { (pool.status().in_use == 2).then_some(()) }).await;
    proxy.close_listener();
    let third = spawn_read(&pool);
    eventually("opening a third fails", || async { pool.snapshot().shortage }).await;
    assert_eq!(pool.snapshot().state, PoolState::Up);
    gate.add_permits(2);
    for read in both {
        assert_eq!(read.await.unwrap().unwrap(), 1);
    }
    assert_eq!(third.await.unwrap().unwrap(), 2, "it gets one of the open connections");
    proxy.restore();
    end(pool).await;
}

async fn responses_on_open_connections_end_an_outage(context: Context) {
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let options = PoolOptions::default().max(2).min(2).acquire(Duration::from_secs(60));
    let pool = pool_on(&url, options).await;
    proxy.close_listener();
    // Longer than the pool waits in silence before it probes the server with a new connection, which fails.
    let sleep = if context.engine() == Engine::Postgres { "SELECT pg_sleep(3)" } else { "SELECT SLEEP(3)" };
    let slow = [(); 2].map(|()| {
        let pool = pool.clone();
        tokio::spawn(async move {
            pool.read(
                "test.slow",
                move |db| async move { Ok::<_, Error>(db.execute_unprepared(sleep).await.map(drop)?) },
            )
            .await
        })
    });
    eventually("it counts as down", || async { (pool.snapshot().state == PoolState::Down).then_some(()) }).await;
    for read in slow {
        read.await.unwrap().unwrap();
    }
    eventually("open connections serve", || async { spawn_read(&pool).await.unwrap().ok() }).await;
    assert_eq!(pool.status().total, 2);
    proxy.restore();
    end(pool).await;
}

async fn a_draining_pool_opens_no_connections(context: Context) {
    let pool = pool_on(&context.database().await, PoolOptions::default().max(3).min(3)).await;
    let gate = Arc::new(Semaphore::new(0));
    let running = busy(&pool, &gate);
    eventually("the read runs", || async { (pool.status().in_use == 1).then_some(()) }).await;
    pool.drain();
    let opened = pool.snapshot().counters.opened;
    // A connection breaks in use, which makes the idle ones suspect. A draining pool does not replace them.
    let admin = connect(&context.engine().admin_url()).await;
    kill_all(&context, &admin, &context.last_database()).await;
    admin.close().await.unwrap();
    assert!(running.await.unwrap().is_err(), "a draining pool does not retry");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(pool.snapshot().counters.opened, opened);
    end(pool).await;
}
