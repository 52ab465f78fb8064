//! Graceful shutdown: phases in order, within the timeouts, without cutting off requests.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use sea_orm::{ConnectionTrait, Statement};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    cases,
    harness::{Context, Engine, Locked, Proxy, Service, client, connect, env_or, eventually, read_message},
};

cases![
    a_shutdown_under_load_cuts_off_no_request,
    every_established_connection_is_served,
    sigint_runs_every_shutdown_phase,
    in_flight_requests_are_completed,
    a_pool_that_does_not_close_is_reported,
    requests_and_the_pool_share_the_shutdown_timeout,
    a_second_signal_exits_immediately,
    a_signal_stops_a_starting_service,
    a_signal_stops_the_service_during_an_outage,
    requests_are_served_during_the_drain_delay,
    waiters_are_rejected_and_running_operations_are_completed,
];

const CLIENTS: usize = 64;
/// How many times it is stopped under load; `USERS_API_TEST_STOPS` overrides it.
fn runs() -> usize {
    env_or("USERS_API_TEST_STOPS", 50)
}

#[derive(Default)]
struct Outcome {
    answered: AtomicUsize,
    /// Clients that received a response, so that their connection has been accepted.
    served: AtomicUsize,
    /// Requests rejected with `shutting-down`, as they still waited for a connection when the drain began.
    refused: AtomicUsize,
    cut: AtomicUsize,
}

/// A client that keeps its connection and always has a request in flight. It ends when the service no longer listens.
async fn busy_client(address: SocketAddr, number: usize, outcome: Arc<Outcome>) {
    let mut first = true;
    while let Ok(mut stream) = TcpStream::connect(address).await {
        loop {
            let request = if number.is_multiple_of(4) {
                let body = format!(
                    r#"{{"name":"Ann","email":"ann{number}-{}@example.com"}}"#,
                    outcome.answered.load(Ordering::Relaxed)
                );
                let length = body.len();
                format!(
                    "POST /users HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
                )
            } else {
                "GET /users?limit=2 HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned()
            };
            let sent = stream.write_all(request.as_bytes()).await;
            let response = match sent {
                Ok(()) => read_message(&mut stream).await,
                Err(_) => None,
            };
            let Some((head, body)) = response else {
                outcome.cut.fetch_add(1, Ordering::Relaxed);
                break;
            };
            let status: u16 = head[9..12].parse().unwrap();
            if status == 503 && body.contains(r#""code":"shutting-down""#) {
                outcome.refused.fetch_add(1, Ordering::Relaxed);
            } else {
                assert!([200, 201, 409].contains(&status), "{head}{body}");
            }
            outcome.answered.fetch_add(1, Ordering::Relaxed);
            if std::mem::take(&mut first) {
                outcome.served.fetch_add(1, Ordering::Relaxed);
            }
            if head.contains("connection: close") {
                break;
            }
        }
    }
}

/// The time from the end of listening to the rejection of the queue.
fn time_to_rejection(service: &Service) -> chrono::TimeDelta {
    let at = |message: &str| {
        let lines = service.log();
        let line = lines.iter().find(|line| line["message"] == message);
        chrono::DateTime::parse_from_rfc3339(line.unwrap()["timestamp"].as_str().unwrap()).unwrap()
    };
    at("shutdown: draining; waiting operations are refused") - at("shutdown: listening stopped")
}

/// Connections that the database server still lists, except that of the query itself.
async fn open_connections(context: &Context, url: &str) -> i64 {
    let sql = match context.engine() {
        Engine::Sqlite => return 0,
        Engine::Postgres => {
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                .to_owned()
        }
        engine => {
            format!("SELECT count(*) FROM {} WHERE db = database() AND id <> connection_id()", engine.sessions())
        }
    };
    let database = connect(url).await;
    let row =
        database.query_one_raw(Statement::from_string(database.get_database_backend(), sql)).await.unwrap().unwrap();
    let count = row.try_get_by_index(0).unwrap();
    database.close().await.unwrap();
    count
}

