//! Several processes of the service: on a primary with a standby that takes over, and behind a reverse proxy while they are
//! restarted one after another.

use std::{net::SocketAddr, time::Duration};

use tokio::time::Instant;

use crate::{
    cases,
    harness::{
        Answer, App, Context, End, Engine, FeedReaders, Load, ProxyKind, RecordedLoad, ReverseProxy, Server, Service,
        by_status, connect, env_or, eventually, longest_gaps, new_database, number, statuses,
    },
};
use test_support::cluster::{Replicated, url_on};

cases![
    a_promoted_standby_takes_over_without_losing_writes,
    a_rolling_restart_behind_nginx_loses_no_request,
    a_rolling_restart_behind_haproxy_loses_no_request,
];

pub(crate) const CLIENTS: usize = 16;
/// What clients may get. 404 is not among them: no client changes a user that another one deletes.
const EXPECTED: [u16; 6] = [200, 201, 204, 409, 412, 503];

/// The settings of each process, and more.
pub(crate) fn settings<'a>(url: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let settings = [
        ("DATABASE_URL", url),
        ("USERS_API__POOL__MAX", "4"),
        ("USERS_API__POOL__STATEMENT_TIMEOUT", "10s"),
        ("USERS_API__FEED__POLL", "200ms"),
        ("RUST_LOG", "info"),
    ];
    [&settings, more].concat()
}

/// Stops the clients, compares what they changed and read with the final state, and checks the statuses that they got.
pub(crate) async fn check(mut load: RecordedLoad, readers: FeedReaders, services: &[Service], database_url: &str) {
    let app = App::at(services[0].address, "");
    let direct = connect(database_url).await;
    load.stop().await;
    // All positions are known once no change is in flight.
    let last = eventually("every change has a position", || async {
        let committed = number(&direct, "SELECT COUNT(*) FROM users_journal").await.ok()?;
        let position = app.get("/users/changes").await.headers.get("feed-position")?.to_str().ok()?.to_owned();
        position.split_once('.')?.1.parse::<i64>().ok().filter(|last| *last >= committed)
    })
    .await;
    let report = load.check(&app, &readers.finish(last).await).await;
    assert!(report.is_clean(), "{report}");
    let answers = load.answers();
    let counts = statuses(&answers);
    let is_expected = |status: u64| EXPECTED.iter().any(|expected| u64::from(*expected) == status);
    let unexpected = |line: &serde_json::Value| line["status"].as_u64().is_some_and(|status| !is_expected(status));
    let lines: Vec<_> = services.iter().flat_map(Service::log).filter(unexpected).collect();
    assert!(counts.keys().all(|status| is_expected(u64::from(*status))), "{counts:?} {lines:#?}");
    assert!(counts[&201] > 50 && counts[&200] > 100 && counts.contains_key(&412), "{counts:?}");
    println!("responses by status: {counts:?}");
    direct.close().await.unwrap();
}

/// Prints the longest gap between successful writes through each process after a fault.
pub(crate) fn print_gaps(fault: &str, answers: &[Answer], since: Instant) {
    let gaps = longest_gaps(answers, since);
    println!("{fault}: longest time without an acknowledged write per process {gaps:?}");
}

/// Shuts processes down gracefully.
pub(crate) async fn stop_all(services: Vec<Service>) {
    for mut service in services {
        service.signal("TERM").await;
        assert!(service.ended().await.success());
    }
}

async fn a_promoted_standby_takes_over_without_losing_writes(context: Context) {
    let mut database = Replicated::start().await;
    let url = database.url();
    let mut services = Vec::new();
    for _ in 0..2 {
        services.push(Service::start(context.folder(), &settings(&url, &[])).await);
    }
    let apps: Vec<App> = services.iter().map(|service| App::at(service.address, "")).collect();
    let addresses: Vec<SocketAddr> = apps.iter().map(|app| app.address).collect();
    let readers = FeedReaders::start(&addresses).await;
    let load = RecordedLoad::start(addresses, CLIENTS);
    load.await_writes(50).await;
    database.primary.stop();
    readers.cut();
    for app in &apps {
        app.pool_until("the pool is down", |pool| pool["state"] == "down").await;
    }
    let pool = apps[0].pool().await;
    assert_eq!(
        (&pool["hosts"][1]["state"], &pool["cause"]["kind"]),
        (&"read-only".into(), &"read-only".into()),
        "{pool}"
    );
    let promoted_at = Instant::now();
    database.promote().await;
    println!("the promotion took {:?}", promoted_at.elapsed());
    load.await_writes(50).await;
    print_gaps("standby promoted", &load.answers(), promoted_at);
    check(load, readers, &services, &url_on(&database.standby)).await;
    stop_all(services).await;
    database.standby.stop();
}

/// How many requests a rolling restart serves at least: `USERS_API_TEST_REQUESTS`. The instances are restarted again until
/// then.
const REQUESTS: usize = 3_000;

async fn rolling_restart(context: Context, kind: ProxyKind) {
    let mut database = Server::new(Engine::Postgres, &[]);
    database.start(End::Crash);
    database.await_ready();
    let url = new_database(database.url()).await;
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("USERS_API__POOL__MAX", "4"),
        // Until the proxy has noticed that the instance is not ready.
        ("USERS_API__SERVER__DRAIN_DELAY", "1s"),
        ("RUST_LOG", "info"),
    ];
    let mut services = Vec::new();
    for _ in 0..3 {
        services.push(Service::start(context.folder(), &variables).await);
    }
    let addresses: Vec<SocketAddr> = services.iter().map(|service| service.address).collect();
    let proxy = ReverseProxy::balancing(kind, &addresses).await;
    let app = App::at(proxy.address, &url);
    eventually("the proxy forwards requests", || async { (app.get("/users").await.status == 200).then_some(()) }).await;
    let load = Load::start(&app, CLIENTS, Duration::from_millis(2));
    let (goal, mut restarts) = (env_or("USERS_API_TEST_REQUESTS", REQUESTS), 0);
    while restarts == 0 || load.samples().len() < goal {
        for service in &mut services {
            load.answered(200, 100).await;
            let address = service.address;
            service.signal("TERM").await;
            assert!(service.ended().await.success());
            *service = Service::start_on(context.folder(), &variables, address).await;
            restarts += 1;
        }
    }
    let counts = by_status(&load.stop().await);
    println!("{kind:?}: {restarts} restarts, {counts:?}");
    assert!(counts.keys().all(|(_, status)| [200, 201].contains(status)), "{counts:?}");
    stop_all(services).await;
    database.stop();
}

async fn a_rolling_restart_behind_nginx_loses_no_request(context: Context) {
    rolling_restart(context, ProxyKind::Nginx).await;
}

async fn a_rolling_restart_behind_haproxy_loses_no_request(context: Context) {
    rolling_restart(context, ProxyKind::HaProxy).await;
}
