//! `Idempotency-Key`: a request that is sent again is executed once.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use reqwest::Method;
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use users_api::service::IdempotencyStore;

use crate::{
    cases,
    harness::{
        App, Context, Engine, FlakyProxy, Locked, Reply, bare, connect, env_or, eventually, number, read_message,
    },
};

cases![
    a_repeated_request_gets_the_stored_response,
    a_key_is_bound_to_one_request,
    a_rejected_creation_stores_no_response,
    a_failed_request_stores_no_response,
    concurrent_requests_with_one_key_have_one_effect,
    a_key_is_in_use_while_its_request_is_in_flight,
    a_request_completes_after_its_timeout,
    another_process_waits_for_the_stored_response,
    stored_responses_expire_after_the_retention,
    an_expired_key_can_be_reused,
    requests_retried_over_a_flaky_proxy_are_executed_once,
];

const KEY: &str = "\"8e03978e-40d5-43e8-bc93-6894a57f9324\"";
const CLIENTS: usize = 64;

/// How many users are created over connections that are cut; `USERS_API_TEST_RETRIED` overrides it.
fn retried() -> usize {
    env_or("USERS_API_TEST_RETRIED", 10_000)
}

fn draft(name: &str) -> Value {
    json!({"name": name, "email": format!("{name}@example.com")})
}

async fn post(app: &App, key: &str, body: &Value) -> Reply {
    Reply::of(app.request(Method::POST, "/users").header("idempotency-key", key).json(body)).await
}

fn is_replayed(reply: &Reply) -> bool {
    reply.headers.get("idempotency-replayed").is_some_and(|value| value == "true")
}

async fn count(app: &App, table: &str) -> i64 {
    let database = connect(&app.url).await;
    let count = number(&database, &format!("SELECT count(*) FROM {table}")).await.unwrap();
    database.close().await.unwrap();
    count
}

async fn a_repeated_request_gets_the_stored_response(context: Context) {
    let app = context.app().await;
    let first = post(&app, KEY, &draft("ann")).await;
    assert_eq!((first.status.as_u16(), is_replayed(&first)), (201, false));
    let path = first.header("location").to_owned();
    assert_eq!(app.get(&path).await.json(), first.json());
    app.patch(&path, &json!({"name": "Other"})).await;
    // The same key without quotes, as many clients send it, and the same request with insignificant white space.
    for (key, body) in
        [(KEY, draft("ann")), (KEY.trim_matches('"'), json!({"email": "ann@example.com", "name": " ann "}))]
    {
        let again = post(&app, key, &body).await;
        assert_eq!((again.status.as_u16(), is_replayed(&again)), (201, true));
        assert_eq!(again.text, first.text, "the replayed response is identical after changes to the user");
        for name in ["location", "etag", "content-type", "content-length"] {
            assert_eq!(again.header(name), first.header(name));
        }
        assert_ne!(again.header("x-request-id"), first.header("x-request-id"));
    }
    assert_eq!((count(&app, "users").await, count(&app, "idempotency_keys").await), (1, 1));
    assert_eq!(post(&app, "another", &draft("bob")).await.status, 201);
    assert_eq!(app.post("/users", &draft("carl")).await.status, 201, "the key is optional");
    assert_eq!((count(&app, "users").await, count(&app, "idempotency_keys").await), (3, 2));
}

async fn a_key_is_bound_to_one_request(context: Context) {
    let app = context.app().await;
    post(&app, KEY, &draft("ann")).await;
    post(&app, KEY, &draft("bob")).await.problem(422, "idempotency-key-reused");
    let other = json!({"name": "ann", "email": "ANN@example.com"});
    post(&app, KEY, &other).await.problem(422, "idempotency-key-reused");
    // Keys are scoped by the `Authorization` header.
    let request = app.request(Method::POST, "/users").header("idempotency-key", KEY).bearer_auth("bob");
    let bob = Reply::of(request.json(&draft("bob"))).await;
    assert_eq!((bob.status.as_u16(), is_replayed(&bob)), (201, false));
    for key in ["", "\"\"", "a b", "\"open", &"k".repeat(256)] {
        post(&app, key, &draft("carl")).await.problem(400, "invalid-idempotency-key");
    }
    assert_eq!(count(&app, "users").await, 2);
}

