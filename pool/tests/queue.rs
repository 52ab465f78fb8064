//! Admission: which operations are admitted or refused, and what is reported about them.

use std::{sync::Arc, time::Duration};

use orm_pool::{AcquireError, DatabaseUrl, Error, Pool, PoolOptions, RequestContext};
use sea_orm::ConnectionTrait;
use tokio::sync::Barrier;

use test_support::{
    Engine, Locked,
    bare::{end, nested_operation_error, pool, read, run},
    cases, connect, eventually, number,
};

use crate::Context;

cases![
    an_operation_inside_an_operation_is_refused,
    requests_that_would_time_out_are_refused_on_arrival,
    a_refusal_reports_the_longest_holder,
    changed_limits_take_effect_immediately,
    changed_timeouts_apply_to_open_connections,
    another_database_is_refused,
    a_new_connection_serves_an_operation_whatever_its_lifetime,
];

async fn an_operation_inside_an_operation_is_refused(context: Context) {
    let pool = pool(&context, PoolOptions::default().max(1).min(1)).await;
    let refused = nested_operation_error(&pool).await;
    assert!(matches!(refused, Error::Nested { operation: "test.inner", within: "test.outer" }), "{refused:?}");
    // Also in a task that the operation spawns and waits for.
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

/// Spawns a write that waits for a lock that the test holds.
fn blocked_write(pool: &Pool, deadline: Option<Duration>) -> tokio::task::JoinHandle<Result<(), Error>> {
    let pool = pool.clone();
    tokio::spawn(async move {
        let write = pool.write("test.blocked", |db| async move {
            db.execute_unprepared("UPDATE users SET version = version").await?;
            Ok::<_, Error>(())
        });
        let request = RequestContext::new("request 4711");
        match deadline {
            Some(limit) => request.timeout(limit).scope(write).await,
            None => request.scope(write).await,
        }
    })
}

async fn blocked_pool(context: &Context, options: PoolOptions) -> (Pool, Locked) {
    let pool = pool(context, options).await;
    run(&pool, "CREATE TABLE users (version INTEGER)").await;
    let url = context.last_database();
    (pool, Locked::users(context, &url).await)
}

async fn requests_that_would_time_out_are_refused_on_arrival(context: Context) {
    let options = PoolOptions::default().max(1).min(1).acquire(Duration::from_secs(60));
    let pool = pool(&context, options).await;
    run(&pool, "CREATE TABLE users (version INTEGER)").await;
    // The prediction is based on these holds of half a second each.
    for _ in 0..3 {
        pool.read("test.slow", |_| async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            Ok::<_, Error>(())
        })
        .await
        .unwrap();
    }
    let lock = Locked::users(&context, &context.last_database()).await;
    let first = blocked_write(&pool, None);
    eventually("the first write holds the connection", || async { (pool.status().in_use == 1).then_some(()) }).await;
    let patient = blocked_write(&pool, Some(Duration::from_secs(60)));
    eventually("a write with a long timeout waits", || async { (pool.status().waiting == 1).then_some(()) }).await;
    let hurried = blocked_write(&pool, Some(Duration::from_millis(20))).await.unwrap().unwrap_err();
    assert!(
        matches!(&hurried, Error::Refused { reason: AcquireError::TooLate { predicted }, .. } if *predicted > Duration::from_millis(20)),
        "{hurried:?}"
    );
    lock.unlock().await;
    first.await.unwrap().unwrap();
    patient.await.unwrap().unwrap();
    end(pool).await;
}

async fn a_refusal_reports_the_longest_holder(context: Context) {
    let options = PoolOptions::default().max(1).min(1).wait(false).acquire(Duration::from_secs(60));
    let (pool, lock) = blocked_pool(&context, options).await;
    let first = blocked_write(&pool, None);
    eventually("the first write holds the connection", || async { (pool.status().in_use == 1).then_some(()) }).await;
    let snapshot = pool.snapshot();
    let holder = &snapshot.longest_holders[0];
    assert_eq!((holder.operation, holder.request.as_deref()), ("test.blocked", Some("request 4711")));
    let refused = blocked_write(&pool, None).await.unwrap().unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("all connections are in use"), "{text}");
    assert!(text.contains("1 open, 0 idle, 1 in use, 0 waiting; held longest by test.blocked for "), "{text}");
    lock.unlock().await;
    first.await.unwrap().unwrap();
    end(pool).await;
}