async fn a_shutdown_under_load_cuts_off_no_request(context: Context) {
    let url = context.database().await;
    for run in 0..runs() {
        // On a busy machine, requests wait for long.
        let variables = [("DATABASE_URL", &*url), ("RUST_LOG", "info"), ("USERS_API__POOL__ACQUIRE", "30s")];
        let mut service = Service::start(context.folder(), &variables).await;
        let outcome = Arc::new(Outcome::default());
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| tokio::spawn(busy_client(service.address, number, Arc::clone(&outcome))))
            .collect();
        // A connection that only the kernel has accepted is not busy yet.
        eventually("the clients are busy", || async {
            (outcome.served.load(Ordering::Relaxed) == CLIENTS).then_some(())
        })
        .await;
        service.signal(if run % 2 == 0 { "TERM" } else { "INT" }).await;
        let status = service.ended().await;
        for client in clients {
            client.await.unwrap();
        }
        assert_eq!(status.code(), Some(0), "run {run}: {:#?}", service.log().iter().rev().take(10).collect::<Vec<_>>());
        assert_eq!(outcome.cut.load(Ordering::Relaxed), 0, "run {run}: requests were cut");
        let refused = outcome.refused.load(Ordering::Relaxed);
        let has_waited = refused == 0 || time_to_rejection(&service) >= chrono::TimeDelta::milliseconds(490);
        assert!(has_waited, "run {run}: {refused} requests were refused after {}", time_to_rejection(&service));
        let errors: Vec<_> = service.log().into_iter().filter(|line| line["level"] == "ERROR").collect();
        assert!(errors.is_empty(), "run {run}: a normal shutdown logs no error: {errors:#?}");
        // The server notices a closed connection with a short delay.
        let closed = || async { (open_connections(&context, &url).await == 0).then_some(()) };
        eventually("the server lists no connection of the service", closed).await;
    }
}

/// A client is connected before the service has accepted the connection, so its request must be served.
async fn every_established_connection_is_served(context: Context) {
    let url = context.database().await;
    for _ in 0..5 {
        let mut service = Service::start(context.folder(), &[("DATABASE_URL", &url)]).await;
        let (address, count) = (service.address, Arc::new(AtomicUsize::new(0)));
        let clients: Vec<_> =
            (0..16).map(|_| tokio::spawn(connect_until_refused(address, Arc::clone(&count)))).collect();
        eventually("requests are served", || async { (count.load(Ordering::Relaxed) > 100).then_some(()) }).await;
        service.signal("TERM").await;
        for client in clients {
            client.await.unwrap();
        }
        assert!(service.ended().await.success());
    }
}