async fn a_rejected_creation_stores_no_response(context: Context) {
    let app = context.app().await;
    let ann = app.create("Ann", "ann@example.com").await;
    let first = post(&app, KEY, &draft("ann")).await;
    first.problem(409, "email-taken");
    post(&app, KEY, &draft("ann")).await.problem(409, "email-taken");
    // Also for requests that share a transaction: one user is created, the other requests are rejected.
    let racing = (0..50).map(|number| {
        let app = app.clone();
        tokio::spawn(async move { post(&app, &format!("\"race {number}\""), &draft("bea")).await.status.as_u16() })
    });
    let statuses = futures_util::future::join_all(racing).await.into_iter().map(|status| status.unwrap());
    let (created, rejected): (Vec<u16>, Vec<u16>) = statuses.partition(|status| *status == 201);
    assert_eq!((created.len(), rejected), (1, vec![409; 49]));
    assert_eq!(count(&app, "idempotency_keys").await, 1, "only the successful request stores a response");
    app.delete(&format!("/users/{}", ann["id"].as_str().unwrap())).await;
    let again = post(&app, KEY, &draft("ann")).await;
    assert_eq!((again.status.as_u16(), is_replayed(&again)), (201, false), "{}", again.text);
    assert!(is_replayed(&post(&app, KEY, &draft("ann")).await));
    assert_eq!(post(&app, "a new key", &draft("ann")).await.status, 400, "a key with spaces needs quotes");
    assert_eq!(post(&app, "\"a new key\"", &draft("ann")).await.status, 409);
}

async fn a_failed_request_stores_no_response(context: Context) {
    let app = context.app().await;
    let reply = post(&app, KEY, &json!({"name": "Ann"})).await;
    assert_eq!(reply.validation_errors(), ["/email required"]);
    let database = connect(&app.url).await;
    database.execute_unprepared("ALTER TABLE users RENAME TO away").await.unwrap();
    post(&app, KEY, &draft("ann")).await.problem(500, "internal");
    database.execute_unprepared("ALTER TABLE away RENAME TO users").await.unwrap();
    database.close().await.unwrap();
    assert_eq!(count(&app, "idempotency_keys").await, 0, "the key is rolled back with its request");
    let succeeded = post(&app, KEY, &draft("ann")).await;
    assert_eq!((succeeded.status.as_u16(), is_replayed(&succeeded)), (201, false));
}

async fn concurrent_requests_with_one_key_have_one_effect(context: Context) {
    let app = context.app().await;
    let racing = (0..100).map(|_| {
        let app = app.clone();
        tokio::spawn(async move { post(&app, KEY, &draft("ann")).await })
    });
    let replies: Vec<Reply> =
        futures_util::future::join_all(racing).await.into_iter().map(|reply| reply.unwrap()).collect();
    let succeeded: Vec<&Reply> = replies.iter().filter(|reply| reply.status == 201).collect();
    assert_eq!(succeeded.iter().filter(|reply| !is_replayed(reply)).count(), 1, "exactly one request is executed");
    assert!(succeeded.iter().all(|reply| reply.text == succeeded[0].text));
    for reply in replies.iter().filter(|reply| reply.status != 201) {
        reply.problem(409, "idempotency-key-in-use");
        assert_eq!(reply.header("retry-after"), "1");
    }
    assert_eq!((count(&app, "users").await, count(&app, "idempotency_keys").await), (1, 1));
    // From now on, the same request is replayed and a different one is rejected.
    let repeated = (0..100).map(|number| {
        let app = app.clone();
        tokio::spawn(async move { post(&app, KEY, &draft(if number % 10 == 0 { "bob" } else { "ann" })).await })
    });
    for (number, reply) in futures_util::future::join_all(repeated).await.into_iter().enumerate() {
        let reply = reply.unwrap();
        if number % 10 == 0 {
            reply.problem(422, "idempotency-key-reused");
        } else {
            assert_eq!((reply.status.as_u16(), is_replayed(&reply)), (201, true), "{}", reply.text);
        }
    }
}

