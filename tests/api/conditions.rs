//! Conditional requests: an unchanged user is not sent again, and no update is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    cases,
    harness::{App, Context, Reply, env_or},
};

cases![
    every_response_with_a_single_user_has_an_etag,
    a_list_matches_no_etag,
    an_unchanged_user_is_not_sent_again,
    a_change_requires_a_matching_etag,
    if_match_can_be_required_for_changes,
    no_update_is_lost,
];

const CLIENTS: usize = 64;

/// How long the clients count; `USERS_API_TEST_COUNTING` overrides it, in seconds.
fn counting() -> Duration {
    Duration::from_secs(env_or("USERS_API_TEST_COUNTING", 3))
}

/// Creates a user and returns its path.
async fn create(app: &App) -> String {
    format!("/users/{}", app.create("Ann", "ann@example.com").await["id"].as_str().unwrap())
}

async fn send(app: &App, method: Method, path: &str, header: (&str, &str), body: Option<&Value>) -> Reply {
    let mut request = app.request(method, path).header(header.0, header.1);
    if let Some(body) = body {
        request = request.json(body);
    }
    Reply::of(request).await
}

async fn every_response_with_a_single_user_has_an_etag(context: Context) {
    let app = context.app().await;
    let draft = json!({"name": "Ann", "email": "ann@example.com"});
    let reply = app.post("/users", &draft).await;
    assert_eq!((reply.status.as_u16(), reply.header("etag")), (201, "\"1\""));
    let path = reply.header("location").to_owned();
    assert_eq!(app.get(&path).await.header("etag"), "\"1\"");
    assert_eq!(Reply::of(app.request(Method::HEAD, &path)).await.header("etag"), "\"1\"");
    assert_eq!(app.patch(&path, &json!({"name": "Bob"})).await.header("etag"), "\"2\"");
    assert_eq!(app.patch(&path, &json!({"name": "Bob"})).await.header("etag"), "\"2\"", "nothing changed");
    assert_eq!(app.put(&path, &draft).await.header("etag"), "\"3\"");
    assert!(app.get("/users").await.headers.get("etag").is_none(), "a list has no ETag");
}

async fn a_list_matches_no_etag(context: Context) {
    let app = context.app().await;
    let draft = json!({"name": "Ann", "email": "ann@example.com"});
    for header in [("if-match", "\"1\""), ("if-none-match", "*"), ("if-match", "1")] {
        for path in ["/users", "/users/bulk"] {
            let mut request = app.request(Method::POST, path).header(header.0, header.1).json(&draft);
            if path == "/users/bulk" {
                request = request.header("content-type", "application/x-ndjson");
            }
            let reply = Reply::of(request).await;
            reply.problem(412, "precondition-failed");
            assert!(!reply.headers.contains_key("etag"));
        }
    }
    assert_eq!(app.get("/users").await.text, "[]");
    for header in [("if-match", "*"), ("if-none-match", "\"1\"")] {
        let reply = send(&app, Method::POST, "/users", header, Some(&draft)).await;
        assert_ne!(reply.status, 412, "{header:?}");
    }
}

async fn an_unchanged_user_is_not_sent_again(context: Context) {
    let app = context.app().await;
    let path = create(&app).await;
    for matching in ["\"1\"", "W/\"1\"", "\"7\", \"1\"", "*"] {
        for method in [Method::GET, Method::HEAD] {
            let reply = send(&app, method, &path, ("if-none-match", matching), None).await;
            assert_eq!((reply.status.as_u16(), reply.text.as_str()), (304, ""), "{matching}");
            assert_eq!((reply.header("etag"), reply.header("cache-control")), ("\"1\"", "private, no-cache"));
            assert!(!reply.header("x-request-id").is_empty());
            assert!(reply.headers.get("content-length").is_none_or(|length| length != "0"), "{:?}", reply.headers);
        }
    }
    for other in ["\"2\"", "\"01\"", "1", "no tag", ""] {
        let reply = send(&app, Method::GET, &path, ("if-none-match", other), None).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["name"]), (200, &json!("Ann")), "{other}");
    }
    app.patch(&path, &json!({"name": "Bob"})).await;
    let reply = send(&app, Method::GET, &path, ("if-none-match", "\"1\""), None).await;
    assert_eq!((reply.status.as_u16(), reply.header("etag")), (200, "\"2\""));

    let unknown = "/users/0197b5f0-3c4a-7def-8123-456789abcdef";
    send(&app, Method::GET, unknown, ("if-none-match", "*"), None).await.problem(404, "user-not-found");
    send(&app, Method::GET, &path, ("if-match", "\"1\""), None).await.problem(412, "precondition-failed");
    assert_eq!(send(&app, Method::GET, &path, ("if-match", "\"2\""), None).await.status, 200);
}

