//! A server that works and takes no further connection: what is open goes on, on the pool itself.

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

cases![a_door_that_is_shut_is_no_outage, those_who_are_in_bring_it_back, a_pool_that_drains_opens_nothing,];

/// Asks the database something every few milliseconds until there is a permit.
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

fn ask(pool: &Pool) -> JoinHandle<Result<i64, Error>> {
    let pool = pool.clone();
    tokio::spawn(async move {
        pool.read("test.ask", |db| async move { Ok::<_, Error>(number(&db, "SELECT 2").await?) }).await
    })
}

async fn a_door_that_is_shut_is_no_outage(context: Context) {
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let options = PoolOptions::default().max(4).min(2).acquire(Duration::from_secs(60));
    let pool = pool_on(&url, options).await;
    let gate = Arc::new(Semaphore::new(0));
    let both = [busy(&pool, &gate), busy(&pool, &gate)];
    eventually("both are busy", || async { (pool.status().in_use == 2).then_some(()) }).await;
    proxy.shut();
    let third = ask(&pool);
    eventually("no further one can be opened", || async { pool.snapshot().shortage }).await;
    assert_eq!(pool.snapshot().state, PoolState::Up);
    gate.add_permits(2);
    for one in both {
        assert_eq!(one.await.unwrap().unwrap(), 1);
    }
    assert_eq!(third.await.unwrap().unwrap(), 2, "it waits for those that are open");
    proxy.mend();
    end(pool).await;
}

async fn those_who_are_in_bring_it_back(context: Context) {
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let options = PoolOptions::default().max(2).min(2).acquire(Duration::from_secs(60));
    let pool = pool_on(&url, options).await;
    proxy.shut();
    // Statements that take longer than the pool sits still: it looks, and finds the door shut.
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
    eventually("it is thought to be down", || async { (pool.snapshot().state == PoolState::Down).then_some(()) }).await;
    for one in slow {
        one.await.unwrap().unwrap();
    }
    eventually("those that are open serve", || async { ask(&pool).await.unwrap().ok() }).await;
    assert_eq!(pool.status().total, 2);
    proxy.mend();
    end(pool).await;
}

async fn a_pool_that_drains_opens_nothing(context: Context) {
    let pool = pool_on(&context.database().await, PoolOptions::default().max(3).min(3)).await;
    let gate = Arc::new(Semaphore::new(0));
    let running = busy(&pool, &gate);
    eventually("it runs", || async { (pool.status().in_use == 1).then_some(()) }).await;
    pool.drain();
    let opened = pool.snapshot().counters.opened;
    // One dies in use, so that those which rest are suspected; nobody will need others.
    let admin = connect(&context.engine().admin_url()).await;
    kill_all(&context, &admin, &context.last_database()).await;
    admin.close().await.unwrap();
    assert!(running.await.unwrap().is_err(), "nobody is let in again");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(pool.snapshot().counters.opened, opened);
    end(pool).await;
}
