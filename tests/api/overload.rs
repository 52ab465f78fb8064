//! More than can be served.

use std::time::Duration;

use sea_orm::{ConnectionTrait, Statement};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    cases,
    harness::{
        App, Context, Engine, Load, Locked, Proxy, Sample, Service, by_status, connect, eventually, quantile, wanted,
    },
};

cases![
    clients_that_vanish_inside_a_transaction_leave_nothing_behind,
    too_many_clients_cost_no_goodput,
    probes_do_not_queue_behind_users,
    a_long_hold_is_seen,
];

/// Transactions that are open on the server, but for the one that asks.
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

async fn clients_that_vanish_inside_a_transaction_leave_nothing_behind(context: Context) {
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
        // What is dropped is reset, not said goodbye to.
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        clients.push(client);
    }
    let writers = if context.engine() == Engine::Sqlite { 1 } else { 10 };
    app.pool_until("the pool is full of them", |pool| pool["inUse"] == writers && pool["waiting"] == 500 - writers)
        .await;
    drop(clients);
    app.pool_until("those that waited have left the queue", |pool| pool["waiting"] == 0).await;
    lock.unlock().await;
    app.pool_until("those that had begun are done", |pool| pool["inUse"] == 0).await;
    eventually("no transaction is left open", || async {
        (open_transactions(&context, &app.url).await == 0).then_some(())
    })
    .await;
    let patched = app.patch(&format!("/users/{id}"), &json!({"name": "Bea"})).await;
    assert_eq!(patched.status, 200, "{}", patched.text);
    let version = patched.json()["version"].as_i64().unwrap();
    assert_eq!(version, 2 + writers, "each one that had begun was done once, and the others never");
    let database = connect(&app.url).await;
    let sql = Statement::from_string(database.get_database_backend(), "SELECT name FROM users");
    let name: String = database.query_one_raw(sql).await.unwrap().unwrap().try_get_by_index(0).unwrap();
    assert_eq!(name, "Bea", "seen from a second connection");
    database.close().await.unwrap();
}

/// Answers a second with this status.
fn rate(samples: &[Sample], status: u16) -> f64 {
    let began = samples.iter().map(|sample| sample.began).min().unwrap();
    let ended = samples.iter().map(|sample| sample.began + sample.took).max().unwrap();
    let count = samples.iter().filter(|sample| sample.status == status).count();
    #[expect(clippy::cast_precision_loss)]
    {
        count as f64 / (ended - began).as_secs_f64()
    }
}

/// How long each phase lasts; `USERS_API_TEST_OVERLOAD` (seconds) makes it longer.
fn phase() -> Duration {
    Duration::from_secs(wanted("USERS_API_TEST_OVERLOAD", 5))
}

async fn too_many_clients_cost_no_goodput(context: Context) {
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
    // Each answer of the database takes 20 ms, so that two connections serve at most a hundred requests a second, and
    // the machine is not what is measured.
    proxy.slow(Duration::from_millis(20));
    let measured = async |clients| {
        // A client that was refused comes back when it has been asked to, sooner than which would be an attack.
        let load = Load::start_with(&app, clients, Duration::from_millis(50), |_| false);
        let probes = Load::of_probes(&app, Duration::from_millis(5));
        tokio::time::sleep(phase()).await;
        (load.stop().await, probes.stop().await)
    };
    let (just_enough, _) = measured(8).await;
    // Once with so many, so that what they need at all is there.
    measured(80).await;
    let resident_before = service.resident_kib();
    let (too_many, probes) = measured(80).await;
    let resident_after = service.resident_kib();
    let (best, goodput) = (rate(&just_enough, 200), rate(&too_many, 200));
    let of = |status| too_many.iter().filter(|sample| sample.status == status).cloned().collect::<Vec<_>>();
    let (served, refused) = (of(200), of(503));
    let (refused_p50, refused_p99) = (quantile(&refused, 0.5), quantile(&refused, 0.99));
    let served_p99 = quantile(&served, 0.99);
    let (live_p50, live_p99) = (quantile(&probes, 0.5), quantile(&probes, 0.99));
    println!(
        "{}: live in {live_p50:?} (p50), {live_p99:?} (p99); goodput {goodput:.1}/s of {best:.1}/s; refused in {refused_p50:?} (p50), {refused_p99:?} (p99); served in {served_p99:?} (p99); {resident_before} KiB, then {resident_after} KiB; {:?}",
        context.engine().name(),
        by_status(&too_many)
    );
    assert!(goodput > 0.8 * best, "goodput fell from {best} to {goodput}");
    // Beside what the machine makes every answer take.
    let at_once = Duration::from_millis(20) + live_p50 * 4;
    assert!(refused_p50 < at_once, "a refusal waits for nobody, and took {refused_p50:?} beside {live_p50:?}");
    let bound = Duration::from_millis(1500) + live_p99 * 4;
    assert!(served_p99 < bound, "who is served waits for {served_p99:?} beside {live_p99:?}");
    assert!(resident_after < resident_before + resident_before / 5, "memory grew: {resident_before}, {resident_after}");
    assert_eq!(served.len() + refused.len(), too_many.len(), "{:?}", by_status(&too_many));
}

async fn probes_do_not_queue_behind_users(context: Context) {
    let settings = [("pool.max", "1"), ("pool.min", "1"), ("pool.acquire", "60s")];
    let app = context.app_with(&settings).await;
    let lock = Locked::users(&context, &app.url).await;
    let posting = {
        let app = app.clone();
        tokio::spawn(async move { app.post("/users", &json!({"name": "Ann", "email": "ann@example.com"})).await })
    };
    app.pool_until("the only connection is out", |pool| pool["inUse"] == 1).await;
    // For long enough that the last answer of the database is old news.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(app.get("/health/ready").await.status, 200, "the database answers, though nobody can be served");
    assert_eq!(app.pool().await["state"], "up");
    lock.unlock().await;
    assert_eq!(posting.await.unwrap().status, 201);
}

async fn a_long_hold_is_seen(context: Context) {
    let settings = [("pool.slow_hold", "100ms"), ("pool.acquire", "60s")];
    let app = context.app_with(&settings).await;
    // A start that took its time may have been warned of.
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
    let pool = app.pool_until("it is warned of", |pool| pool["counters"]["slowHolds"] == before + 1).await;
    assert_eq!(pool["longestHolders"][0]["operation"], "users.create", "{pool}");
    assert_eq!(pool["longestHolders"][0]["request"], "slow-1", "{pool}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(app.pool().await["counters"]["slowHolds"], before + 1, "once");
    lock.unlock().await;
    assert_eq!(posting.await.unwrap(), 201);
}
