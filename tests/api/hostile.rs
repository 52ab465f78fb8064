//! Malformed and hostile input: always a 4xx that states the reason, never a 5xx, and no internals.

use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    cases,
    harness::{App, Context, Reply, env_or, read_message},
};

cases![
    all_validation_errors_are_reported_together,
    malformed_json_is_reported_with_its_position,
    only_json_is_accepted,
    the_body_size_is_limited,
    deeply_nested_and_huge_json_is_rejected,
    invalid_ids_are_rejected,
    invalid_emails_are_rejected,
    a_slow_body_times_out,
    invalid_http_does_not_affect_the_service,
    forged_cursors_and_invalid_keys_are_rejected,
];

/// How many cursors and keys are forged; `USERS_API_TEST_FORGED` overrides it.
fn forged() -> usize {
    env_or("USERS_API_TEST_FORGED", 3000)
}

async fn send(app: &App, content_type: &str, body: impl Into<reqwest::Body>) -> Reply {
    Reply::of(app.request(Method::POST, "/users").header("content-type", content_type).body(body)).await
}

async fn send_json(app: &App, body: impl Into<reqwest::Body>) -> Reply {
    send(app, "application/json", body).await
}

async fn all_validation_errors_are_reported_together(context: Context) {
    let app = context.app().await;
    for (body, errors) in [
        (r#"{}"#, &["/email required", "/name required"][..]),
        (r#"{"name":"","email":"x"}"#, &["/email malformed", "/name empty"]),
        (
            r#"{"name":1,"email":[],"id":"x","a/b~c":null}"#,
            &["/a~1b~0c unknown-member", "/email wrong-type", "/id unknown-member", "/name wrong-type"],
        ),
        (r#"{"name":null,"email":null}"#, &["/email required", "/name required"]),
        (r#"{"name":"A","name":"B","email":"a@example.com"}"#, &["/name duplicate-member"]),
        (r#"{"NAME":"A","name":"a","email":"a@example.com"}"#, &["/NAME unknown-member"]),
        (r#"{"name":"a\u0000b","email":"a\u0000@example.com"}"#, &["/email malformed", "/name control-character"]),
        (r#"{"name":{"a":1},"email":true}"#, &["/email wrong-type", "/name wrong-type"]),
        (r#"[]"#, &[" wrong-type"]),
        (r#"[{"name":"A","email":"a@example.com"}]"#, &[" wrong-type"]),
        (r#""text""#, &[" wrong-type"]),
        (r#"null"#, &[" wrong-type"]),
        (r#"1"#, &[" wrong-type"]),
        (r#"-1.5"#, &[" wrong-type"]),
        (r#"true"#, &[" wrong-type"]),
    ] {
        assert_eq!(send_json(&app, body).await.validation_errors(), errors, "{body}");
    }
    let long = json!({"name": "x".repeat(201), "email": format!("{}@example.com", "x".repeat(308))});
    assert_eq!(app.post("/users", &long).await.validation_errors(), ["/email too-long", "/name too-long"]);
    assert_eq!(app.get("/users").await.text, "[]");
}

async fn malformed_json_is_reported_with_its_position(context: Context) {
    let app = context.app().await;
    for (body, place) in [
        (&b"{\n  \"name\": oops\n}"[..], "line 2, column 11"),
        (b"", "line 1, column 0"),
        (b"{\"name\":\"A\",}", "line 1, column 13"),
        (b"{\"name\":\"A\"} x", "line 1, column 14"),
        (b"{\"name\":\"\\ud800\"}", "line 1, column 16"),
        (b"{\"name\":\"\xff\xfe\"}", "line 1, column 10"),
        (b"{\"name\":\"a\0b\"}", "line 1, column 11"),
        (b"{'name':'A'}", "line 1, column 2"),
        (b"\xef\xbb\xbf{}", "line 1, column 1"),
        (b"{\"name\":NaN}", "line 1, column 9"),
    ] {
        let problem = send_json(&app, body).await.problem(400, "malformed-json");
        assert!(problem["detail"].as_str().unwrap().contains(place), "{:?}: {problem}", String::from_utf8_lossy(body));
    }
}

async fn only_json_is_accepted(context: Context) {
    let app = context.app().await;
    let body = r#"{"name":"A","email":"a@example.com"}"#;
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=latin1",
        "json",
        "*/*",
        "application/merge-patch+json",
        "é",
    ] {
        send(&app, content_type, body).await.problem(415, "unsupported-media-type");
    }
    Reply::of(app.request(Method::POST, "/users").body(body)).await.problem(415, "unsupported-media-type");
    let compressed = app
        .request(Method::POST, "/users")
        .header("content-type", "application/json")
        .header("content-encoding", "gzip");
    Reply::of(compressed.body(body)).await.problem(415, "unsupported-media-type");
    assert_eq!(send(&app, "Application/JSON; Charset=UTF-8", body).await.status, 201);
}

async fn the_body_size_is_limited(context: Context) {
    let app = context.app().await;
    let large = format!(r#"{{"name":"{}","email":"a@example.com"}}"#, "x".repeat(64 * 1024));
    send_json(&app, large).await.problem(413, "payload-too-large");
    // Also without a `Content-Length`: the limit must not rely on the header.
    let mut stream = TcpStream::connect(app.address).await.unwrap();
    stream
        .write_all(
            b"POST /users HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .await
        .unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 8192, " ".repeat(8192));
    for _ in 0..9 {
        stream.write_all(chunk.as_bytes()).await.unwrap();
    }
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 413");
}

async fn deeply_nested_and_huge_json_is_rejected(context: Context) {
    let app = context.app().await;
    let nested = |open: &str, close: &str| format!("{}{}", open.repeat(20_000), close.repeat(20_000));
    let many = format!("{{{}}}", (0..6000).map(|number| format!("\"m{number}\":1")).collect::<Vec<_>>().join(","));
    for body in [
        nested("[", "]"),
        nested(r#"{"name":"#, "}").replace("}}", "}"),
        format!(r#"{{"name":{},"email":"a@example.com"}}"#, nested("[", "]")),
        r#"{"name":1e999999,"email":"a@example.com"}"#.to_owned(),
        format!(r#"{{"name":{},"email":"a@example.com"}}"#, "9".repeat(5000)),
        many,
    ] {
        let reply = send_json(&app, body).await;
        assert!(reply.status.is_client_error(), "{}", reply.text);
        assert!(reply.text.len() < 64 * 1024, "the response is not longer than the request");
        assert!(reply.json()["code"].is_string());
    }
}

async fn invalid_ids_are_rejected(context: Context) {
    let app = context.app().await;
    for id in [
        "1",
        "-1",
        "null",
        "%00",
        "%ff",
        "..%2f..%2fetc%2fpasswd",
        "'%20OR%201=1--",
        "0197b5f03c4a7def8123456789abcdef",
        "%7b0197b5f0-3c4a-7def-8123-456789abcdef%7d",
        "0197b5f0-3c4a-7def-8123-456789abcdeg",
        "é",
    ] {
        app.get(&format!("/users/{id}")).await.problem(400, "invalid-id");
        app.delete(&format!("/users/{id}")).await.problem(400, "invalid-id");
    }
    app.get(&format!("/users/{}", "x".repeat(5000))).await.problem(400, "invalid-id");
    // With both an invalid id and an invalid body, one of them is reported.
    assert!(app.put("/users/1", &json!({})).await.status.is_client_error());
    // Any UUID is a valid id, whether or not such a user exists.
    app.get("/users/00000000-0000-0000-0000-000000000000").await.problem(404, "user-not-found");
}

async fn invalid_emails_are_rejected(context: Context) {
    let app = context.app().await;
    for email in [
        "",
        " ",
        "a",
        "@",
        "a@",
        "@b.c",
        "a@b",
        "a b@example.com",
        "a@example.com ",
        "a@@example.com",
        "a@example..com",
        "a@.example.com",
        "a@example.com.",
        "<a@example.com>",
        "a@[127.0.0.1]",
        "a@exa\u{0}mple.com",
        "a\r\nBcc: b@example.com",
        "a@example.com,b@example.com",
        "\u{202e}a@example.com\n",
    ] {
        let reply = app.post("/users", &json!({"name": "A", "email": email})).await;
        assert_eq!(reply.status, 422, "{email:?}: {}", reply.text);
        assert!(
            email.len() < 3 || !reply.text.contains(email.trim()),
            "a rejected value is not repeated: {}",
            reply.text
        );
    }
}

async fn a_slow_body_times_out(context: Context) {
    let app = context.app_with(&[("server.request_timeout", "300ms")]).await;
    let mut stream = TcpStream::connect(app.address).await.unwrap();
    stream
        .write_all(
            b"POST /users HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"na",
        )
        .await
        .unwrap();
    let (head, body) = read_message(&mut stream).await.unwrap();
    assert!(
        head.starts_with("HTTP/1.1 408") && head.contains("x-request-id") && body.contains("body-timeout"),
        "{head}{body}"
    );
}

async fn invalid_http_does_not_affect_the_service(context: Context) {
    let app = context.app().await;
    let long_header = format!("GET /users HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    for bytes in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"GET /users HTTP/9.9\r\n\r\n",
        b"GET /users\r\n\r\n",
        b"POST /users HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n",
        b"POST /users HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        long_header.as_bytes(),
    ] {
        let mut stream = TcpStream::connect(app.address).await.unwrap();
        // The service may close the connection before it has read everything.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut response = Vec::new();
        let _ = stream.read_to_end(&mut response).await;
        let response = String::from_utf8_lossy(&response);
        assert!(!response.starts_with("HTTP/1.1 5"), "{response}");
    }
    assert_eq!(app.get("/users").await.status, 200);
}

/// A generator of pseudorandom numbers, reproducible by its seed.
struct Random(u64);

impl Random {
    fn with_seed(seed: usize) -> Self {
        Self(seed as u64 + 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    /// A letter of base64url.
    fn letter(&mut self) -> u8 {
        LETTERS[self.below(LETTERS.len())]
    }
}

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// Queries whose cursors differ.
const QUERIES: [&str; 4] = ["", "sort=name&", "sort=-email&", "name=a&"];

/// An idempotency key with an invalid character, length or quoting.
fn invalid_key(random: &mut Random) -> Vec<u8> {
    let mut key: Vec<u8> = (0..random.below(40)).map(|_| u8::try_from(33 + random.below(94)).unwrap()).collect();
    match random.below(4) {
        0 => key.insert(random.below(key.len() + 1), 128 + u8::try_from(random.below(128)).unwrap()),
        1 => key.insert(0, b'"'),
        2 => key = vec![b'k'; 256 + random.below(1000)],
        _ => key.insert(random.below(key.len() + 1), b','),
    }
    if key.len() > 1 && key.starts_with(b"\"") && key.ends_with(b"\"") {
        key.pop();
    }
    key
}

/// A query with a cursor: a valid one that is truncated, extended or changed; one of another query; or a random one.
fn forged_cursor(random: &mut Random, cursors: &[String]) -> String {
    let kind = random.below(QUERIES.len());
    let mut cursor = cursors[kind].clone().into_bytes();
    let mut query = QUERIES[kind];
    match random.below(5) {
        0 => cursor.truncate(random.below(cursor.len())),
        1 => cursor.extend((0..=random.below(60)).map(|_| random.letter())),
        2 => cursor = (0..random.below(300)).map(|_| random.letter()).collect(),
        3 => query = QUERIES[(kind + 1 + random.below(QUERIES.len() - 1)) % QUERIES.len()],
        _ => {
            let place = random.below(cursor.len());
            let letter = LETTERS.iter().position(|it| *it == cursor[place]).unwrap();
            cursor[place] = LETTERS[(letter + 1 + random.below(63)) % 64];
        }
    }
    format!("{query}cursor={}", String::from_utf8(cursor).unwrap())
}

async fn forged_cursors_and_invalid_keys_are_rejected(context: Context) {
    let app = context.app().await;
    for number in 0..3 {
        app.create("Ann", &format!("ann{number}@example.com")).await;
    }
    let mut cursors = Vec::new();
    for query in QUERIES {
        let next = app.get(&format!("/users?{query}limit=1")).await.link("next").unwrap();
        cursors.push(next.rsplit_once("cursor=").unwrap().1.to_owned());
    }
    let clients = (0..16).map(|client| {
        let (app, cursors) = (app.clone(), cursors.clone());
        tokio::spawn(async move {
            let mut random = Random::with_seed(client);
            for number in 0..forged() / 16 {
                if number % 3 == 0 {
                    let key = invalid_key(&mut random);
                    let request = app.request(Method::POST, "/users").header("idempotency-key", key.as_slice());
                    let reply = Reply::of(request.json(&json!({"name": "Ann", "email": "new@example.com"}))).await;
                    assert_eq!(reply.status, 400, "{key:?}");
                    reply.problem(400, "invalid-idempotency-key");
                } else {
                    let query = forged_cursor(&mut random, &cursors);
                    let path = if random.below(4) == 0 { "/users/export" } else { "/users" };
                    let reply = app.get(&format!("{path}?{query}")).await;
                    assert_eq!(reply.status, 400, "{path}?{query}");
                    reply.problem(400, "invalid-cursor");
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    assert_eq!(app.get("/users?email=new@example.com").await.text, "[]");
}