/// Starts a request that is blocked by the lock of the table.
async fn blocked_post(app: &App) -> tokio::task::JoinHandle<Reply> {
    let posting = tokio::spawn({
        let app = app.clone();
        async move { post(&app, KEY, &draft("ann")).await }
    });
    app.pool_until("the request holds a connection", |pool| pool["inUse"] == 1).await;
    posting
}

async fn a_key_is_in_use_while_its_request_is_in_flight(context: Context) {
    let app = context.app_with(&[("pool.acquire", "60s")]).await;
    let lock = Locked::users(&context, &app.url).await;
    let posting = blocked_post(&app).await;
    let retry = post(&app, KEY, &draft("ann")).await;
    retry.problem(409, "idempotency-key-in-use");
    assert_eq!(retry.header("retry-after"), "1");
    lock.unlock().await;
    let first = posting.await.unwrap();
    let again = post(&app, KEY, &draft("ann")).await;
    assert_eq!((first.status.as_u16(), is_replayed(&first), is_replayed(&again)), (201, false, true));
    assert_eq!(again.text, first.text);
}

async fn a_request_completes_after_its_timeout(context: Context) {
    let app = context.app_with(&[("pool.acquire", "60s"), ("server.request_timeout", "2s")]).await;
    let lock = Locked::users(&context, &app.url).await;
    post(&app, KEY, &draft("ann")).await.problem(503, "request-timeout");
    post(&app, KEY, &draft("ann")).await.problem(409, "idempotency-key-in-use");
    lock.unlock().await;
    let succeeded = eventually("the request has completed", || async {
        Some(post(&app, KEY, &draft("ann")).await).filter(|reply| reply.status == 201)
    })
    .await;
    assert_eq!((succeeded.status.as_u16(), is_replayed(&succeeded)), (201, true), "{}", succeeded.text);
}

async fn another_process_waits_for_the_stored_response(context: Context) {
    let one = context.app_with(&[("pool.acquire", "60s")]).await;
    let other = context.app_on(&one.url, &[("pool.acquire", "60s")]).await;
    let lock = Locked::users(&context, &one.url).await;
    let (posting, waiting) = (blocked_post(&one).await, blocked_post(&other).await);
    let inserting = match context.engine() {
        // Both wait for the single writer's permit.
        Engine::Sqlite => None,
        Engine::Postgres => Some(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
             AND (query LIKE 'INSERT %' OR query LIKE 'WITH %INSERT %')"
                .to_owned(),
        ),
        engine => {
            Some(format!("SELECT count(*) FROM {} WHERE db = database() AND info LIKE 'INSERT %'", engine.sessions()))
        }
    };
    if let Some(sql) = inserting {
        let database = connect(&one.url).await;
        let both = || async { (number(&database, &sql).await.unwrap() == 2).then_some(()) };
        eventually("one INSERT waits for the lock, the other for the first one", both).await;
        database.close().await.unwrap();
    }
    lock.unlock().await;
    let (first, second) = (posting.await.unwrap(), waiting.await.unwrap());
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (201, 201), "{} {}", first.text, second.text);
    assert_eq!(first.text, second.text);
    assert_ne!(is_replayed(&first), is_replayed(&second), "exactly one request is executed");
    assert_eq!(count(&one, "users").await, 1);
}

