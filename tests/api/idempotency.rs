//! `Idempotency-Key`: whatever is sent again is done once.

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
    harness::{App, Context, Cutter, Engine, Locked, Reply, bare, connect, eventually, number, read_message, wanted},
};

cases![
    the_same_request_has_the_same_answer,
    a_key_stands_for_one_request,
    a_refused_creation_keeps_nothing,
    what_was_not_done_has_no_answer,
    many_at_once_have_one_effect,
    a_request_under_way_is_told,
    a_request_outlives_its_caller,
    another_process_waits_for_the_answer,
    answers_are_kept_as_long_as_is_set,
    an_expired_key_is_free_again,
    retried_until_answered_all_are_done_once,
];

const KEY: &str = "\"8e03978e-40d5-43e8-bc93-6894a57f9324\"";
const CLIENTS: usize = 64;

/// How many users are created over connections that are cut; `USERS_API_TEST_RETRIED` changes it.
fn retried() -> usize {
    wanted("USERS_API_TEST_RETRIED", 10_000)
}

fn draft(name: &str) -> Value {
    json!({"name": name, "email": format!("{name}@example.com")})
}

async fn posted(app: &App, key: &str, body: &Value) -> Reply {
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

async fn the_same_request_has_the_same_answer(context: Context) {
    let app = context.app().await;
    let first = posted(&app, KEY, &draft("ann")).await;
    assert_eq!((first.status.as_u16(), is_replayed(&first)), (201, false));
    let path = first.header("location").to_owned();
    assert_eq!(app.get(&path).await.json(), first.json());
    app.patch(&path, &json!({"name": "Other"})).await;
    // Without quotes, as many clients send it, and with white space that means nothing: the same key, the same request.
    for (key, body) in
        [(KEY, draft("ann")), (KEY.trim_matches('"'), json!({"email": "ann@example.com", "name": " ann "}))]
    {
        let again = posted(&app, key, &body).await;
        assert_eq!((again.status.as_u16(), is_replayed(&again)), (201, true));
        assert_eq!(again.text, first.text, "byte for byte, whatever became of the user");
        for name in ["location", "etag", "content-type", "content-length"] {
            assert_eq!(again.header(name), first.header(name));
        }
        assert_ne!(again.header("x-request-id"), first.header("x-request-id"));
    }
    assert_eq!((count(&app, "users").await, count(&app, "idempotency_keys").await), (1, 1));
    assert_eq!(posted(&app, "another", &draft("bob")).await.status, 201);
    assert_eq!(app.post("/users", &draft("carl")).await.status, 201, "no key is needed");
    assert_eq!((count(&app, "users").await, count(&app, "idempotency_keys").await), (3, 2));
}

async fn a_key_stands_for_one_request(context: Context) {
    let app = context.app().await;
    posted(&app, KEY, &draft("ann")).await;
    posted(&app, KEY, &draft("bob")).await.problem(422, "idempotency-key-reused");
    let other = json!({"name": "ann", "email": "ANN@example.com"});
    posted(&app, KEY, &other).await.problem(422, "idempotency-key-reused");
    // The key of another caller is another key.
    let request = app.request(Method::POST, "/users").header("idempotency-key", KEY).bearer_auth("bob");
    let bob = Reply::of(request.json(&draft("bob"))).await;
    assert_eq!((bob.status.as_u16(), is_replayed(&bob)), (201, false));
    for key in ["", "\"\"", "a b", "\"open", &"k".repeat(256)] {
        posted(&app, key, &draft("carl")).await.problem(400, "invalid-idempotency-key");
    }
    assert_eq!(count(&app, "users").await, 2);
}

async fn a_refused_creation_keeps_nothing(context: Context) {
    let app = context.app().await;
    let ann = app.create("Ann", "ann@example.com").await;
    let first = posted(&app, KEY, &draft("ann")).await;
    first.problem(409, "email-taken");
    posted(&app, KEY, &draft("ann")).await.problem(409, "email-taken");
    // Those that share a transaction, too: one is created, the others are refused.
    let racing = (0..50).map(|number| {
        let app = app.clone();
        tokio::spawn(async move { posted(&app, &format!("\"race {number}\""), &draft("bea")).await.status.as_u16() })
    });
    let statuses = futures_util::future::join_all(racing).await.into_iter().map(|status| status.unwrap());
    let (created, refused): (Vec<u16>, Vec<u16>) = statuses.partition(|status| *status == 201);
    assert_eq!((created.len(), refused), (1, vec![409; 49]));
    assert_eq!(count(&app, "idempotency_keys").await, 1, "only what was created is kept");
    app.delete(&format!("/users/{}", ann["id"].as_str().unwrap())).await;
    let again = posted(&app, KEY, &draft("ann")).await;
    assert_eq!((again.status.as_u16(), is_replayed(&again)), (201, false), "{}", again.text);
    assert!(is_replayed(&posted(&app, KEY, &draft("ann")).await));
    assert_eq!(posted(&app, "a new key", &draft("ann")).await.status, 400, "not a key without its quotes");
    assert_eq!(posted(&app, "\"a new key\"", &draft("ann")).await.status, 409);
}

async fn what_was_not_done_has_no_answer(context: Context) {
    let app = context.app().await;
    let reply = posted(&app, KEY, &json!({"name": "Ann"})).await;
    assert_eq!(reply.faults(), ["/email required"]);
    let database = connect(&app.url).await;
    database.execute_unprepared("ALTER TABLE users RENAME TO away").await.unwrap();
    posted(&app, KEY, &draft("ann")).await.problem(500, "internal");
    database.execute_unprepared("ALTER TABLE away RENAME TO users").await.unwrap();
    database.close().await.unwrap();
    assert_eq!(count(&app, "idempotency_keys").await, 0, "the key goes with what it stands for");
    let done = posted(&app, KEY, &draft("ann")).await;
    assert_eq!((done.status.as_u16(), is_replayed(&done)), (201, false));
}

async fn many_at_once_have_one_effect(context: Context) {
    let app = context.app().await;
    let racing = (0..100).map(|_| {
        let app = app.clone();
        tokio::spawn(async move { posted(&app, KEY, &draft("ann")).await })
    });
    let replies: Vec<Reply> =
        futures_util::future::join_all(racing).await.into_iter().map(|reply| reply.unwrap()).collect();
    let done: Vec<&Reply> = replies.iter().filter(|reply| reply.status == 201).collect();
    assert_eq!(done.iter().filter(|reply| !is_replayed(reply)).count(), 1, "one of them did it");
    assert!(done.iter().all(|reply| reply.text == done[0].text));
    for reply in replies.iter().filter(|reply| reply.status != 201) {
        reply.problem(409, "idempotency-key-in-use");
        assert_eq!(reply.header("retry-after"), "1");
    }
    assert_eq!((count(&app, "users").await, count(&app, "idempotency_keys").await), (1, 1));
    // From now on all of them have the answer, and nobody another one.
    let asking = (0..100).map(|number| {
        let app = app.clone();
        tokio::spawn(async move { posted(&app, KEY, &draft(if number % 10 == 0 { "bob" } else { "ann" })).await })
    });
    for (number, reply) in futures_util::future::join_all(asking).await.into_iter().enumerate() {
        let reply = reply.unwrap();
        if number % 10 == 0 {
            reply.problem(422, "idempotency-key-reused");
        } else {
            assert_eq!((reply.status.as_u16(), is_replayed(&reply)), (201, true), "{}", reply.text);
        }
    }
}

async fn hanging(app: &App) -> tokio::task::JoinHandle<Reply> {
    let posting = tokio::spawn({
        let app = app.clone();
        async move { posted(&app, KEY, &draft("ann")).await }
    });
    app.pool_until("it is at work", |pool| pool["inUse"] == 1).await;
    posting
}

async fn a_request_under_way_is_told(context: Context) {
    let app = context.app_with(&[("pool.acquire", "60s")]).await;
    let lock = Locked::users(&context, &app.url).await;
    let posting = hanging(&app).await;
    let meanwhile = posted(&app, KEY, &draft("ann")).await;
    meanwhile.problem(409, "idempotency-key-in-use");
    assert_eq!(meanwhile.header("retry-after"), "1");
    lock.unlock().await;
    let first = posting.await.unwrap();
    let again = posted(&app, KEY, &draft("ann")).await;
    assert_eq!((first.status.as_u16(), is_replayed(&first), is_replayed(&again)), (201, false, true));
    assert_eq!(again.text, first.text);
}

async fn a_request_outlives_its_caller(context: Context) {
    let app = context.app_with(&[("pool.acquire", "60s"), ("server.request_timeout", "2s")]).await;
    let lock = Locked::users(&context, &app.url).await;
    posted(&app, KEY, &draft("ann")).await.problem(503, "request-timeout");
    posted(&app, KEY, &draft("ann")).await.problem(409, "idempotency-key-in-use");
    lock.unlock().await;
    let done = eventually("it is done", || async {
        Some(posted(&app, KEY, &draft("ann")).await).filter(|reply| reply.status == 201)
    })
    .await;
    assert_eq!((done.status.as_u16(), is_replayed(&done)), (201, true), "{}", done.text);
}

async fn another_process_waits_for_the_answer(context: Context) {
    let one = context.app_with(&[("pool.acquire", "60s")]).await;
    let other = context.app_on(&one.url, &[("pool.acquire", "60s")]).await;
    let lock = Locked::users(&context, &one.url).await;
    let (posting, waiting) = (hanging(&one).await, hanging(&other).await);
    let inserting = match context.engine() {
        // Both wait for the one writer's place.
        Engine::Sqlite => None,
        Engine::Postgres => Some(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
             AND query LIKE 'INSERT %'"
                .to_owned(),
        ),
        engine => {
            Some(format!("SELECT count(*) FROM {} WHERE db = database() AND info LIKE 'INSERT %'", engine.sessions()))
        }
    };
    if let Some(sql) = inserting {
        let database = connect(&one.url).await;
        let both = || async { (number(&database, &sql).await.unwrap() == 2).then_some(()) };
        eventually("the one waits for the lock, the other for the one", both).await;
        database.close().await.unwrap();
    }
    lock.unlock().await;
    let (first, second) = (posting.await.unwrap(), waiting.await.unwrap());
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (201, 201), "{} {}", first.text, second.text);
    assert_eq!(first.text, second.text);
    assert_ne!(is_replayed(&first), is_replayed(&second), "one of them did it");
    assert_eq!(count(&one, "users").await, 1);
}

