//! Outages under load: a database that stops, becomes silent, or closes its connections.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use sea_orm::{ConnectionTrait, Statement};
use serde_json::json;

use crate::{
    cases,
    harness::{
        App, Context, End, Engine, Load, Locked, Proxy, Sample, Server, Service, by_status, connect, env_or,
        eventually, is_batching, kill_all, new_database, number, quantile,
    },
    shutdown::blocked_post,
};

cases![
    a_stopped_database_fails_fast_and_recovers_automatically,
    killed_connections_fail_no_read,
    connections_closed_while_idle_fail_no_write,
    a_silent_peer_is_detected_and_capacity_is_restored,
    requests_wait_out_a_short_outage,
    a_paused_process_loses_no_response,
];

const CLIENTS: usize = 64;
const PAUSE: Duration = Duration::from_millis(5);

/// How long the peer stays silent; `USERS_API_TEST_SILENCE` (seconds) overrides it.
fn silence() -> Duration {
    Duration::from_secs(env_or("USERS_API_TEST_SILENCE", 12))
}

/// Asserts that every user acknowledged with 201 is stored, and that no status other than 200, 201 and 503 occurred.
async fn assert_consistent(url: &str, samples: &[Sample]) {
    let counts = by_status(samples);
    for (method, status) in counts.keys() {
        assert!([200, 201, 503].contains(status), "{method} {status}: {counts:?}");
    }
    let database = connect(url).await;
    let rows = database
        .query_all_raw(Statement::from_string(database.get_database_backend(), "SELECT email FROM users"))
        .await
        .unwrap();
    database.close().await.unwrap();
    let stored: BTreeSet<String> = rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect();
    let created = samples.iter().filter(|sample| sample.status == 201);
    for email in created.filter_map(|sample| sample.email.as_deref()) {
        assert!(stored.contains(email), "{email} was acknowledged with 201 but is not stored");
    }
}

async fn a_stopped_database_fails_fast_and_recovers_automatically(context: Context) {
    // A crash must not lose acknowledged writes.
    let options: &[&str] = if context.engine().is_mysql_like() { &["--innodb-flush-log-at-trx-commit=1"] } else { &[] };
    let mut server = Server::new(context.engine(), options);
    server.start(End::Crash);
    server.await_ready();
    let url = new_database(server.url()).await;
    let app = context.app_on(&url, &[("pool.max", "8"), ("pool.min", "4")]).await;
    let load = Load::start(&app, CLIENTS, PAUSE);
    load.answered(200, 100).await;
    load.answered(201, 20).await;

    server.stop();
    // Connections may be reset first; then new ones are refused.
    app.pool_until("down", |pool| pool["state"] == "down" && pool["cause"]["kind"] == "refused").await;
    app.get("/health/ready").await.problem(503, "database-unavailable");
    assert_eq!(app.get("/health/live").await.status, 200);
    // The first requests wait for `outage_wait`; later ones fail immediately.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let measured_from = tokio::time::Instant::now();
    let probes = Load::of_probes(&app, PAUSE);
    load.answered(503, 500).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let measured_until = tokio::time::Instant::now();
    let live = probes.stop().await;

    server.start(End::Crash);
    server.await_ready();
    let available_again = Instant::now();
    load.answered(200, 1).await;
    let first = available_again.elapsed();
    app.pool_until("min is restored", |pool| pool["state"] == "up" && pool["total"].as_u64() >= Some(4)).await;
    let restored = available_again.elapsed();
    load.answered(201, 20).await;
    let samples = load.stop().await;

    let rejected: Vec<Sample> = samples
        .iter()
        .filter(|sample| sample.status == 503 && (measured_from..measured_until).contains(&sample.began))
        .cloned()
        .collect();
    let (p50, p99) = (quantile(&rejected, 0.5), quantile(&rejected, 0.99));
    let (live_p50, live_p99) = (quantile(&live, 0.5), quantile(&live, 0.99));
    println!(
        "{}: live in {live_p50:?} (p50), {live_p99:?} (p99); 503 in {p50:?} (p50), {p99:?} (p99), {} of them; first 200 after {first:?}, restored after {restored:?}; {:?}",
        context.engine().name(),
        rejected.len(),
        by_status(&samples)
    );
    // Relative to the time that any response takes on this machine.
    let (median, most) = (Duration::from_millis(50) + live_p50 * 4, Duration::from_millis(500) + live_p99 * 4);
    assert!(p50 < median, "503 must be immediate: p50 {p50:?}, liveness {live_p50:?}");
    assert!(p99 < most, "503 must be immediate: p99 {p99:?}, liveness {live_p99:?}");
    assert!(first < Duration::from_secs(10), "the first 200 took {first:?} after the database was back");
    assert!(restored < Duration::from_secs(15), "it took {restored:?} to restore min");
    assert_consistent(&url, &samples).await;
    app.stop().await.unwrap().unwrap();
    server.stop();
}

