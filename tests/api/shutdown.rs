//! The way out: in order, within its limits, with nothing cut.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use sea_orm::{ConnectionTrait, Statement};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    cases,
    harness::{Context, Engine, Locked, Proxy, Service, client, connect, eventually, read_message, wanted},
};

cases![
    nothing_is_cut_under_load,
    sigint_ends_it_as_well,
    running_requests_are_answered,
    a_pool_that_does_not_close_is_named,
    a_stuck_request_and_the_pool_share_one_limit,
    a_second_signal_ends_it_at_once,
    a_signal_ends_it_while_it_still_starts,
    a_signal_ends_it_while_the_database_is_away,
    a_delay_lets_load_balancers_notice,
    the_queue_is_refused_and_what_runs_is_finished,
];

const CLIENTS: usize = 64;
/// How often it is stopped under load; `USERS_API_TEST_STOPS` changes it.
fn runs() -> usize {
    wanted("USERS_API_TEST_STOPS", 50)
}

#[derive(Default)]
struct Outcome {
    answered: AtomicUsize,
    /// Clients that had an answer: their connection has been accepted.
    served: AtomicUsize,
    /// Requests told that the service is going. They had waited when the farewell was over.
    refused: AtomicUsize,
    cut: AtomicUsize,
}

/// A client that keeps its connection and always has a request on its way. It ends when nobody listens any more.
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
            let answer = match sent {
                Ok(()) => read_message(&mut stream).await,
                Err(_) => None,
            };
            let Some((head, body)) = answer else {
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

/// How long after the last new connection the queue was refused.
fn farewell(service: &Service) -> chrono::TimeDelta {
    let at = |message: &str| {
        let lines = service.log();
        let line = lines.iter().find(|line| line["message"] == message);
        chrono::DateTime::parse_from_rfc3339(line.unwrap()["timestamp"].as_str().unwrap()).unwrap()
    };
    at("shutdown: the queue is refused, what runs is finished") - at("shutdown: listening stopped")
}

/// Connections that the server still knows of, but for the one that asks.
async fn left_behind(context: &Context, url: &str) -> i64 {
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

async fn nothing_is_cut_under_load(context: Context) {
    let url = context.database().await;
    for run in 0..runs() {
        let mut service = Service::start(context.folder(), &[("DATABASE_URL", &url), ("RUST_LOG", "info")]).await;
        let outcome = Arc::new(Outcome::default());
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| tokio::spawn(busy_client(service.address, number, Arc::clone(&outcome))))
            .collect();
        // A connection that the kernel has accepted and the service has not yet is no busy one.
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
        let patient = refused == 0 || farewell(&service) >= chrono::TimeDelta::milliseconds(490);
        assert!(patient, "run {run}: {refused} requests were refused after {}", farewell(&service));
        let alarms: Vec<_> = service.log().into_iter().filter(|line| line["level"] == "ERROR").collect();
        assert!(alarms.is_empty(), "run {run}: an ordinary end is no reason for alarm: {alarms:#?}");
        // A server notices that a client has said goodbye a moment after it was said.
        let gone = || async { (left_behind(&context, &url).await == 0).then_some(()) };
        eventually("the server knows of no connection of ours", gone).await;
    }
}

async fn sigint_ends_it_as_well(context: Context) {
    let url = context.database().await;
    let mut service = Service::start(context.folder(), &[("DATABASE_URL", &url)]).await;
    service.signal("INT").await;
    assert_eq!(service.ended().await.code(), Some(0));
    for phase in [
        "shutdown: signal received; a second one ends the process at once",
        "shutdown: not ready any more",
        "shutdown: listening stopped",
        "shutdown: the queue is refused, what runs is finished",
        "shutdown: all requests answered",
        "shutdown: pool closed",
        "stopped",
    ] {
        service.logged(phase).await;
    }
}

/// A POST that the server has, and does not answer while the table is locked.
pub async fn hanging_post(
    context: &Context,
    service: &Service,
) -> tokio::task::JoinHandle<Result<reqwest::Response, reqwest::Error>> {
    let request = client()
        .post(format!("http://{}/users", service.address))
        .header("content-type", "application/json")
        .body(r#"{"name":"Ann","email":"ann@example.com"}"#);
    let posting = tokio::spawn(request.send());
    let asking = client();
    let in_use = || async {
        let pool = service.get(&asking, "/pool").send().await.unwrap().json::<serde_json::Value>().await.unwrap();
        (pool["inUse"] == 1).then_some(())
    };
    eventually(&format!("the request hangs in {}", context.engine().name()), in_use).await;
    posting
}

async fn running_requests_are_answered(context: Context) {
    let url = context.database().await;
    // SQLite waits for a lock as long as a request may wait for a connection.
    let variables = [("DATABASE_URL", url.as_str()), ("USERS_API__POOL__ACQUIRE", "60s")];
    let mut service = Service::start(context.folder(), &variables).await;
    let lock = Locked::users(&context, &url).await;
    let posting = hanging_post(&context, &service).await;
    service.signal("TERM").await;
    service.logged("shutdown: listening stopped").await;
    assert!(TcpStream::connect(service.address).await.is_err(), "nobody listens any more");
    lock.unlock().await;
    assert_eq!(posting.await.unwrap().unwrap().status(), 201, "what had begun was answered");
    assert_eq!(service.ended().await.code(), Some(0));
}

async fn a_pool_that_does_not_close_is_named(context: Context) {
    let url = context.database().await;
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("USERS_API__POOL__ACQUIRE", "60s"),
        ("USERS_API__SERVER__SHUTDOWN_TIMEOUT", "300ms"),
    ];
    let mut service = Service::start(context.folder(), &variables).await;
    let lock = Locked::users(&context, &url).await;
    let posting = hanging_post(&context, &service).await;
    let began = Instant::now();
    service.signal("TERM").await;
    assert_eq!(service.ended().await.code(), Some(1));
    assert!(began.elapsed() < Duration::from_secs(30), "it has limits: {:?}", began.elapsed());
    let line = service.logged("shutdown: pool left open").await;
    assert!(line["error"].as_str().unwrap().contains("1 operations still running"), "{line}");
    service.logged("shutdown: requests cut off").await;
    drop(posting);
    lock.unlock().await;
}

async fn a_stuck_request_and_the_pool_share_one_limit(context: Context) {
    let url = context.database().await;
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("USERS_API__POOL__ACQUIRE", "60s"),
        ("USERS_API__SERVER__SHUTDOWN_TIMEOUT", "3s"),
    ];
    let mut service = Service::start(context.folder(), &variables).await;
    let lock = Locked::users(&context, &url).await;
    let posting = hanging_post(&context, &service).await;
    service.signal("TERM").await;
    assert_eq!(service.ended().await.code(), Some(1));
    let line = service.logged("shutdown: pool left open").await;
    // The request has used up the time: what is left for the pool is the grace of a second.
    assert!(line["error"].as_str().unwrap().contains("within 1s"), "{line}");
    drop(posting);
    lock.unlock().await;
}

