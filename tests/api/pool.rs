//! Each knob reaches the pool, and a pool that cannot serve says so.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use sea_orm::{ConnectionTrait, Statement};
use serde_json::json;

use crate::{
    cases,
    harness::{App, Context, Engine, Locked, Reply, Service, connect, eventually, number},
};

cases![
    max_bounds_the_connections,
    min_is_warm_at_start,
    idle_connections_are_closed_down_to_min,
    lifetime_replaces_connections,
    acquire_bounds_the_wait,
    without_wait_a_busy_pool_refuses_at_once,
    queue_limit_bounds_who_waits,
    statement_timeout_ends_what_hangs,
    validate_after_finds_dead_connections,
    application_name_is_shown,
    threads_are_the_pools_own,
    one_pool_for_the_whole_process,
    a_request_that_takes_too_long_gives_its_place_back,
];

/// A POST that is on its way.
fn post(app: &App, email: &str) -> tokio::task::JoinHandle<Reply> {
    let (app, body) = (app.clone(), json!({"name": "Ann", "email": email}));
    tokio::spawn(async move { app.post("/users", &body).await })
}

/// The server's own ids of the connections to the application's database, but for the one that asks.
async fn server_side(context: &Context, app: &App) -> BTreeSet<i64> {
    let database = connect(&app.url).await;
    let sql = match context.engine() {
        Engine::Postgres => {
            "SELECT pid::bigint FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                .to_owned()
        }
        engine => format!(
            "SELECT CAST(id AS SIGNED) FROM {} WHERE db = database() AND id <> connection_id()",
            engine.sessions()
        ),
    };
    let rows = database.query_all_raw(Statement::from_string(database.get_database_backend(), sql)).await.unwrap();
    database.close().await.unwrap();
    rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
}

async fn max_bounds_the_connections(context: Context) {
    let app = context.app_with(&[("pool.max", "3"), ("pool.min", "0"), ("pool.batch", "false")]).await;
    let burst = (0..60).map(|number| post(&app, &format!("ann{number}@example.com")));
    let burst: Vec<_> = burst.collect();
    let mut most = 0;
    for reply in burst {
        most = most.max(app.pool().await["total"].as_u64().unwrap());
        assert_eq!(reply.await.unwrap().status, 201);
    }
    // SQLite writes through one lane, so its pool need not grow to its bound.
    assert!(if context.engine() == Engine::Sqlite { (1..=3).contains(&most) } else { most == 3 }, "{most}");
    assert_eq!(app.pool().await["limits"]["max"], 3);
    if context.engine() != Engine::Sqlite {
        has_connections(&context, &app, 3).await;
    }
}

/// The server may take a moment to forget a connection that migrated, or one that was closed.
async fn has_connections(context: &Context, app: &App, count: usize) {
    let are = || async { (server_side(context, app).await.len() == count).then_some(()) };
    eventually("the server has so many connections", are).await;
    app.pool_until("the pool has them", |pool| pool["total"] == count).await;
}

async fn min_is_warm_at_start(context: Context) {
    let app = context.app_with(&[("pool.min", "4")]).await;
    assert_eq!(app.pool().await["total"], 4);
    // The connection that migrated is pinged before it counts as idle again.
    app.pool_until("all are idle", |pool| pool["idle"] == 4 && pool["inUse"] == 0).await;
    if context.engine() != Engine::Sqlite {
        has_connections(&context, &app, 4).await;
    }
}

async fn idle_connections_are_closed_down_to_min(context: Context) {
    let settings = [("pool.min", "1"), ("pool.max", "5"), ("pool.idle", "300ms"), ("pool.batch", "false")];
    let app = context.app_with(&settings).await;
    // How many connections a burst needs, is for the machine to say.
    eventually("a burst opens connections", || async {
        let burst = (0..100).map(|_| app.get("/users"));
        let replies = futures_util::future::join_all(burst).await;
        assert!(replies.iter().all(|reply| reply.status == 200));
        (app.pool().await["counters"]["opened"].as_u64() > Some(1)).then_some(())
    })
    .await;
    app.pool_until("the pool shrinks to min", |pool| pool["total"] == 1).await;
}

async fn lifetime_replaces_connections(context: Context) {
    let app = context.app_with(&[("pool.min", "2"), ("pool.max", "2"), ("pool.lifetime", "400ms")]).await;
    if context.engine() == Engine::Sqlite {
        // Nobody outside sees an SQLite connection.
        app.pool_until("all connections are new ones", |pool| pool["counters"]["closedLifetime"].as_u64() >= Some(2))
            .await;
        assert_eq!(app.get("/users").await.status, 200);
        return;
    }
    let before = server_side(&context, &app).await;
    let gone =
        || async { Some(server_side(&context, &app).await).filter(|now| now.is_disjoint(&before) && now.len() == 2) };
    eventually("all connections are new ones", gone).await;
    assert_eq!(app.get("/users").await.status, 200);
}