/// Sends each request over a new connection.
async fn connect_until_refused(address: SocketAddr, count: Arc<AtomicUsize>) {
    while let Ok(mut stream) = TcpStream::connect(address).await {
        let request = format!("GET /health/live HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        let mut response = Vec::new();
        let outcome = async {
            stream.write_all(request.as_bytes()).await?;
            stream.read_to_end(&mut response).await
        };
        let outcome = outcome.await;
        assert!(response.starts_with(b"HTTP/1.1 200 "), "{outcome:?} {:?}", String::from_utf8_lossy(&response));
        count.fetch_add(1, Ordering::Relaxed);
    }
}

async fn sigint_runs_every_shutdown_phase(context: Context) {
    let url = context.database().await;
    let mut service = Service::start(context.folder(), &[("DATABASE_URL", &url)]).await;
    service.signal("INT").await;
    assert_eq!(service.ended().await.code(), Some(0));
    for phase in [
        "shutdown: signal received; a second signal exits immediately",
        "shutdown: readiness is now false",
        "shutdown: listening stopped",
        "shutdown: draining; waiting operations are refused",
        "shutdown: all requests completed",
        "shutdown: pool closed",
        "stopped",
    ] {
        service.logged(phase).await;
    }
}

/// Starts a POST that is blocked in the database while the table is locked.
pub async fn blocked_post(
    context: &Context,
    service: &Service,
) -> tokio::task::JoinHandle<Result<reqwest::Response, reqwest::Error>> {
    let request = client()
        .post(format!("http://{}/users", service.address))
        .header("content-type", "application/json")
        .body(r#"{"name":"Ann","email":"ann@example.com"}"#);
    let posting = tokio::spawn(request.send());
    let observer = client();
    let in_use = || async {
        let pool = service.get(&observer, "/pool").send().await.unwrap().json::<serde_json::Value>().await.unwrap();
        (pool["inUse"] == 1).then_some(())
    };
    eventually(&format!("the request is blocked in {}", context.engine().name()), in_use).await;
    posting
}

async fn in_flight_requests_are_completed(context: Context) {
    let url = context.database().await;
    // SQLite waits for a lock as long as the acquire timeout.
    let variables = [("DATABASE_URL", url.as_str()), ("USERS_API__POOL__ACQUIRE", "60s")];
    let mut service = Service::start(context.folder(), &variables).await;
    let lock = Locked::users(&context, &url).await;
    let posting = blocked_post(&context, &service).await;
    service.signal("TERM").await;
    service.logged("shutdown: listening stopped").await;
    assert!(TcpStream::connect(service.address).await.is_err(), "the service no longer listens");
    lock.unlock().await;
    assert_eq!(posting.await.unwrap().unwrap().status(), 201, "the in-flight request was completed");
    assert_eq!(service.ended().await.code(), Some(0));
}

async fn a_pool_that_does_not_close_is_reported(context: Context) {
    let url = context.database().await;
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("USERS_API__POOL__ACQUIRE", "60s"),
        ("USERS_API__SERVER__SHUTDOWN_TIMEOUT", "300ms"),
    ];
    let mut service = Service::start(context.folder(), &variables).await;
    let lock = Locked::users(&context, &url).await;
    let posting = blocked_post(&context, &service).await;
    let began = Instant::now();
    service.signal("TERM").await;
    assert_eq!(service.ended().await.code(), Some(1));
    assert!(began.elapsed() < Duration::from_secs(30), "the shutdown took {:?}", began.elapsed());
    let line = service.logged("shutdown: pool not closed").await;
    assert!(line["error"].as_str().unwrap().contains("operations still running: 1 ("), "{line}");
    service.logged("shutdown: requests aborted").await;
    drop(posting);
    lock.unlock().await;
}

async fn requests_and_the_pool_share_the_shutdown_timeout(context: Context) {
    let url = context.database().await;
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("USERS_API__POOL__ACQUIRE", "60s"),
        ("USERS_API__SERVER__SHUTDOWN_TIMEOUT", "3s"),
    ];
    let mut service = Service::start(context.folder(), &variables).await;
    let lock = Locked::users(&context, &url).await;
    let posting = blocked_post(&context, &service).await;
    service.signal("TERM").await;
    assert_eq!(service.ended().await.code(), Some(1));
    let line = service.logged("shutdown: pool not closed").await;
    // The request has used up the timeout: the pool gets only the grace period of one second.
    assert!(line["error"].as_str().unwrap().contains("within 1s"), "{line}");
    drop(posting);
    lock.unlock().await;
}

async fn a_second_signal_exits_immediately(context: Context) {
    let url = context.database().await;
    let variables = [("DATABASE_URL", url.as_str()), ("USERS_API__POOL__ACQUIRE", "60s")];
    let mut service = Service::start(context.folder(), &variables).await;
    let lock = Locked::users(&context, &url).await;
    let posting = blocked_post(&context, &service).await;
    service.signal("TERM").await;
    service.logged("shutdown: listening stopped").await;
    service.signal("INT").await;
    assert_eq!(service.ended().await.code(), Some(130));
    drop(posting);
    lock.unlock().await;
}