async fn a_second_signal_ends_it_at_once(context: Context) {
    let url = context.database().await;
    let variables = [("DATABASE_URL", url.as_str()), ("USERS_API__POOL__ACQUIRE", "60s")];
    let mut service = Service::start(context.folder(), &variables).await;
    let lock = Locked::users(&context, &url).await;
    let posting = hanging_post(&context, &service).await;
    service.signal("TERM").await;
    service.logged("shutdown: listening stopped").await;
    service.signal("INT").await;
    assert_eq!(service.ended().await.code(), Some(130));
    drop(posting);
    lock.unlock().await;
}

async fn a_signal_ends_it_while_it_still_starts(context: Context) {
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
    service.logged("shutdown: stopped before it had started").await;
}

async fn a_signal_ends_it_while_the_database_is_away(context: Context) {
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
        let asking = tokio::spawn(service.get(&client(), "/users").send());
        service.logged("the database is down").await;
        let began = Instant::now();
        service.signal("TERM").await;
        assert_eq!(service.ended().await.code(), Some(0), "{:#?}", service.log());
        assert!(began.elapsed() < Duration::from_secs(30), "it has limits: {:?}", began.elapsed());
        assert_eq!(asking.await.unwrap().unwrap().status(), 503);
        proxy.mend();
    }
}

async fn a_delay_lets_load_balancers_notice(context: Context) {
    let url = context.database().await;
    let variables = [("DATABASE_URL", url.as_str()), ("USERS_API__SERVER__DRAIN_DELAY", "5s")];
    let mut service = Service::start(context.folder(), &variables).await;
    let client = client();
    let phase = async || service.get(&client, "/pool").send().await.unwrap().json::<serde_json::Value>().await.unwrap();
    assert_eq!(phase().await["phase"], "serving");
    service.signal("TERM").await;
    service.logged("shutdown: not ready any more").await;
    assert_eq!(phase().await["phase"], "not-ready");
    assert_eq!(service.get(&client, "/health/ready").send().await.unwrap().status(), 503);
    assert_eq!(service.get(&client, "/users").send().await.unwrap().status(), 200, "requests are still taken");
    assert!(!service.log().iter().any(|line| line["message"] == "shutdown: listening stopped"));
    assert_eq!(service.ended().await.code(), Some(0));
}

async fn the_queue_is_refused_and_what_runs_is_finished(context: Context) {
    let url = context.database().await;
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("USERS_API__POOL__ACQUIRE", "60s"),
        ("USERS_API__POOL__MAX", "1"),
        ("USERS_API__POOL__MIN", "1"),
    ];
    let mut service = Service::start(context.folder(), &variables).await;
    let lock = Locked::users(&context, &url).await;
    let running = hanging_post(&context, &service).await;
    let body = serde_json::json!({"name": "Bea", "email": "bea@example.com"});
    let waiting = tokio::spawn(client().post(format!("http://{}/users", service.address)).json(&body).send());
    let asking = client();
    eventually("the second waits", || async {
        let pool = service.get(&asking, "/pool").send().await.unwrap().json::<serde_json::Value>().await.unwrap();
        (pool["waiting"] == 1).then_some(())
    })
    .await;
    drop(asking);
    service.signal("TERM").await;
    let refused = waiting.await.unwrap().unwrap();
    assert_eq!(refused.status(), 503);
    assert!(refused.text().await.unwrap().contains("shutting-down"));
    let line = service.logged("shutdown: the queue is refused, what runs is finished").await;
    assert_eq!((line["refused"].as_u64(), line["running"].as_u64()), (Some(1), Some(1)));
    lock.unlock().await;
    assert_eq!(running.await.unwrap().unwrap().status(), 201);
    assert_eq!(service.ended().await.code(), Some(0));
}
