//! HTTP/1.1 connections: pipelining, malformed requests, and `Expect: 100-continue`.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    cases,
    harness::{
        App, Context, Reply, Service,
        bulk::{bulk, outcomes, rows},
        eventually, read_message,
    },
};

cases![
    pipelined_responses_are_framed_correctly,
    a_body_is_never_parsed_as_a_request,
    pipelined_responses_keep_the_order_of_requests,
    a_malformed_request_gets_a_problem,
    a_slow_request_head_gets_a_problem,
    a_rejected_body_closes_the_connection,
    bare_line_feeds_are_accepted_in_a_request_head,
    requests_after_the_last_response_are_ignored,
    an_unsupported_media_type_is_rejected_before_the_body_is_sent,
    every_ndjson_media_type_is_accepted,
    requests_of_http_10_do_not_affect_other_connections,
];

/// Sends these parts one by one, and reads until the connection is closed.
async fn exchange(app: &App, parts: &[&str]) -> String {
    let mut stream = TcpStream::connect(app.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for part in parts {
        stream.write_all(part.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap();
    String::from_utf8(response).unwrap()
}

/// Status and body of each response, framed as by a client. Responses to HEAD have no body.
fn responses(mut text: &str, methods: &[&str]) -> Vec<(u16, String)> {
    let mut responses = Vec::new();
    for method in methods {
        let (head, remaining) =
            text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{methods:?}: no response in {text:?}"));
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |it| it.parse().unwrap());
        let length = if *method == "HEAD" { 0 } else { length };
        responses.push((head[9..12].parse().unwrap(), remaining[..length].to_owned()));
        text = &remaining[length..];
    }
    assert_eq!(text, "", "{methods:?}");
    responses
}

fn request(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n")
}

fn creation(number: usize, is_chunked: bool) -> String {
    let body = format!("{{\"name\":\"HEAD / \\r\\n\\r\\nHEAD\",\"email\":\"user{number}@example.com\"}}")
        .replace("\\r\\n", " ");
    let json = "content-type: application/json\r\n";
    if is_chunked {
        let (one, two) = body.split_at(7);
        let chunks = format!("{:x};a=b\r\n{one}\r\n{:X}\r\n{two}\r\n0\r\nx-trailer: 1\r\n\r\n", one.len(), two.len());
        request("POST", "/users", &format!("{json}transfer-encoding: chunked\r\n")) + &chunks
    } else {
        request("POST", "/users", &format!("{json}content-length: {}\r\n", body.len())) + &body
    }
}

async fn pipelined_responses_are_framed_correctly(context: Context) {
    let app = context.app().await;
    let get = request("GET", "/users?limit=1", "");
    let head = request("HEAD", "/health/live", "");
    let last = request("GET", "/health/ready", "connection: close\r\n");
    let mut number = 0;
    let mut create = |is_chunked| {
        number += 1;
        creation(number, is_chunked)
    };
    for (requests, methods) in [
        (vec![get.clone(), head.clone()], vec!["GET", "HEAD"]),
        (vec![create(false), head.clone()], vec!["POST", "HEAD"]),
        (vec![create(true), head.clone()], vec!["POST", "HEAD"]),
        (
            vec![head.clone(), get.clone(), head.clone(), create(false), head.clone()],
            vec!["HEAD", "GET", "HEAD", "POST", "HEAD"],
        ),
        (vec!["\r\n\r\n".to_owned() + &head, create(true), get.clone()], vec!["HEAD", "POST", "GET"]),
    ] {
        let methods: Vec<&str> = methods.into_iter().chain(["GET"]).collect();
        let text = requests.concat() + &last;
        let whole = exchange(&app, &[&text]).await;
        let responses = responses(&whole, &methods);
        for (method, (status, body)) in methods.iter().zip(&responses) {
            let expected = if *method == "POST" { 201 } else { 200 };
            assert_eq!(*status, expected, "{text}\n{whole}");
            assert!(*method == "HEAD" || serde_json::from_str::<Value>(body).is_ok(), "{body}");
        }
    }
    assert_eq!(app.get("/users").await.ids().len(), number);
}

async fn a_body_is_never_parsed_as_a_request(context: Context) {
    let app = context.app().await;
    // Split into two packets at every position.
    let text = |number| creation(number, true) + &request("HEAD", "/health/live", "connection: close\r\n");
    for at in 1..text(1000).len() {
        let text = text(1000 + at);
        let (one, two) = text.split_at(at);
        let response = exchange(&app, &[one, two]).await;
        let statuses: Vec<u16> = responses(&response, &["POST", "HEAD"]).iter().map(|(status, _)| *status).collect();
        assert_eq!(statuses, [201, 200], "{at}");
    }
    let text = creation(5000, false) + &request("HEAD", "/health/live", "connection: close\r\n");
    let bytes: Vec<String> = text.chars().map(String::from).collect();
    let response = exchange(&app, &bytes.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(responses(&response, &["POST", "HEAD"]).len(), 2);
}

async fn pipelined_responses_keep_the_order_of_requests(context: Context) {
    let app = context.app().await;
    let mut text = String::new();
    let mut methods = Vec::new();
    for number in 0..200 {
        if number % 3 == 0 {
            text += &request("HEAD", "/users", "");
            methods.push("HEAD");
        } else {
            text += &creation(number, number % 2 == 0);
            methods.push("POST");
        }
    }
    text += &request("GET", "/health/live", "connection: close\r\n");
    methods.push("GET");
    let whole = exchange(&app, &[&text]).await;
    for (number, (status, body)) in responses(&whole, &methods).into_iter().enumerate().take(200) {
        let expected = format!("\"email\":\"user{number}@example.com\"");
        assert!((status == 200 && body.is_empty()) || (status == 201 && body.contains(&expected)), "{number}: {body}");
    }
}

/// The head in lower case, and the problem.
fn problem(response: &str) -> (String, Value) {
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{response:?}"));
    let (head, problem): (_, Value) = (head.to_lowercase(), serde_json::from_str(body).unwrap());
    for header in
        ["content-type: application/problem+json", "x-request-id: ", "connection: close", "cache-control: no-store"]
    {
        assert!(head.contains(header), "{header} is not in {head}");
    }
    (head, problem)
}

async fn a_malformed_request_gets_a_problem(context: Context) {
    let app = context.app().await;
    let large = request("GET", "/users", &format!("x-large: {}\r\n", "x".repeat(400_000)));
    for (text, status, code) in [
        ("HELLO\r\n\r\n", 400, "malformed-request"),
        ("GET / HTTP/1.1\r\nbad header\r\n\r\n", 400, "malformed-request"),
        ("GET /users HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n", 400, "malformed-request"),
        (large.as_str(), 431, "head-too-large"),
    ] {
        // Also after a successful request on the same connection.
        let mut stream = TcpStream::connect(app.address).await.unwrap();
        for is_first in [true, false] {
            if !is_first {
                stream = TcpStream::connect(app.address).await.unwrap();
                stream.write_all(request("GET", "/health/live", "").as_bytes()).await.unwrap();
                crate::harness::read_message(&mut stream).await.unwrap();
            }
            // A head that is too large may be rejected before all of it is sent.
            let _ = stream.write_all(text.as_bytes()).await;
            let mut response = Vec::new();
            stream.read_to_end(&mut response).await.unwrap();
            let (head, problem) = problem(&String::from_utf8(response).unwrap());
            assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
            assert_eq!((&problem["code"], &problem["status"]), (&json!(code), &json!(status)), "{problem}");
        }
    }
    let metrics = app.get("/metrics").await.text;
    let counted = r#"http_server_requests_total{http_request_method="_OTHER",http_route="(none)",http_response_status_code="431"}"#;
    assert!(metrics.contains(counted), "{metrics}");
}

async fn a_slow_request_head_gets_a_problem(context: Context) {
    // A separate service, whose metrics do not count other cases' requests.
    let url = context.database().await;
    let service = Service::start(context.folder(), &[("DATABASE_URL", &url)]).await;
    let app = App::at(service.address, &url);
    let (head, problem) = problem(&exchange(&app, &["GET /users HTTP/1.1\r\nhost: loc"]).await);
    assert!(head.starts_with("http/1.1 408 "), "{head}");
    assert_eq!(problem["code"], "head-timeout");
    let metrics = app.get("/metrics").await.text;
    let counted = metrics.lines().find(|line| line.contains("_code=\"408\"} ")).unwrap();
    assert!(counted.ends_with("\"408\"} 1"), "{counted}");
}

async fn a_rejected_body_closes_the_connection(context: Context) {
    // A separate service, without other cases' connections.
    let url = context.database().await;
    let service = Service::start(context.folder(), &[("DATABASE_URL", &url)]).await;
    let app = App::at(service.address, &url);
    let expect = "content-type: text/plain\r\nexpect: 100-continue\r\n";
    for (headers, body) in [
        ("transfer-encoding: chunked\r\n", "5\r\nhello\r\n".to_owned()),
        ("content-length: 1000000\r\n", "x".repeat(1_000_000)),
    ] {
        let mut stream = TcpStream::connect(app.address).await.unwrap();
        let text = request("POST", "/users", &format!("{expect}{headers}")) + &body;
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut response = [0; 13];
        stream.read_exact(&mut response).await.unwrap();
        assert_eq!(&response, b"HTTP/1.1 415 ");
    }
    // Only the connection that requests the metrics is left.
    eventually("the rejected connections are closed", || async {
        app.get("/metrics").await.text.contains("\nhttp_server_open_connections 1\n").then_some(())
    })
    .await;
}

async fn bare_line_feeds_are_accepted_in_a_request_head(context: Context) {
    let app = context.app().await;
    let response = exchange(&app, &["GET /users?limit=x HTTP/1.1\nhost: localhost\nconnection: close\n\n"]).await;
    let (_, body) = response.split_once("\r\n\r\n").unwrap();
    assert_eq!(serde_json::from_str::<Value>(body).unwrap()["code"], "invalid-query");
    let body = "name,email\r\n\r\nAnn,ann@example.com\r\n";
    let head = format!(
        "POST /users/bulk HTTP/1.1\nhost: localhost\nconnection: close\ncontent-type: text/csv\ncontent-length: {}\n\n",
        body.len()
    );
    let response = exchange(&app, &[&head, body]).await;
    assert!(response.contains("\"outcome\":\"created\""), "{response}");
}

async fn requests_after_the_last_response_are_ignored(context: Context) {
    let app = context.app().await;
    for number in 0..3 {
        app.create("Ann", &format!("ann{number}@example.com")).await;
    }
    for headers in ["connection: close\r\n", "connection: upgrade\r\nupgrade: h2c\r\n"] {
        let text = request("GET", "/users/export", headers) + &creation(1, false);
        let response = exchange(&app, &[&text]).await;
        assert_eq!(response.matches("HTTP/1.1 ").count(), 1, "{response}");
    }
    assert_eq!(app.get("/users").await.ids().len(), 3);
}

async fn an_unsupported_media_type_is_rejected_before_the_body_is_sent(context: Context) {
    let app = context.app().await;
    let id = app.create("Ann", "ann@example.com").await["id"].as_str().unwrap().to_owned();
    let one = format!("/users/{id}");
    let bulk_types = "application/x-ndjson, text/csv, application/ndjson, application/jsonl";
    for (method, path, accept) in [
        ("POST", "/users", "accept-post: application/json"),
        ("POST", "/users/bulk", &format!("accept-post: {bulk_types}")),
        ("PUT", &one, "accept: application/json"),
        ("PATCH", &one, "accept-patch: application/merge-patch+json, application/json"),
    ] {
        for expect in ["", "expect: 100-continue\r\n"] {
            let headers = format!("content-type: text/plain\r\ncontent-length: 2\r\nx-request-id: mine\r\n{expect}");
            let body = if expect.is_empty() { "{}" } else { "" };
            let headers = if expect.is_empty() { headers + "connection: close\r\n" } else { headers };
            let response = exchange(&app, &[&(request(method, path, &headers) + body)]).await;
            let (head, problem) = problem(&response);
            assert!(head.starts_with("http/1.1 415 ") && head.contains("x-request-id: mine"), "{head}");
            let accepted = head.lines().find(|line| line.starts_with("accept")).unwrap();
            let sorted = |line: &str| {
                let (name, types) = line.split_once(": ").unwrap();
                let mut types: Vec<String> = types.split(", ").map(str::to_owned).collect();
                types.sort();
                (name.to_owned(), types)
            };
            assert_eq!(sorted(accepted), sorted(accept), "{method} {path} {expect}");
            assert_eq!(problem["code"], "unsupported-media-type");
        }
    }
    // A supported body is requested with 100 Continue.
    let body = r#"{"name":"Bob","email":"bob@example.com"}"#;
    let headers =
        format!("content-type: application/json\r\ncontent-length: {}\r\nexpect: 100-continue\r\n", body.len());
    let mut stream = TcpStream::connect(app.address).await.unwrap();
    stream.write_all(request("POST", "/users", &(headers + "connection: close\r\n")).as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 201 "), "{response}");
}

async fn every_ndjson_media_type_is_accepted(context: Context) {
    let app = context.app().await;
    for (number, name) in ["application/ndjson", "application/jsonl", "application/x-ndjson"].into_iter().enumerate() {
        let reply = bulk(&app, "", name, None, rows(number..number + 1)).await;
        assert_eq!(outcomes(&reply), ["1 created"], "{name}");
        let export = Reply::of(app.request(Method::GET, "/users/export").header("accept", name)).await;
        assert_eq!((export.status.as_u16(), export.header("content-type")), (200, name));
        assert_eq!(export.text.lines().count(), number + 1);
    }
    for (accept, expected) in [
        ("application/*", "application/x-ndjson"),
        ("text/csv;q=0.5, application/jsonl;q=0.6", "application/jsonl"),
        ("text/csv, application/jsonl;q=0.6", "text/csv; charset=utf-8; header=present"),
        ("application/x-ndjson;q=0, application/ndjson", "application/ndjson"),
        ("*/*", "application/x-ndjson"),
    ] {
        let export = Reply::of(app.request(Method::GET, "/users/export").header("accept", accept)).await;
        assert_eq!(export.header("content-type"), expected, "{accept}");
    }
}

/// Health checks of HAProxy and `users-api healthcheck` use HTTP/1.0. The server reuses the memory of responses.
async fn requests_of_http_10_do_not_affect_other_connections(context: Context) {
    let app = context.app_with(&[("server.workers", "1")]).await;
    let mut connections = Vec::new();
    for _ in 0..4 {
        connections.push(TcpStream::connect(app.address).await.unwrap());
    }
    for round in 0..4 {
        for connection in &mut connections {
            connection.write_all(request("GET", "/health/live", "").as_bytes()).await.unwrap();
        }
        let old = exchange(&app, &["GET /health/live HTTP/1.0\r\nhost: localhost\r\n\r\n"]).await;
        assert!(old.starts_with("HTTP/1.0 200 OK\r\n"), "{old}");
        for (number, connection) in connections.iter_mut().enumerate() {
            let response = tokio::time::timeout(std::time::Duration::from_secs(10), read_message(connection)).await;
            let response = response.unwrap_or_else(|_| panic!("no response on connection {number}, round {round}"));
            assert!(response.unwrap().0.starts_with("HTTP/1.1 200 OK\r\n"));
        }
    }
}