async fn a_signal_stops_a_starting_service(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let (proxy, url) = Proxy::before(&context.database().await).await;
    proxy.cut();
    let variables = [("DATABASE_URL", url.as_str()), ("USERS_API__POOL__ACQUIRE", "1h")];
    let mut service = Service::launch(context.folder(), &variables);
    service.logged("database unreachable; retrying").await;
    service.signal("TERM").await;
    assert_eq!(service.ended().await.code(), Some(0));
    service.logged("shutdown: stopped during startup").await;
}

async fn a_signal_stops_the_service_during_an_outage(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let (proxy, url) = Proxy::before(&context.database().await).await;
    for silently in [false, true] {
        let mut service = Service::start(context.folder(), &[("DATABASE_URL", &url)]).await;
        if silently {
            proxy.stall();
        } else {
            proxy.cut();
        }
        let request = tokio::spawn(service.get(&client(), "/users").send());
        service.logged("the database is down").await;
        let began = Instant::now();
        service.signal("TERM").await;
        assert_eq!(service.ended().await.code(), Some(0), "{:#?}", service.log());
        assert!(began.elapsed() < Duration::from_secs(30), "the shutdown took {:?}", began.elapsed());
        assert_eq!(request.await.unwrap().unwrap().status(), 503);
        proxy.restore();
    }
}

async fn requests_are_served_during_the_drain_delay(context: Context) {
    let url = context.database().await;
    let variables = [("DATABASE_URL", url.as_str()), ("USERS_API__SERVER__DRAIN_DELAY", "5s")];
    let mut service = Service::start(context.folder(), &variables).await;
    let client = client();
    let pool = async || service.get(&client, "/pool").send().await.unwrap().json::<serde_json::Value>().await.unwrap();
    assert_eq!(pool().await["phase"], "serving");
    service.signal("TERM").await;
    service.logged("shutdown: readiness is now false").await;
    assert_eq!(pool().await["phase"], "not-ready");
    assert_eq!(service.get(&client, "/health/ready").send().await.unwrap().status(), 503);
    assert_eq!(service.get(&client, "/users").send().await.unwrap().status(), 200, "requests are still accepted");
    assert!(!service.log().iter().any(|line| line["message"] == "shutdown: listening stopped"));
    assert_eq!(service.ended().await.code(), Some(0));
}

async fn waiters_are_rejected_and_running_operations_are_completed(context: Context) {
    let url = context.database().await;
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("USERS_API__POOL__ACQUIRE", "60s"),
        ("USERS_API__POOL__MAX", "1"),
        ("USERS_API__POOL__MIN", "1"),
    ];
    let mut service = Service::start(context.folder(), &variables).await;
    let lock = Locked::users(&context, &url).await;
    let running = blocked_post(&context, &service).await;
    let body = serde_json::json!({"name": "Bea", "email": "bea@example.com"});
    let waiting = tokio::spawn(client().post(format!("http://{}/users", service.address)).json(&body).send());
    let observer = client();
    eventually("the second request waits", || async {
        let pool = service.get(&observer, "/pool").send().await.unwrap().json::<serde_json::Value>().await.unwrap();
        (pool["waiting"] == 1).then_some(())
    })
    .await;
    drop(observer);
    service.signal("TERM").await;
    let refused = waiting.await.unwrap().unwrap();
    assert_eq!(refused.status(), 503);
    assert!(refused.text().await.unwrap().contains("shutting-down"));
    let line = service.logged("shutdown: draining; waiting operations are refused").await;
    assert_eq!((line["refused"].as_u64(), line["running"].as_u64()), (Some(1), Some(1)));
    lock.unlock().await;
    assert_eq!(running.await.unwrap().unwrap().status(), 201);
    assert_eq!(service.ended().await.code(), Some(0));
}