async fn a_change_requires_a_matching_etag(context: Context) {
    let app = context.app().await;
    let path = create(&app).await;
    let (draft, patch) = (json!({"name": "Bob", "email": "bob@example.com"}), json!({"name": "Bob"}));
    let changes = [(Method::PUT, Some(&draft)), (Method::PATCH, Some(&patch)), (Method::DELETE, None)];
    for (method, body) in changes.clone() {
        for header in [
            ("if-match", "\"2\""),
            ("if-match", "W/\"2\""),
            ("if-match", "\"0\", \"2\""),
            ("if-match", "1"),
            ("if-match", ""),
            ("if-none-match", "*"),
            ("if-none-match", "\"2\", W/\"1\""),
        ] {
            let reply = send(&app, method.clone(), &path, header, body).await;
            reply.problem(412, "precondition-failed");
            assert_eq!(reply.header("etag"), "\"1\"", "the response has the current ETag");
        }
        let unknown = "/users/0197b5f0-3c4a-7def-8123-456789abcdef";
        send(&app, method, unknown, ("if-match", "*"), body).await.problem(404, "user-not-found");
    }
    let ann = app.get(&path).await.json();
    assert_eq!((&ann["name"], &ann["version"]), (&json!("Ann"), &json!(1)), "no change was applied");

    // A reverse proxy that compresses turns strong ETags into weak ones.
    let matching = [("if-match", "*"), ("if-match", "\"7\",\"3\""), ("if-match", "W/\"5\"")];
    for ((method, body), header) in changes.into_iter().zip(matching) {
        let reply = send(&app, method, &path, header, body).await;
        assert!(reply.status.is_success(), "{header:?}: {}", reply.text);
        // Increments the version before the next change.
        app.patch(&path, &json!({"name": "Carl"})).await;
    }
    app.get(&path).await.problem(404, "user-not-found");

    let path = create(&app).await;
    assert_eq!(send(&app, Method::PATCH, &path, ("if-none-match", "\"2\""), Some(&patch)).await.status, 200);
}

async fn if_match_can_be_required_for_changes(context: Context) {
    let app = context.app_with(&[("users.require_if_match", "true")]).await;
    let path = create(&app).await;
    let draft = json!({"name": "Bob", "email": "bob@example.com"});
    app.put(&path, &draft).await.problem(428, "precondition-required");
    app.patch(&path, &json!({"name": "Bob"})).await.problem(428, "precondition-required");
    app.delete(&path).await.problem(428, "precondition-required");
    let reply = send(&app, Method::PUT, &path, ("if-none-match", "\"9\""), Some(&draft)).await;
    reply.problem(428, "precondition-required");
    let upsert = async |header| {
        let body = "{\"name\":\"Anna\",\"email\":\"ann@example.com\"}";
        let request = app.request(Method::POST, "/users/bulk?mode=upsert").header(header, "*").body(body);
        Reply::of(request.header("content-type", "application/x-ndjson")).await
    };
    upsert("accept").await.problem(428, "precondition-required");
    let ann = app.get(&path).await;
    assert_eq!((ann.status.as_u16(), ann.header("etag")), (200, "\"1\""));
    assert_eq!(send(&app, Method::PUT, &path, ("if-match", "\"1\""), Some(&draft)).await.status, 200);
    assert_eq!(send(&app, Method::DELETE, &path, ("if-match", "*"), None).await.status, 204);
    assert_eq!(upsert("if-match").await.status, 200);
}

/// Increments the number in a user's name until the time is over and all clients together have done so `CLIENTS` times.
async fn count(app: App, path: String, until: Instant, counted: Arc<AtomicUsize>) {
    while Instant::now() < until || counted.load(Ordering::Relaxed) < CLIENTS {
        let read = app.get(&path).await;
        let number: usize = read.json()["name"].as_str().unwrap().parse().unwrap();
        let next = json!({"name": (number + 1).to_string()});
        let written = send(&app, Method::PATCH, &path, ("if-match", read.header("etag")), Some(&next)).await;
        match written.status.as_u16() {
            200 => drop(counted.fetch_add(1, Ordering::Relaxed)),
            status => assert_eq!(status, 412, "{}", written.text),
        }
    }
}

async fn no_update_is_lost(context: Context) {
    let app = context.app_with(&[("pool.acquire", "60s")]).await;
    let zero = app.create("0", "counter@example.com").await;
    let path = format!("/users/{}", zero["id"].as_str().unwrap());
    let until = Instant::now() + counting();
    let counted = Arc::new(AtomicUsize::new(0));
    let clients = (0..CLIENTS).map(|_| tokio::spawn(count(app.clone(), path.clone(), until, Arc::clone(&counted))));
    for client in futures_util::future::join_all(clients).await {
        client.unwrap();
    }
    let total = counted.load(Ordering::Relaxed);
    let last = app.get(&path).await.json();
    assert_eq!((&last["name"], &last["version"]), (&json!(total.to_string()), &json!(total + 1)));
}
