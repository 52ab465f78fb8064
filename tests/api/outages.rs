//! A database that goes away, goes silent, or shows its clients out, while they ask.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use sea_orm::{ConnectionTrait, Statement};
use serde_json::json;

use crate::{
    cases,
    harness::{
        App, Context, End, Engine, Load, Locked, Proxy, Sample, Server, Service, by_status, connect, eventually,
        is_batching, kill_all, new_database, number, quantile, wanted,
    },
    shutdown::hanging_post,
};

cases![
    a_database_that_stops_is_told_at_once_and_comes_back_by_itself,
    connections_that_are_killed_cost_no_read,
    a_connection_closed_while_idle_costs_no_write,
    a_silent_peer_is_found_and_its_places_come_back,
    a_blip_is_waited_for,
    a_process_that_was_paused_loses_no_answer,
];

const CLIENTS: usize = 64;
const PAUSE: Duration = Duration::from_millis(5);

/// How long a silence lasts; `USERS_API_TEST_SILENCE` (seconds) makes it longer.
fn silence() -> Duration {
    Duration::from_secs(wanted("USERS_API_TEST_SILENCE", 12))
}

/// Every user that was answered with 201 is there, and no read saw anything but users.
async fn assert_honest(url: &str, samples: &[Sample]) {
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
    let there: BTreeSet<String> = rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect();
    let told = samples.iter().filter(|sample| sample.status == 201).filter_map(|sample| sample.email.as_deref());
    for email in told {
        assert!(there.contains(email), "{email} was answered with 201 and is not there");
    }
}

async fn a_database_that_stops_is_told_at_once_and_comes_back_by_itself(context: Context) {
    // A crash must lose nothing that was acknowledged.
    let more: &[&str] = if context.engine().is_mysql_like() { &["--innodb-flush-log-at-trx-commit=1"] } else { &[] };
    let mut server = Server::new(context.engine(), more);
    server.start(End::Crash);
    server.await_ready();
    let url = new_database(server.url()).await;
    let app = context.app_on(&url, &[("pool.max", "8"), ("pool.min", "4")]).await;
    let load = Load::start(&app, CLIENTS, PAUSE);
    load.answered(200, 100).await;
    load.answered(201, 20).await;

    server.stop();
    // While it falls, connections may be reset; then nobody listens any more.
    app.pool_until("down", |pool| pool["state"] == "down" && pool["cause"]["kind"] == "refused").await;
    app.get("/health/ready").await.problem(503, "database-unavailable");
    assert_eq!(app.get("/health/live").await.status, 200);
    // Clients that came in the first moments wait for a blip to pass; after that nobody waits.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let detected = tokio::time::Instant::now();
    let probes = Load::of_probes(&app, PAUSE);
    load.answered(503, 500).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let told_until = tokio::time::Instant::now();
    let live = probes.stop().await;

    server.start(End::Crash);
    server.await_ready();
    let back = Instant::now();
    load.answered(200, 1).await;
    let first = back.elapsed();
    app.pool_until("min is restored", |pool| pool["state"] == "up" && pool["total"].as_u64() >= Some(4)).await;
    let restored = back.elapsed();
    load.answered(201, 20).await;
    let samples = load.stop().await;

    let told: Vec<Sample> = samples
        .iter()
        .filter(|sample| sample.status == 503 && (detected..told_until).contains(&sample.began))
        .cloned()
        .collect();
    let (p50, p99) = (quantile(&told, 0.5), quantile(&told, 0.99));
    let (live_p50, live_p99) = (quantile(&live, 0.5), quantile(&live, 0.99));
    println!(
        "{}: live in {live_p50:?} (p50), {live_p99:?} (p99); 503 told in {p50:?} (p50), {p99:?} (p99) of {}; first 200 after {first:?}, restored after {restored:?}; {:?}",
        context.engine().name(),
        told.len(),
        by_status(&samples)
    );
    // Beside what the machine makes every answer take.
    let (median, most) = (Duration::from_millis(50) + live_p50 * 4, Duration::from_millis(500) + live_p99 * 4);
    assert!(p50 < median, "refusals are told at once, and took {p50:?} beside {live_p50:?}");
    assert!(p99 < most, "refusals are told at once, and took {p99:?} beside {live_p99:?}");
    assert!(first < Duration::from_secs(10), "it took {first:?} to notice that the database is back");
    assert!(restored < Duration::from_secs(15), "it took {restored:?} to restore min");
    assert_honest(&url, &samples).await;
    app.stop().await.unwrap().unwrap();
    server.stop();
}

async fn connections_that_are_killed_cost_no_read(context: Context) {
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
    assert_honest(&app.url, &samples).await;
}

