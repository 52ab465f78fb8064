//! Who is let in, on the pool itself, and what is told of it.

use std::{sync::Arc, time::Duration};

use orm_pool::{AcquireError, DatabaseUrl, Error, Pool, PoolOptions, RequestContext};
use sea_orm::ConnectionTrait;
use tokio::sync::Barrier;

use test_support::{
    Engine, Locked,
    bare::{end, pool, read, run},
    cases, connect, eventually, number,
};

use crate::Context;

cases![
    an_operation_inside_an_operation_is_refused,
    what_would_come_too_late_is_refused_on_arrival,
    a_refusal_tells_who_holds_the_connections,
    changed_limits_take_effect_at_once,
];

async fn an_operation_inside_an_operation_is_refused(context: Context) {
    let pool = pool(&context, PoolOptions::default().max(1).min(1)).await;
    let inner = pool.clone();
    let refused = pool
        .read("test.outer", move |_| {
            let inner = inner.clone();
            async move { inner.read("test.inner", |_| async { Ok::<_, Error>(()) }).await }
        })
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::Nested { operation: "test.inner", within: "test.outer" }), "{refused:?}");
    // In a task that it has spawned, and waits for, as well.
    let inner = pool.clone();
    let refused = pool
        .read("test.outer", move |_| {
            let inner = inner.clone();
            let spawned = async move { inner.read("test.inner", |_| async { Ok::<_, Error>(()) }).await };
            async move { tokio::spawn(spawned).await.unwrap() }
        })
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::Nested { operation: "test.inner", .. }), "{refused:?}");
    assert_eq!(read(&pool, "SELECT COUNT(*) FROM t").await, 2);
    end(pool).await;
}

/// Writes that wait for a lock which the test holds.
fn blocked(pool: &Pool, deadline: Option<Duration>) -> tokio::task::JoinHandle<Result<(), Error>> {
    let pool = pool.clone();
    tokio::spawn(async move {
        let write = pool.write("test.blocked", |db| async move {
            db.execute_unprepared("UPDATE users SET version = version").await?;
            Ok::<_, Error>(())
        });
        let caller = RequestContext::new("request 4711");
        match deadline {
            Some(limit) => caller.timeout(limit).scope(write).await,
            None => caller.scope(write).await,
        }
    })
}

async fn blocked_pool(context: &Context, options: PoolOptions) -> (Pool, Locked) {
    let pool = pool(context, options).await;
    run(&pool, "CREATE TABLE users (version INTEGER)").await;
    let url = context.last_database();
    (pool, Locked::users(context, &url).await)
}

async fn what_would_come_too_late_is_refused_on_arrival(context: Context) {
    let options = PoolOptions::default().max(1).min(1).acquire(Duration::from_secs(60));
    let pool = pool(&context, options).await;
    run(&pool, "CREATE TABLE users (version INTEGER)").await;
    // Holds of half a second each are what is known.
    for _ in 0..3 {
        pool.read("test.slow", |_| async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            Ok::<_, Error>(())
        })
        .await
        .unwrap();
    }
    let lock = Locked::users(&context, &context.last_database()).await;
    let first = blocked(&pool, None);
    eventually("it holds the connection", || async { (pool.status().in_use == 1).then_some(()) }).await;
    let patient = blocked(&pool, Some(Duration::from_secs(60)));
    eventually("a patient one waits", || async { (pool.status().waiting == 1).then_some(()) }).await;
    let hurried = blocked(&pool, Some(Duration::from_millis(20))).await.unwrap().unwrap_err();
    assert!(
        matches!(&hurried, Error::Refused { reason: AcquireError::TooLate { predicted }, .. } if *predicted > Duration::from_millis(20)),
        "{hurried:?}"
    );
    lock.unlock().await;
    first.await.unwrap().unwrap();
    patient.await.unwrap().unwrap();
    end(pool).await;
}

async fn a_refusal_tells_who_holds_the_connections(context: Context) {
    let options = PoolOptions::default().max(1).min(1).wait(false).acquire(Duration::from_secs(60));
    let (pool, lock) = blocked_pool(&context, options).await;
    let first = blocked(&pool, None);
    eventually("it holds the connection", || async { (pool.status().in_use == 1).then_some(()) }).await;
    let snapshot = pool.snapshot();
    let holder = &snapshot.longest_holders[0];
    assert_eq!((holder.operation, holder.request.as_deref()), ("test.blocked", Some("request 4711")));
    let refused = blocked(&pool, None).await.unwrap().unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("all connections are in use"), "{text}");
    assert!(text.contains("1 open, 0 idle, 1 in use, 0 waiting; held longest by test.blocked for "), "{text}");
    lock.unlock().await;
    first.await.unwrap().unwrap();
    end(pool).await;
}

async fn changed_limits_take_effect_at_once(context: Context) {
    let options = PoolOptions::default().max(2).min(0);
    let pool = pool(&context, options.clone()).await;
    let url = DatabaseUrl::parse(&context.last_database()).unwrap();
    let change = async |max, min| {
        let options = options.clone().max(max).min(min);
        pool.reconfigure(&url, &options).await.unwrap();
    };
    let together = async |count: usize| {
        let met = Arc::new(Barrier::new(count));
        let all = (0..count).map(|_| {
            let (pool, met) = (pool.clone(), Arc::clone(&met));
            tokio::spawn(async move {
                pool.read("test.meet", move |_| {
                    let met = Arc::clone(&met);
                    async move {
                        met.wait().await;
                        Ok::<_, Error>(())
                    }
                })
                .await
            })
        });
        for one in futures_util::future::join_all(all).await {
            one.unwrap().unwrap();
        }
    };
    together(2).await;
    change(8, 6).await;
    eventually("min is opened", || async { (pool.status().total == 6).then_some(()) }).await;
    together(8).await;
    change(2, 1).await;
    eventually("those beyond max are closed", || async { (pool.status().total <= 2).then_some(()) }).await;
    together(2).await;
    assert_eq!(pool.snapshot().limits.max, 2);
    // A lifetime that becomes shorter is that of the connections which are there, too.
    let before = pool.snapshot().counters.closed_lifetime;
    let shorter = options.clone().max(2).min(1).lifetime(Duration::from_millis(100));
    pool.reconfigure(&url, &shorter).await.unwrap();
    eventually("those that are too old now are closed", || async {
        (pool.snapshot().counters.closed_lifetime > before).then_some(())
    })
    .await;
    if context.engine() == Engine::Sqlite {
        // Its busy time-out is a setting of each connection.
        let hurried = shorter.acquire(Duration::from_millis(1234));
        pool.reconfigure(&url, &hurried).await.unwrap();
        for _ in 0..3 {
            assert_eq!(read(&pool, "SELECT timeout FROM pragma_busy_timeout").await, 1234);
        }
    }
    let other = DatabaseUrl::parse(&context.database().await).unwrap();
    assert!(pool.reconfigure(&other, &options).await.is_err(), "another database is not a change of settings");
    // Whoever looks from the outside sees as many.
    if context.engine() == Engine::Postgres {
        let outside = connect(&context.engine().admin_url()).await;
        let name = url::Url::parse(&url.to_string()).unwrap().path().trim_start_matches('/').to_owned();
        let sql = format!("SELECT COUNT(*) FROM pg_stat_activity WHERE datname = '{name}'");
        eventually("the server sees two at the most", || async {
            (number(&outside, &sql).await.unwrap() <= 2).then_some(())
        })
        .await;
        outside.close().await.unwrap();
    }
    end(pool).await;
}
