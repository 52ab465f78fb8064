//! Limits of the operating system and of the service: no client can lock out others.

use std::net::SocketAddr;

use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    cases,
    harness::{Context, Locked, Reply, Service, client, eventually, read_message},
};

cases![
    idle_connections_do_not_lock_out_others,
    the_open_file_limit_is_raised_to_the_hard_limit,
    a_busy_connection_is_not_closed_for_new_ones,
    a_loopback_listener_accepts_localhost_names_only,
    allowed_hosts_are_accepted,
];

/// Sends a request over the connection and returns whether it succeeded.
async fn is_answered(stream: &mut TcpStream) -> bool {
    let sent = stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    sent.is_ok() && read_message(stream).await.is_some_and(|(head, _)| head.starts_with("HTTP/1.1 200"))
}

async fn connected(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let answered = tokio::time::timeout(std::time::Duration::from_secs(30), is_answered(&mut stream)).await;
    assert_eq!(answered, Ok(true), "a new connection is served");
    stream
}

/// Waits for the server to close a connection.
async fn wait_closed(stream: &mut TcpStream) {
    let mut rest = [0; 64];
    let closed = tokio::time::timeout(std::time::Duration::from_secs(30), stream.read(&mut rest)).await;
    assert!(matches!(closed.expect("the connection is still open"), Ok(0) | Err(_)));
}

async fn metric(service: &Service, name: &str) -> u64 {
    let text = service.get(&client(), "/metrics").send().await.unwrap().text().await.unwrap();
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse().unwrap()
}

async fn idle_connections_do_not_lock_out_others(context: Context) {
    let service = Service::start_limited(context.folder(), &[], "ulimit -n 150").await;
    // Some clients send nothing at all.
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(service.address).await.unwrap());
    }
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(connected(service.address).await);
    }
    wait_closed(&mut silent[0]).await;
    wait_closed(&mut idle[0]).await;
    assert!(is_answered(idle.last_mut().unwrap()).await, "the newest is still open");
    assert_eq!(service.get(&client(), "/health/ready").send().await.unwrap().status(), 200);
    assert!(metric(&service, "http_server_connections_closed_for_others_total").await > 100);
    let warning = service
        .logged("the open file limit is low; raise it (ulimit -n, LimitNOFILE=) to serve more connections")
        .await;
    assert_eq!(warning["open_files"], 150);
    let errors: Vec<_> = service.log().into_iter().filter(|line| line["level"] == "ERROR").collect();
    assert!(errors.is_empty(), "no shortage of file descriptors: {errors:#?}");
}

async fn the_open_file_limit_is_raised_to_the_hard_limit(context: Context) {
    let service = Service::start_limited(context.folder(), &[], "ulimit -S -n 150; ulimit -H -n 1500").await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", service.id())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some("1500"), "{files}");
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(connected(service.address).await);
    }
    for stream in &mut idle {
        assert!(is_answered(stream).await, "no connection was closed");
    }
}

async fn a_busy_connection_is_not_closed_for_new_ones(context: Context) {
    let url = context.database().await;
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("USERS_API__POOL__ACQUIRE", "60s"),
        ("USERS_API__SERVER__MAX_CONNECTIONS", "4"),
    ];
    let service = Service::start(context.folder(), &variables).await;
    let lock = Locked::users(&context, &url).await;
    let mut busy = TcpStream::connect(service.address).await.unwrap();
    let body = r#"{"name":"Ann","email":"ann@example.com"}"#;
    let head = format!("host: localhost\r\ncontent-type: application/json\r\ncontent-length: {}", body.len());
    busy.write_all(format!("POST /users HTTP/1.1\r\n{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
    let http = client();
    eventually("the request is in flight", || async {
        let pool = service.get(&http, "/pool").send().await.unwrap().json::<serde_json::Value>().await.unwrap();
        (pool["inUse"] == 1).then_some(())
    })
    .await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(connected(service.address).await);
    }
    lock.unlock().await;
    let (head, _) = read_message(&mut busy).await.expect("the response is complete");
    assert!(head.starts_with("HTTP/1.1 201"), "{head}");
    wait_closed(&mut idle[0]).await;
}

async fn a_loopback_listener_accepts_localhost_names_only(context: Context) {
    let app = context.app().await;
    let get = async |path: &str, host: &str| {
        let request = app.request(Method::GET, path).header("host", host);
        Reply::of(request).await
    };
    for path in ["/users", "/pool", "/metrics", "/openapi.json", "/swagger/", "/health/ready", "/nowhere"] {
        get(path, "evil.example").await.problem(421, "host-unknown");
    }
    for host in ["evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "192.168.0.1"] {
        get("/users", host).await.problem(421, "host-unknown");
    }
    for host in ["localhost", "localhost:8080", "users.localhost", "127.0.0.1:1", "[::1]:8080"] {
        assert_eq!(get("/users", host).await.status, 200, "{host}");
    }
    let body = json!({"name": "Ann", "email": "ann@example.com"});
    let write = app.request(Method::POST, "/users").header("host", "evil.example").json(&body);
    Reply::of(write).await.problem(421, "host-unknown");
    assert_eq!(app.get("/users").await.text, "[]", "nothing was written");
    for (head, status) in [
        ("GET http://evil.example/users HTTP/1.1\r\nhost: localhost\r\n", "421"),
        ("GET /users HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n", "4"),
        ("GET /users HTTP/1.0\r\n", "200"),
    ] {
        let mut stream = TcpStream::connect(app.address).await.unwrap();
        stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        assert!(response[9..].starts_with(status), "{head}: {response}");
    }
}

async fn allowed_hosts_are_accepted(context: Context) {
    let app = context.app_with(&[("server.allowed_hosts", "users.example, other.example")]).await;
    for (host, status) in
        [("users.example", 200), ("other.example:443", 200), ("localhost", 200), ("evil.example", 421)]
    {
        let reply = Reply::of(app.request(Method::GET, "/users").header("host", host)).await;
        assert_eq!(reply.status, status, "{host}");
    }
    // Any host is accepted on other addresses: the names that clients use are unknown.
    let app = context.app_with(&[("server.host", "0.0.0.0"), ("auth.mode", "gateway")]).await;
    let request =
        client().get(format!("http://127.0.0.1:{}/users", app.address.port())).header("host", "users.example");
    assert_eq!(Reply::of(request).await.status, 200);
}
