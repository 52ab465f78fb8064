//! Every pool setting takes effect, and an exhausted pool reports it.

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
    max_limits_the_connections,
    min_connections_are_open_at_start,
    idle_connections_are_closed_down_to_min,
    connections_are_replaced_after_their_max_lifetime,
    the_acquire_timeout_limits_the_wait,
    without_wait_an_exhausted_pool_rejects_immediately,
    a_full_queue_rejects_requests,
    the_statement_timeout_cancels_blocked_statements,
    validation_detects_dead_connections,
    connections_have_the_application_name,
    the_pool_has_dedicated_threads,
    all_workers_share_one_pool,
    a_timed_out_request_releases_its_connection_when_its_operation_ends,
];

/// Starts a POST in the background.
fn post(app: &App, email: &str) -> tokio::task::JoinHandle<Reply> {
    let (app, body) = (app.clone(), json!({"name": "Ann", "email": email}));
    tokio::spawn(async move { app.post("/users", &body).await })
}

/// The server's ids of the connections to the application's database, except that of the query itself.
async fn connection_ids(context: &Context, app: &App) -> BTreeSet<i64> {
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

async fn max_limits_the_connections(context: Context) {
    let app = context.app_with(&[("pool.max", "3"), ("pool.min", "0"), ("pool.batch", "false")]).await;
    let mut most = 0;
    // A burst may be served before the pool has grown.
    for round in 0..20 {
        let burst = (0..60).map(|number| post(&app, &format!("ann{number}-{round}@example.com")));
        for reply in burst.collect::<Vec<_>>() {
            most = most.max(app.pool().await["total"].as_u64().unwrap());
            assert_eq!(reply.await.unwrap().status, 201);
        }
        if most >= 3 {
            break;
        }
    }
    // SQLite has a single writer, so its pool need not grow to `max`.
    assert!(if context.engine() == Engine::Sqlite { (1..=3).contains(&most) } else { most == 3 }, "{most}");
    assert_eq!(app.pool().await["limits"]["max"], 3);
    if context.engine() != Engine::Sqlite {
        await_connections(&context, &app, 3).await;
    }
}

/// Waits for this number of connections: the server may still list a closed one, or the one that ran the migrations.
async fn await_connections(context: &Context, app: &App, count: usize) {
    let have = || async { (connection_ids(context, app).await.len() == count).then_some(()) };
    eventually("the server has this number of connections", have).await;
    app.pool_until("the pool has this number of connections", |pool| pool["total"] == count).await;
}

async fn min_connections_are_open_at_start(context: Context) {
    let app = context.app_with(&[("pool.min", "4")]).await;
    assert_eq!(app.pool().await["total"], 4);
    // The connection that migrated is pinged before it counts as idle again.
    app.pool_until("all connections are idle", |pool| pool["idle"] == 4 && pool["inUse"] == 0).await;
    if context.engine() != Engine::Sqlite {
        await_connections(&context, &app, 4).await;
    }
}

async fn idle_connections_are_closed_down_to_min(context: Context) {
    let settings = [("pool.min", "1"), ("pool.max", "5"), ("pool.idle", "300ms"), ("pool.batch", "false")];
    let app = context.app_with(&settings).await;
    // How many connections a burst needs depends on the machine.
    eventually("a burst opens connections", || async {
        let burst = (0..100).map(|_| app.get("/users"));
        let replies = futures_util::future::join_all(burst).await;
        assert!(replies.iter().all(|reply| reply.status == 200));
        (app.pool().await["counters"]["opened"].as_u64() > Some(1)).then_some(())
    })
    .await;
    app.pool_until("the pool shrinks to min", |pool| pool["total"] == 1).await;
}

async fn connections_are_replaced_after_their_max_lifetime(context: Context) {
    let app = context.app_with(&[("pool.min", "2"), ("pool.max", "2"), ("pool.lifetime", "400ms")]).await;
    if context.engine() == Engine::Sqlite {
        // SQLite connections are not visible from outside.
        app.pool_until("all connections are replaced", |pool| pool["counters"]["closedLifetime"].as_u64() >= Some(2))
            .await;
        assert_eq!(app.get("/users").await.status, 200);
        return;
    }
    let before = connection_ids(&context, &app).await;
    let replaced = || async {
        let now = connection_ids(&context, &app).await;
        (now.is_disjoint(&before) && now.len() == 2).then_some(())
    };
    eventually("all connections are replaced", replaced).await;
    assert_eq!(app.get("/users").await.status, 200);
}

async fn the_acquire_timeout_limits_the_wait(context: Context) {
    let app = context.app_with(&[("pool.max", "1"), ("pool.min", "1"), ("pool.acquire", "700ms")]).await;
    if context.engine() == Engine::Sqlite {
        // The first writer waits for SQLite's lock as long as the second one waits in the queue.
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
    // The lock is held throughout; a busy machine may be late, but not by this much.
    assert!((Duration::from_millis(700)..Duration::from_secs(15)).contains(&waited), "rejected after {waited:?}");
    // A probe does not wait for a connection.
    assert_eq!(app.get("/health/live").await.status, 200);
    lock.unlock().await;
    assert_eq!(first.await.unwrap().status, 201);
    assert_eq!(post(&app, "c@example.com").await.unwrap().status, 201, "the pool serves requests again");
}

async fn without_wait_an_exhausted_pool_rejects_immediately(context: Context) {
    let app = context
        .app_with(&[("pool.max", "1"), ("pool.min", "1"), ("pool.wait", "false"), ("pool.acquire", "60s")])
        .await;
    let lock = Locked::users(&context, &app.url).await;
    let first = post(&app, "a@example.com");
    app.pool_until("the first holds the connection", |pool| pool["inUse"] == 1).await;
    // Any response proves it: a wait would last 60 seconds, and the lock is held throughout.
    post(&app, "b@example.com").await.unwrap().problem(503, "pool-exhausted");
    lock.unlock().await;
    assert_eq!(first.await.unwrap().status, 201);
}

async fn a_full_queue_rejects_requests(context: Context) {
    let app = context
        .app_with(&[("pool.max", "1"), ("pool.min", "1"), ("pool.queue_limit", "2"), ("pool.acquire", "60s")])
        .await;
    let lock = Locked::users(&context, &app.url).await;
    let first = post(&app, "a@example.com");
    app.pool_until("the first holds the connection", |pool| pool["inUse"] == 1).await;
    let waiting = [post(&app, "b@example.com"), post(&app, "c@example.com")];
    app.pool_until("two requests wait", |pool| pool["waiting"] == 2).await;
    post(&app, "d@example.com").await.unwrap().problem(503, "pool-exhausted");
    lock.unlock().await;
    for reply in [first].into_iter().chain(waiting) {
        assert_eq!(reply.await.unwrap().status, 201);
    }
    app.pool_until("no waiter or connection in use is left", |pool| pool["waiting"] == 0 && pool["inUse"] == 0).await;
}

async fn the_statement_timeout_cancels_blocked_statements(context: Context) {
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

async fn validation_detects_dead_connections(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let app = context.app_with(&[("pool.validate_after", "0s"), ("pool.max", "3"), ("pool.min", "3")]).await;
    let database = connect(&app.url).await;
    for id in connection_ids(&context, &app).await {
        let kill = match context.engine() {
            Engine::Postgres => format!("SELECT pg_terminate_backend({id})"),
            _ => format!("KILL {id}"),
        };
        // The connection of `connection_ids` may be closed already.
        let _ = database.execute_unprepared(&kill).await;
    }
    // Writes, because a read on a dead connection is retried.
    for number in 0..10 {
        assert_eq!(post(&app, &format!("ann{number}@example.com")).await.unwrap().status, 201);
    }
}

async fn connections_have_the_application_name(context: Context) {
    if context.engine() != Engine::Postgres {
        return;
    }
    let app = context.app_with(&[("pool.application_name", "users-api-blue")]).await;
    let database = connect(&app.url).await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'users-api-blue' AND datname = current_database()";
    let have = || async { (number(&database, sql).await.unwrap() == 2).then_some(()) };
    eventually("both connections have the name", have).await;
}

async fn the_pool_has_dedicated_threads(context: Context) {
    let url = context.database().await;
    let service = Service::start(context.folder(), &[("DATABASE_URL", &url), ("USERS_API__POOL__THREADS", "3")]).await;
    let names = std::fs::read_dir(format!("/proc/{}/task", service.id())).unwrap();
    let pool = names.filter(|task| {
        let name = std::fs::read_to_string(task.as_ref().unwrap().path().join("comm"));
        name.is_ok_and(|name| name.trim() == "pool")
    });
    assert_eq!(pool.count(), 3);
}

async fn all_workers_share_one_pool(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    // Eight workers would open two connections each if every worker had a pool.
    let app = context.app_with(&[("server.workers", "8")]).await;
    await_connections(&context, &app, 2).await;
}

async fn a_timed_out_request_releases_its_connection_when_its_operation_ends(context: Context) {
    let settings = [("pool.max", "1"), ("pool.min", "1"), ("pool.acquire", "60s"), ("server.request_timeout", "2s")];
    let app = context.app_with(&settings).await;
    let lock = Locked::users(&context, &app.url).await;
    post(&app, "a@example.com").await.unwrap().problem(503, "request-timeout");
    assert_eq!(app.pool().await["inUse"], 1, "the operation continues: it is not interrupted");
    lock.unlock().await;
    app.pool_until("its connection is released", |pool| pool["inUse"] == 0).await;
    let users = app.get("/users").await.json();
    assert_eq!(users.as_array().unwrap().len(), 1, "the write was completed, as the problem said it might be");
}