/// Marks all keys as expired.
async fn expire(context: &Context, app: &App) {
    let time = match context.engine() {
        Engine::MariaDb | Engine::MySql => "2000-01-01 00:00:00",
        Engine::Sqlite | Engine::Postgres => "2000-01-01 00:00:00+00:00",
    };
    let database = connect(&app.url).await;
    database.execute_unprepared(&format!("UPDATE idempotency_keys SET expires_at = '{time}'")).await.unwrap();
    database.close().await.unwrap();
}

async fn stored_responses_expire_after_the_retention(context: Context) {
    let app = context.app_with(&[("idempotency.keep", "1s")]).await;
    let first = post(&app, KEY, &draft("ann")).await;
    app.delete(first.header("location")).await;
    eventually("the key has expired", || async {
        Some(post(&app, KEY, &draft("ann")).await).filter(|reply| !is_replayed(reply))
    })
    .await;
    // The service sweeps expired keys in the background.
    eventually("all keys are deleted", || async { (count(&app, "idempotency_keys").await == 0).then_some(()) }).await;
}

async fn an_expired_key_can_be_reused(context: Context) {
    let app = context.app().await;
    let first = post(&app, KEY, &draft("ann")).await;
    post(&app, "unused", &draft("bob")).await;
    app.delete(first.header("location")).await;
    expire(&context, &app).await;
    let renewed = post(&app, KEY, &draft("ann")).await;
    assert_eq!((renewed.status.as_u16(), is_replayed(&renewed)), (201, false), "{}", renewed.text);
    assert_ne!(renewed.text, first.text);
    assert!(is_replayed(&post(&app, KEY, &draft("ann")).await), "the new response is stored");

    let pool = bare::pool_on(&app.url, orm_pool::PoolOptions::default()).await;
    let keys = IdempotencyStore::new(pool.clone());
    assert!(!keys.delete_expired().await.unwrap(), "only one key has expired");
    assert_eq!(count(&app, "idempotency_keys").await, 1, "the reused key is not deleted");
    expire(&context, &app).await;
    keys.delete_expired().await.unwrap();
    assert_eq!(count(&app, "idempotency_keys").await, 0);
    bare::end(pool).await;
    assert_eq!(count(&app, "users").await, 2);
}

/// Retries a request until it gets its response, and returns the body.
async fn retry_until_answered(address: SocketAddr, number: usize, stream: &mut TcpStream) -> String {
    let body = draft(&format!("user{number}")).to_string();
    let length = body.len();
    let request = format!(
        "POST /users HTTP/1.1\r\nhost: localhost\r\nidempotency-key: \"key {number}\"\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    loop {
        stream.write_all(request.as_bytes()).await.unwrap();
        match read_message(stream).await {
            None => *stream = TcpStream::connect(address).await.unwrap(),
            Some((head, body)) if head[9..].starts_with("201") => return body,
            Some((head, body)) => assert!(body.contains("idempotency-key-in-use"), "{head}{body}"),
        }
    }
}

async fn requests_retried_over_a_flaky_proxy_are_executed_once(context: Context) {
    let app = context.app_with(&[("pool.acquire", "60s")]).await;
    let proxy = FlakyProxy::before(app.address).await;
    let (address, next) = (proxy.address, Arc::new(AtomicUsize::new(0)));
    let clients = (0..CLIENTS).map(|_| {
        let next = Arc::clone(&next);
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let mut bodies = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= retried() {
                    return bodies;
                }
                bodies.push(retry_until_answered(address, number, &mut stream).await);
            }
        })
    });
    let bodies = futures_util::future::join_all(clients).await;
    let mut ids: Vec<String> = bodies
        .into_iter()
        .flat_map(|bodies| bodies.unwrap())
        .map(|body| serde_json::from_str::<Value>(&body).unwrap()["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), retried());
    assert_eq!(count(&app, "users").await, i64::try_from(retried()).unwrap());
    assert!(proxy.cut() >= retried() / 10, "{} responses were cut", proxy.cut());
}