/// Makes all keys as old as they can be.
async fn expire(context: &Context, app: &App) {
    let time = match context.engine() {
        Engine::MariaDb | Engine::MySql => "2000-01-01 00:00:00",
        Engine::Sqlite | Engine::Postgres => "2000-01-01 00:00:00+00:00",
    };
    let database = connect(&app.url).await;
    database.execute_unprepared(&format!("UPDATE idempotency_keys SET expires_at = '{time}'")).await.unwrap();
    database.close().await.unwrap();
}

async fn answers_are_kept_as_long_as_is_set(context: Context) {
    let app = context.app_with(&[("idempotency.keep", "1s")]).await;
    let first = posted(&app, KEY, &draft("ann")).await;
    app.delete(first.header("location")).await;
    eventually("the key is free again", || async {
        Some(posted(&app, KEY, &draft("ann")).await).filter(|reply| !is_replayed(reply))
    })
    .await;
    // A job of the service's own.
    eventually("all keys are forgotten", || async { (count(&app, "idempotency_keys").await == 0).then_some(()) }).await;
}

async fn an_expired_key_is_free_again(context: Context) {
    let app = context.app().await;
    let first = posted(&app, KEY, &draft("ann")).await;
    posted(&app, "unused", &draft("bob")).await;
    app.delete(first.header("location")).await;
    expire(&context, &app).await;
    let renewed = posted(&app, KEY, &draft("ann")).await;
    assert_eq!((renewed.status.as_u16(), is_replayed(&renewed)), (201, false), "{}", renewed.text);
    assert_ne!(renewed.text, first.text);
    assert!(is_replayed(&posted(&app, KEY, &draft("ann")).await), "the new answer is kept");

    let pool = bare::pool_on(&app.url, orm_pool::PoolOptions::default()).await;
    let keys = IdempotencyStore::new(pool.clone());
    assert!(!keys.forget_expired().await.unwrap(), "there is but one that has expired");
    assert_eq!(count(&app, "idempotency_keys").await, 1, "the renewed one stays");
    expire(&context, &app).await;
    keys.forget_expired().await.unwrap();
    assert_eq!(count(&app, "idempotency_keys").await, 0);
    bare::end(pool).await;
    assert_eq!(count(&app, "users").await, 2);
}

/// Sends a request until it has its answer.
async fn until_answered(address: SocketAddr, number: usize, stream: &mut TcpStream) -> String {
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

async fn retried_until_answered_all_are_done_once(context: Context) {
    let app = context.app_with(&[("pool.acquire", "60s")]).await;
    let cutter = Cutter::before(app.address).await;
    let (address, next) = (cutter.address, Arc::new(AtomicUsize::new(0)));
    let clients = (0..CLIENTS).map(|_| {
        let next = Arc::clone(&next);
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let mut answers = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= retried() {
                    return answers;
                }
                answers.push(until_answered(address, number, &mut stream).await);
            }
        })
    });
    let answers = futures_util::future::join_all(clients).await;
    let mut ids: Vec<String> = answers
        .into_iter()
        .flat_map(|answers| answers.unwrap())
        .map(|body| serde_json::from_str::<Value>(&body).unwrap()["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), retried());
    assert_eq!(count(&app, "users").await, i64::try_from(retried()).unwrap());
    assert!(cutter.cut() >= retried() / 10, "{} answers were cut", cutter.cut());
}
