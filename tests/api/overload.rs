//! Overload: more requests than the pool can serve.

use std::time::Duration;

use sea_orm::{ConnectionTrait, Statement};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    cases,
    harness::{
        App, Context, Engine, Load, Locked, Proxy, Sample, Service, by_status, connect, env_or, eventually, quantile,
    },
};

cases![
    disconnected_clients_leave_no_open_transaction,
    overload_does_not_reduce_goodput,
    probes_do_not_wait_for_a_connection,
    a_slow_hold_is_counted_once_with_its_operation,
];

/// Transactions open on the server, except that of the query itself.
async fn open_transactions(context: &Context, url: &str) -> i64 {
    let sql = match context.engine() {
        Engine::Sqlite => return 0,
        Engine::Postgres => {
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL".to_owned()
        }
        engine => format!(
            "SELECT count(*) FROM information_schema.innodb_trx t JOIN {} ON sessions.id = t.trx_mysql_thread_id WHERE sessions.db = database()",
            engine.sessions()
        ),
    };
    let database = connect(url).await;
    let row = database.query_one_raw(Statement::from_string(database.get_database_backend(), sql)).await.unwrap();
    let count = row.unwrap().try_get_by_index(0).unwrap();
    database.close().await.unwrap();
    count
}

async fn disconnected_clients_leave_no_open_transaction(context: Context) {
    let app = context.app_with(&[("pool.max", "10"), ("pool.acquire", "60s")]).await;
    let user = app.create("Ann", "ann@example.com").await;
    let id = user["id"].as_str().unwrap();
    let lock = Locked::users(&context, &app.url).await;
    let mut clients = Vec::new();
    for number in 0..500 {
        let body = format!(r#"{{"name":"Ann {number}"}}"#);
        let request = format!(
            "PATCH /users/{id} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/merge-patch+json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut client = TcpStream::connect(app.address).await.unwrap();
        // Dropping the socket resets the connection instead of closing it in order.
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        clients.push(client);
    }
    let writers = if context.engine() == Engine::Sqlite { 1 } else { 10 };
    app.pool_until("the pool is exhausted", |pool| pool["inUse"] == writers && pool["waiting"] == 500 - writers).await;
    drop(clients);
    app.pool_until("disconnected waiters have left the queue", |pool| pool["waiting"] == 0).await;
    lock.unlock().await;
    app.pool_until("running operations have finished", |pool| pool["inUse"] == 0).await;
    eventually("no transaction is left open", || async {
        (open_transactions(&context, &app.url).await == 0).then_some(())
    })
    .await;
    let patched = app.patch(&format!("/users/{id}"), &json!({"name": "Bea"})).await;
    assert_eq!(patched.status, 200, "{}", patched.text);
    let version = patched.json()["version"].as_i64().unwrap();
    assert_eq!(version, 2 + writers, "each operation that had begun ran once, the others never");
    let database = connect(&app.url).await;
    let sql = Statement::from_string(database.get_database_backend(), "SELECT name FROM users");
    let name: String = database.query_one_raw(sql).await.unwrap().unwrap().try_get_by_index(0).unwrap();
    assert_eq!(name, "Bea", "seen from a second connection");
    database.close().await.unwrap();
}

/// Responses per second with this status.
fn rate(samples: &[Sample], status: u16) -> f64 {
    let began = samples.iter().map(|sample| sample.began).min().unwrap();
    let ended = samples.iter().map(|sample| sample.began + sample.took).max().unwrap();
    let count = samples.iter().filter(|sample| sample.status == status).count();
    #[expect(clippy::cast_precision_loss)]
    {
        count as f64 / (ended - began).as_secs_f64()
    }
}

/// How long each phase lasts; `USERS_API_TEST_OVERLOAD` (seconds) overrides it.
fn phase() -> Duration {
    Duration::from_secs(env_or("USERS_API_TEST_OVERLOAD", 5))
}

async fn overload_does_not_reduce_goodput(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("USERS_API__POOL__MAX", "2"),
        ("USERS_API__POOL__MIN", "2"),
        ("USERS_API__POOL__QUEUE_LIMIT", "4"),
        ("USERS_API__POOL__ACQUIRE", "500ms"),
    ];
    let service = Service::start(context.folder(), &variables).await;
    let app = App::at(service.address, &url);
    // Each response of the database takes 20 ms, so that two connections serve at most 100 requests per second, on any
    // machine.
    proxy.slow(Duration::from_millis(20));
    let measured = async |clients| {
        // Clients pause between requests: rejected ones that retry immediately would be an attack, not overload.
        let load = Load::start_with(&app, clients, Duration::from_millis(50), |_| false);
        let probes = Load::of_probes(&app, Duration::from_millis(5));
        tokio::time::sleep(phase()).await;
        (load.stop().await, probes.stop().await)
    };
    let (at_capacity, _) = measured(8).await;
    // A first run under this load, so that all the memory it needs is allocated before the measurement.
    measured(80).await;
    let resident_before = service.resident_kib();
    let (overloaded, probes) = measured(80).await;
    let resident_after = service.resident_kib();
    let (capacity, goodput) = (rate(&at_capacity, 200), rate(&overloaded, 200));
    let with_status = |status| overloaded.iter().filter(|sample| sample.status == status).cloned().collect::<Vec<_>>();
    let (served, rejected) = (with_status(200), with_status(503));
    let (rejected_p50, rejected_p99) = (quantile(&rejected, 0.5), quantile(&rejected, 0.99));
    let served_p99 = quantile(&served, 0.99);
    let (live_p50, live_p99) = (quantile(&probes, 0.5), quantile(&probes, 0.99));
    println!(
        "{}: live in {live_p50:?} (p50), {live_p99:?} (p99); goodput {goodput:.1}/s of {capacity:.1}/s; rejected in {rejected_p50:?} (p50), {rejected_p99:?} (p99); served in {served_p99:?} (p99); {resident_before} KiB, then {resident_after} KiB; {:?}",
        context.engine().name(),
        by_status(&overloaded)
    );
    assert!(goodput > 0.8 * capacity, "goodput fell from {capacity} to {goodput}");
    // Relative to the time that any response takes on this machine.
    let limit = Duration::from_millis(20) + live_p50 * 4;
    assert!(rejected_p50 < limit, "rejections must be immediate: p50 {rejected_p50:?}, liveness {live_p50:?}");
    let limit = Duration::from_millis(1500) + live_p99 * 4;
    assert!(served_p99 < limit, "served requests took too long: p99 {served_p99:?}, liveness {live_p99:?}");
    assert!(resident_after < resident_before + resident_before / 5, "memory grew: {resident_before}, {resident_after}");
    assert_eq!(served.len() + rejected.len(), overloaded.len(), "{:?}", by_status(&overloaded));
}

async fn probes_do_not_wait_for_a_connection(context: Context) {
    let settings = [("pool.max", "1"), ("pool.min", "1"), ("pool.acquire", "60s")];
    let app = context.app_with(&settings).await;
    let lock = Locked::users(&context, &app.url).await;
    let posting = {
        let app = app.clone();
        tokio::spawn(async move { app.post("/users", &json!({"name": "Ann", "email": "ann@example.com"})).await })
    };
    app.pool_until("the only connection is in use", |pool| pool["inUse"] == 1).await;
    // Long enough that the last response of the database is no longer recent.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(app.get("/health/ready").await.status, 200, "the database responds, although no connection is free");
    assert_eq!(app.pool().await["state"], "up");
    lock.unlock().await;
    assert_eq!(posting.await.unwrap().status, 201);
}

async fn a_slow_hold_is_counted_once_with_its_operation(context: Context) {
    let settings = [("pool.slow_hold", "100ms"), ("pool.acquire", "60s")];
    let app = context.app_with(&settings).await;
    // A slow start may already have been counted.
    let before = app.pool().await["counters"]["slowHolds"].as_u64().unwrap();
    let lock = Locked::users(&context, &app.url).await;
    let posting = {
        let app = app.clone();
        tokio::spawn(async move {
            let body = json!({"name": "Ann", "email": "ann@example.com"});
            let request = app.request(reqwest::Method::POST, "/users").header("x-request-id", "slow-1").json(&body);
            request.send().await.unwrap().status().as_u16()
        })
    };
    let pool = app.pool_until("the slow hold is counted", |pool| pool["counters"]["slowHolds"] == before + 1).await;
    assert_eq!(pool["longestHolders"][0]["operation"], "users.create", "{pool}");
    assert_eq!(pool["longestHolders"][0]["request"], "slow-1", "{pool}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(app.pool().await["counters"]["slowHolds"], before + 1, "counted once");
    lock.unlock().await;
    assert_eq!(posting.await.unwrap(), 201);
}