async fn acquire_bounds_the_wait(context: Context) {
    let app = context.app_with(&[("pool.max", "1"), ("pool.min", "1"), ("pool.acquire", "700ms")]).await;
    if context.engine() == Engine::Sqlite {
        // The writer in front waits for SQLite's own lock as long as the one behind it waits for its turn.
        let lock = Locked::users(&context, &app.url).await;
        let (first, second) = (post(&app, "a@example.com"), post(&app, "b@example.com"));
        assert_eq!((first.await.unwrap().status.as_u16(), second.await.unwrap().status.as_u16()), (503, 503));
        return lock.unlock().await;
    }
    let lock = Locked::users(&context, &app.url).await;
    let first = post(&app, "a@example.com");
    app.pool_until("the first holds the connection", |pool| pool["inUse"] == 1).await;
    let began = Instant::now();
    let second = post(&app, "b@example.com").await.unwrap();
    second.problem(503, "pool-exhausted");
    let waited = began.elapsed();
    // The lock is held all the while; a machine that is busy may be late, but not by this much.
    assert!((Duration::from_millis(700)..Duration::from_secs(15)).contains(&waited), "it gave up after {waited:?}");
    // A probe is not kept waiting by users.
    assert_eq!(app.get("/health/live").await.status, 200);
    lock.unlock().await;
    assert_eq!(first.await.unwrap().status, 201);
    assert_eq!(post(&app, "c@example.com").await.unwrap().status, 201, "the pool is whole again");
}

async fn without_wait_a_busy_pool_refuses_at_once(context: Context) {
    let app = context
        .app_with(&[("pool.max", "1"), ("pool.min", "1"), ("pool.wait", "false"), ("pool.acquire", "60s")])
        .await;
    let lock = Locked::users(&context, &app.url).await;
    let first = post(&app, "a@example.com");
    app.pool_until("the first holds the connection", |pool| pool["inUse"] == 1).await;
    // An answer at all proves it: a wait would last 60 seconds, and the lock is held throughout.
    post(&app, "b@example.com").await.unwrap().problem(503, "pool-exhausted");
    lock.unlock().await;
    assert_eq!(first.await.unwrap().status, 201);
}

async fn queue_limit_bounds_who_waits(context: Context) {
    let app = context
        .app_with(&[("pool.max", "1"), ("pool.min", "1"), ("pool.queue_limit", "2"), ("pool.acquire", "60s")])
        .await;
    let lock = Locked::users(&context, &app.url).await;
    let first = post(&app, "a@example.com");
    app.pool_until("the first holds the connection", |pool| pool["inUse"] == 1).await;
    let waiting = [post(&app, "b@example.com"), post(&app, "c@example.com")];
    app.pool_until("two wait", |pool| pool["waiting"] == 2).await;
    post(&app, "d@example.com").await.unwrap().problem(503, "pool-exhausted");
    lock.unlock().await;
    for reply in [first].into_iter().chain(waiting) {
        assert_eq!(reply.await.unwrap().status, 201);
    }
    app.pool_until("nothing is left behind", |pool| pool["waiting"] == 0 && pool["inUse"] == 0).await;
}

async fn statement_timeout_ends_what_hangs(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let app = context.app_with(&[("pool.statement_timeout", "500ms")]).await;
    let lock = Locked::users(&context, &app.url).await;
    let began = Instant::now();
    post(&app, "a@example.com").await.unwrap().problem(503, "database-unavailable");
    assert!(began.elapsed() >= Duration::from_millis(500));
    lock.unlock().await;
    assert_eq!(post(&app, "a@example.com").await.unwrap().status, 201);
}

async fn validate_after_finds_dead_connections(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let app = context.app_with(&[("pool.validate_after", "0s"), ("pool.max", "3"), ("pool.min", "3")]).await;
    let database = connect(&app.url).await;
    for id in server_side(&context, &app).await {
        let kill = match context.engine() {
            Engine::Postgres => format!("SELECT pg_terminate_backend({id})"),
            _ => format!("KILL {id}"),
        };
        // The one that asked last may be gone by itself.
        let _ = database.execute_unprepared(&kill).await;
    }
    // Writes, as a read that meets a dead connection is done again.
    for number in 0..10 {
        assert_eq!(post(&app, &format!("ann{number}@example.com")).await.unwrap().status, 201);
    }
}

async fn application_name_is_shown(context: Context) {
    if context.engine() != Engine::Postgres {
        return;
    }
    let app = context.app_with(&[("pool.application_name", "users-api-blue")]).await;
    let database = connect(&app.url).await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'users-api-blue' AND datname = current_database()";
    let are = || async { (number(&database, sql).await.unwrap() == 2).then_some(()) };
    eventually("they are known by it", are).await;
}

async fn threads_are_the_pools_own(context: Context) {
    let url = context.database().await;
    let service = Service::start(context.folder(), &[("DATABASE_URL", &url), ("USERS_API__POOL__THREADS", "3")]).await;
    let names = std::fs::read_dir(format!("/proc/{}/task", service.id())).unwrap();
    let pool = names.filter(|task| {
        let name = std::fs::read_to_string(task.as_ref().unwrap().path().join("comm"));
        name.is_ok_and(|name| name.trim() == "pool")
    });
    assert_eq!(pool.count(), 3);
}

async fn one_pool_for_the_whole_process(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    // Eight workers, each of which would open two connections of its own if it had a pool.
    let app = context.app_with(&[("server.workers", "8")]).await;
    has_connections(&context, &app, 2).await;
}

async fn a_request_that_takes_too_long_gives_its_place_back(context: Context) {
    let settings = [("pool.max", "1"), ("pool.min", "1"), ("pool.acquire", "60s"), ("server.request_timeout", "2s")];
    let app = context.app_with(&settings).await;
    let lock = Locked::users(&context, &app.url).await;
    post(&app, "a@example.com").await.unwrap().problem(503, "request-timeout");
    assert_eq!(app.pool().await["inUse"], 1, "the operation goes on: it is not cut half-way");
    lock.unlock().await;
    app.pool_until("its place is free", |pool| pool["inUse"] == 0).await;
    let users = app.get("/users").await.json();
    assert_eq!(users.as_array().unwrap().len(), 1, "what was asked for was done, as the problem said it might be");
}