async fn killed_connections_fail_no_read(context: Context) {
    let app = context.app_with(&[("pool.max", "8"), ("pool.min", "4")]).await;
    let admin = connect(&context.engine().admin_url()).await;
    let load = Load::start(&app, 32, PAUSE);
    load.answered(200, 100).await;
    for _ in 0..50 {
        kill_all(&context, &admin, &app.url).await;
        load.answered(200, 30).await;
    }
    load.answered(201, 10).await;
    let counters = app.pool().await["counters"].clone();
    let samples = load.stop().await;
    admin.close().await.unwrap();
    let counts = by_status(&samples);
    println!("{}: {counts:?}; {counters}", context.engine().name());
    assert!(counters["closedBroken"].as_u64() >= Some(50), "connections were killed: {counters}");
    let failed: usize =
        counts.iter().filter(|((method, status), _)| method == "GET" && *status != 200).map(|(_, count)| count).sum();
    assert_eq!(failed, 0, "no read fails: {counts:?}");
    assert_consistent(&app.url, &samples).await;
}

async fn connections_closed_while_idle_fail_no_write(context: Context) {
    let url = context.database().await;
    // Nothing else may use the connections.
    let settings = [
        ("USERS_API__POOL__MAX", "3"),
        ("USERS_API__POOL__MIN", "3"),
        ("USERS_API__FEED__ENABLED", "false"),
        ("DATABASE_URL", url.as_str()),
    ];
    let service = Service::start(context.folder(), &settings).await;
    let app = App::at(service.address, &url);
    let admin = connect(&context.engine().admin_url()).await;
    let name = url::Url::parse(&app.url).unwrap().path().trim_start_matches('/').to_owned();
    let open_count = match context.engine() {
        Engine::Postgres => format!("SELECT COUNT(*) FROM pg_stat_activity WHERE datname = '{name}'"),
        engine => format!("SELECT COUNT(*) FROM {} WHERE db = '{name}'", engine.sessions()),
    };
    let close_idle = async || {
        app.pool_until("all connections are idle", |pool| pool["idle"] == 3).await;
        kill_all(&context, &admin, &app.url).await;
        let closed = async || (number(&admin, &open_count).await.unwrap() == 0).then_some(());
        eventually("the server has closed them", closed).await;
    };
    let (mut ids, mut failed) = (Vec::new(), Vec::new());
    for round in 0..20 {
        close_idle().await;
        let created = app.post("/users", &json!({"name": "Ann", "email": format!("ann{round}@example.com")})).await;
        if created.status == 201 { ids.push(created.json()["id"].clone()) } else { failed.push(created.text) }
    }
    for id in ids {
        close_idle().await;
        let deleted = app.delete(&format!("/users/{}", id.as_str().unwrap())).await;
        if deleted.status != 204 {
            failed.push(deleted.text);
        }
    }
    admin.close().await.unwrap();
    assert_eq!(failed, [""; 0], "no write uses a connection that was closed before it: {:#?}", service.log());
    let counters = app.pool().await["counters"].clone();
    assert!(counters["closedBroken"].as_u64() >= Some(100), "{counters}");
}