async fn a_connection_closed_while_idle_costs_no_write(context: Context) {
    let url = context.database().await;
    let settings = [("USERS_API__POOL__MAX", "3"), ("USERS_API__POOL__MIN", "3"), ("DATABASE_URL", url.as_str())];
    let service = Service::start(context.folder(), &settings).await;
    let app = App::at(service.address, &url);
    let admin = connect(&context.engine().admin_url()).await;
    let name = url::Url::parse(&app.url).unwrap().path().trim_start_matches('/').to_owned();
    let open = match context.engine() {
        Engine::Postgres => format!("SELECT COUNT(*) FROM pg_stat_activity WHERE datname = '{name}'"),
        engine => format!("SELECT COUNT(*) FROM {} WHERE db = '{name}'", engine.sessions()),
    };
    let close_all = async || {
        app.pool_until("all are idle", |pool| pool["idle"] == 3).await;
        kill_all(&context, &admin, &app.url).await;
        let closed = async || (number(&admin, &open).await.unwrap() == 0).then_some(());
        eventually("the server has closed them", closed).await;
    };
    let (mut ids, mut refused) = (Vec::new(), Vec::new());
    for round in 0..20 {
        close_all().await;
        let created = app.post("/users", &json!({"name": "Ann", "email": format!("ann{round}@example.com")})).await;
        if created.status == 201 { ids.push(created.json()["id"].clone()) } else { refused.push(created.text) }
    }
    for id in ids {
        close_all().await;
        let deleted = app.delete(&format!("/users/{}", id.as_str().unwrap())).await;
        if deleted.status != 204 {
            refused.push(deleted.text);
        }
    }
    admin.close().await.unwrap();
    assert_eq!(refused, [""; 0], "no write meets a connection that was closed before it: {:#?}", service.log());
    let counters = app.pool().await["counters"].clone();
    assert!(counters["closedBroken"].as_u64() >= Some(100), "{counters}");
}

async fn a_silent_peer_is_found_and_its_places_come_back(context: Context) {
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let app = context.app_on(&url, &[("pool.max", "4"), ("pool.min", "2")]).await;
    let load = Load::start(&app, CLIENTS, PAUSE);
    load.answered(200, 100).await;
    // Those who share statements need fewer connections.
    let (out, restored) = if is_batching() { (1, 2) } else { (4, 4) };
    app.pool_until("they are out", |pool| pool["inUse"].as_u64() >= Some(out)).await;

    let silent = Instant::now();
    proxy.stall();
    let down = app.pool_until("down", |pool| pool["state"] == "down").await;
    let found = silent.elapsed();
    assert_eq!(down["cause"]["kind"], "silent", "{down}");
    app.pool_until("the stranded are counted", |pool| pool["stranded"].as_u64() > Some(0) || pool["inUse"] == 0).await;
    app.pool_until("they are given up", |pool| pool["inUse"] == 0 && pool["total"] == 0).await;
    let given_up = silent.elapsed();
    tokio::time::sleep_until((silent + silence()).into()).await;
    assert_eq!(app.pool().await["state"], "down");

    proxy.mend();
    let mended = Instant::now();
    load.answered(200, 100).await;
    let served = mended.elapsed();
    app.pool_until("capacity is restored", |pool| pool["total"].as_u64() >= Some(restored) && pool["state"] == "up")
        .await;
    load.answered(201, 10).await;
    let samples = load.stop().await;
    app.pool_until("in use returns to 0", |pool| pool["inUse"] == 0).await;
    let counters = app.pool().await["counters"].clone();
    println!(
        "{}: down after {found:?}, given up after {given_up:?}, served {served:?} after; {:?}; {counters}",
        context.engine().name(),
        by_status(&samples)
    );
    assert!(found < Duration::from_secs(15), "it took {found:?} to find out");
    assert!(counters["stranded"].as_u64() > Some(0), "{counters}");
    // What was given up may have been written or not, and was answered with neither.
    assert_honest(&url, &samples).await;
}

async fn a_blip_is_waited_for(context: Context) {
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let app = context.app_on(&url, &[("pool.outage_wait", "30s"), ("pool.acquire", "60s")]).await;
    assert_eq!(app.get("/users").await.status, 200);
    proxy.cut();
    let get = || {
        let app = app.clone();
        tokio::spawn(async move { app.get("/users").await.status.as_u16() })
    };
    // The first alone: those that share a statement, which is sent in vain, would wait as one.
    let mut waiting = vec![get()];
    app.pool_until("the first waits while it is down", |pool| pool["state"] == "down" && pool["waiting"] == 1).await;
    waiting.extend((1..8).map(|_| get()));
    app.pool_until("all wait", |pool| pool["waiting"] == 8).await;
    proxy.mend();
    for status in waiting {
        assert_eq!(status.await.unwrap(), 200, "the blip has passed, and nobody has noticed");
    }
}

/// As after SIGSTOP, or in a virtual machine that was paused: the answers of that time lie in the sockets.
async fn a_process_that_was_paused_loses_no_answer(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let url = context.database().await;
    let variables = [("DATABASE_URL", url.as_str()), ("USERS_API__POOL__STATEMENT_TIMEOUT", "3s")];
    let service = Service::start(context.folder(), &variables).await;
    let lock = Locked::users(&context, &url).await;
    let posting = hanging_post(&context, &service).await;
    service.signal("STOP").await;
    lock.unlock().await;
    // Longer than an operation may be without an answer: `statement_timeout` and 5 s.
    tokio::time::sleep(Duration::from_secs(10)).await;
    service.signal("CONT").await;
    let answer = posting.await.unwrap().unwrap();
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    service.logged("the process was paused; operations are not judged by this time").await;
}