/// Runs operations that end only once all of them run.
async fn run_concurrently(pool: &Pool, count: usize) {
    let barrier = Arc::new(Barrier::new(count));
    let all = (0..count).map(|_| {
        let (pool, barrier) = (pool.clone(), Arc::clone(&barrier));
        tokio::spawn(async move {
            pool.read("test.meet", move |_| {
                let barrier = Arc::clone(&barrier);
                async move {
                    barrier.wait().await;
                    Ok::<_, Error>(())
                }
            })
            .await
        })
    });
    for outcome in futures_util::future::join_all(all).await {
        outcome.unwrap().unwrap();
    }
}

async fn changed_limits_take_effect_immediately(context: Context) {
    let options = PoolOptions::default().max(2).min(0);
    let pool = pool(&context, options.clone()).await;
    let url = DatabaseUrl::parse(&context.last_database()).unwrap();
    let set_limits = async |max, min| {
        let options = options.clone().max(max).min(min);
        pool.reconfigure(&url, &options).await.unwrap();
    };
    run_concurrently(&pool, 2).await;
    set_limits(8, 6).await;
    eventually("min connections are open", || async { (pool.status().total == 6).then_some(()) }).await;
    run_concurrently(&pool, 8).await;
    set_limits(2, 1).await;
    eventually("connections beyond max are closed", || async { (pool.status().total <= 2).then_some(()) }).await;
    run_concurrently(&pool, 2).await;
    assert_eq!(pool.snapshot().limits.max, 2);
    // The server counts the same number.
    if context.engine() == Engine::Postgres {
        let outside = connect(&context.engine().admin_url()).await;
        let name = url::Url::parse(&url.to_string()).unwrap().path().trim_start_matches('/').to_owned();
        let sql = format!("SELECT COUNT(*) FROM pg_stat_activity WHERE datname = '{name}'");
        eventually("the server counts at most two", || async {
            (number(&outside, &sql).await.unwrap() <= 2).then_some(())
        })
        .await;
        outside.close().await.unwrap();
    }
    end(pool).await;
}

async fn changed_timeouts_apply_to_open_connections(context: Context) {
    let options = PoolOptions::default().max(2).min(1);
    let pool = pool(&context, options.clone()).await;
    run_concurrently(&pool, 2).await;
    let url = DatabaseUrl::parse(&context.last_database()).unwrap();
    let before = pool.snapshot().counters.closed_lifetime;
    let shorter = options.lifetime(Duration::from_millis(100));
    pool.reconfigure(&url, &shorter).await.unwrap();
    eventually("connections beyond the new lifetime are closed", || async {
        (pool.snapshot().counters.closed_lifetime > before).then_some(())
    })
    .await;
    if context.engine() == Engine::Sqlite {
        // The busy timeout of SQLite is set on each connection.
        let shorter = shorter.acquire(Duration::from_millis(1234));
        pool.reconfigure(&url, &shorter).await.unwrap();
        for _ in 0..3 {
            assert_eq!(read(&pool, "SELECT timeout FROM pragma_busy_timeout").await, 1234);
        }
    }
    end(pool).await;
}

async fn another_database_is_refused(context: Context) {
    let options = PoolOptions::default();
    let pool = pool(&context, options.clone()).await;
    let other = DatabaseUrl::parse(&context.database().await).unwrap();
    assert!(pool.reconfigure(&other, &options).await.is_err(), "reconfigure cannot change the database");
    end(pool).await;
}

async fn a_new_connection_serves_an_operation_whatever_its_lifetime(context: Context) {
    let options = PoolOptions::default().max(2).min(0).lifetime(Duration::from_nanos(1));
    let pool = pool(&context, options).await;
    for _ in 0..3 {
        assert_eq!(read(&pool, "SELECT 1").await, 1);
    }
    eventually("each connection is closed after its operation", || async {
        (pool.snapshot().counters.closed_lifetime >= 3).then_some(())
    })
    .await;
    end(pool).await;
}