async fn a_silent_peer_is_detected_and_capacity_is_restored(context: Context) {
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let app = context.app_on(&url, &[("pool.max", "4"), ("pool.min", "2")]).await;
    let load = Load::start(&app, CLIENTS, PAUSE);
    load.answered(200, 100).await;
    // Batched requests need fewer connections.
    let (in_use, restored) = if is_batching() { (1, 2) } else { (4, 4) };
    app.pool_until("connections are in use", |pool| pool["inUse"].as_u64() >= Some(in_use)).await;

    let stalled = Instant::now();
    proxy.stall();
    let down = app.pool_until("down", |pool| pool["state"] == "down").await;
    let detected = stalled.elapsed();
    assert_eq!(down["cause"]["kind"], "silent", "{down}");
    app.pool_until("stranded operations are counted", |pool| pool["stranded"].as_u64() > Some(0) || pool["inUse"] == 0)
        .await;
    app.pool_until("stranded operations are aborted", |pool| pool["inUse"] == 0 && pool["total"] == 0).await;
    let aborted = stalled.elapsed();
    tokio::time::sleep_until((stalled + silence()).into()).await;
    assert_eq!(app.pool().await["state"], "down");

    proxy.restore();
    let recovered = Instant::now();
    load.answered(200, 100).await;
    let served = recovered.elapsed();
    app.pool_until("capacity is restored", |pool| pool["total"].as_u64() >= Some(restored) && pool["state"] == "up")
        .await;
    load.answered(201, 10).await;
    let samples = load.stop().await;
    app.pool_until("in use returns to 0", |pool| pool["inUse"] == 0).await;
    let counters = app.pool().await["counters"].clone();
    println!(
        "{}: down after {detected:?}, aborted after {aborted:?}, served {served:?} after recovery; {:?}; {counters}",
        context.engine().name(),
        by_status(&samples)
    );
    assert!(detected < Duration::from_secs(15), "detection took {detected:?}");
    assert!(counters["stranded"].as_u64() > Some(0), "{counters}");
    // An aborted write may or may not be stored; its response claims neither.
    assert_consistent(&url, &samples).await;
}

async fn requests_wait_out_a_short_outage(context: Context) {
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let app = context.app_on(&url, &[("pool.outage_wait", "30s"), ("pool.acquire", "60s")]).await;
    assert_eq!(app.get("/users").await.status, 200);
    proxy.cut();
    let get = || {
        let app = app.clone();
        tokio::spawn(async move { app.get("/users").await.status.as_u16() })
    };
    // The first one alone: requests batched into one failing statement would count as one waiter.
    let mut waiting = vec![get()];
    app.pool_until("the first waits while it is down", |pool| pool["state"] == "down" && pool["waiting"] == 1).await;
    waiting.extend((1..8).map(|_| get()));
    app.pool_until("all wait", |pool| pool["waiting"] == 8).await;
    proxy.restore();
    for status in waiting {
        assert_eq!(status.await.unwrap(), 200, "a short outage is not visible to clients");
    }
}

/// As with SIGSTOP or a paused virtual machine: responses that arrive during the pause stay in the socket buffers.
async fn a_paused_process_loses_no_response(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let url = context.database().await;
    let variables = [("DATABASE_URL", url.as_str()), ("USERS_API__POOL__STATEMENT_TIMEOUT", "3s")];
    let service = Service::start(context.folder(), &variables).await;
    let lock = Locked::users(&context, &url).await;
    let posting = blocked_post(&context, &service).await;
    service.signal("STOP").await;
    lock.unlock().await;
    // Longer than an operation may wait for a response from the database: `statement_timeout` and 5 s.
    tokio::time::sleep(Duration::from_secs(10)).await;
    service.signal("CONT").await;
    let response = posting.await.unwrap().unwrap();
    assert_eq!(response.status(), 201, "{}", response.text().await.unwrap());
    service.logged("process was paused; skipping a housekeeping round").await;
}
