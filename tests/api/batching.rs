//! Batching: concurrent requests of the same kind share a statement, and each gets its own response.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::{
    cases,
    harness::{App, Context, Locked, Reply},
};

cases![creates_share_a_transaction, lookups_share_a_statement, lists_share_a_statement, batch_sizes_are_measured];

/// Without the feed, whose rounds would use the connection as well.
const ONE_CONNECTION: [(&str, &str); 5] =
    [("pool.max", "1"), ("pool.min", "1"), ("pool.acquire", "60s"), ("pool.batch", "true"), ("feed.enabled", "false")];

const UNKNOWN_ID: &str = "019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40";

fn spawn(app: &App, path: String) -> JoinHandle<Reply> {
    let app = app.clone();
    tokio::spawn(async move { app.get(&path).await })
}

fn post(app: &App, email: String) -> JoinHandle<Reply> {
    let app = app.clone();
    tokio::spawn(async move { app.post("/users", &json!({"name": "Ann", "email": email})).await })
}

/// Occupies the only connection, so that later requests are batched.
async fn occupy(context: &Context, app: &App) -> (Locked, JoinHandle<Reply>) {
    let lock = Locked::users(context, &app.url).await;
    let first = {
        let app = app.clone();
        tokio::spawn(async move { app.patch(&format!("/users/{UNKNOWN_ID}"), &json!({"name": "Ann"})).await })
    };
    app.pool_until("the only connection is in use", |pool| pool["inUse"] == 1).await;
    (lock, first)
}

async fn creates_share_a_transaction(context: Context) {
    let app = context.app_with(&ONE_CONNECTION).await;
    app.create("Old", "user3@example.com").await;
    let (lock, first) = occupy(&context, &app).await;
    // Fifteen emails, one of which is in use, each in three requests with different spellings.
    let posts: Vec<_> = (0..45)
        .map(|number| {
            let email = format!("user{}@example.com", number % 15);
            match number / 15 {
                0 => post(&app, email),
                1 => post(&app, email.to_uppercase()),
                _ => post(&app, email.replace("user", "User")),
            }
        })
        .collect();
    app.pool_until("all requests wait", |pool| pool["waiting"] == 45).await;
    lock.unlock().await;
    assert_eq!(first.await.unwrap().status, 404);
    let mut created = Vec::new();
    for post in posts {
        let reply = post.await.unwrap();
        if reply.status == 201 {
            created.push(reply.json());
        } else {
            reply.problem(409, "email-taken");
        }
    }
    assert_eq!(created.len(), 14, "one user per email, except the one in use");
    for user in &created {
        let found = app.get(&format!("/users/{}", user["id"].as_str().unwrap())).await;
        assert_eq!(found.json(), *user, "the response matches the stored user");
    }
    assert_eq!(app.get("/users?limit=100").await.json().as_array().unwrap().len(), 1 + 14);
    let pool = app.pool().await;
    assert!(pool["counters"]["batched"].as_u64() >= Some(45), "{pool}");
    assert_eq!(pool["counters"]["failed"], 1, "only the PATCH in front: an email in use is not a failure");
}

async fn lookups_share_a_statement(context: Context) {
    let app = context.app_with(&ONE_CONNECTION).await;
    let mut users = Vec::new();
    for number in 0..11 {
        users.push(app.create(&format!("User {number}"), &format!("User{number}@Example.com")).await);
    }
    let id = |user: &Value| user["id"].as_str().unwrap().to_owned();
    let (lock, first) = occupy(&context, &app).await;
    let mut requests = Vec::new();
    for _ in 0..3 {
        for (number, user) in users.iter().enumerate() {
            requests.push((json!(user), spawn(&app, format!("/users/{}", id(user)))));
            requests.push((json!([user]), spawn(&app, format!("/users?email=uSER{number}%40example.COM"))));
        }
        requests.push((json!([]), spawn(&app, "/users?email=nobody@example.com".to_owned())));
    }
    let unknown = spawn(&app, format!("/users/{UNKNOWN_ID}"));
    app.pool_until("all requests wait", |pool| pool["waiting"] == 3 * 23 + 1).await;
    lock.unlock().await;
    assert_eq!(first.await.unwrap().status, 404);
    for (expected, reply) in requests {
        let reply = reply.await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.json()), (200, expected));
    }
    unknown.await.unwrap().problem(404, "user-not-found");
    let counters = &app.pool().await["counters"];
    assert_eq!((&counters["batches"], &counters["batched"]), (&json!(2), &json!(70)), "{counters}");
}

async fn lists_share_a_statement(context: Context) {
    let app = context.app_with(&ONE_CONNECTION).await;
    for number in 0..12 {
        app.create("Ann", &format!("ann{number}@example.com")).await;
    }
    // First, next and previous pages, of several sizes.
    let mut paths = BTreeSet::from(["/users".to_owned(), "/users?limit=3".to_owned(), "/users?limit=5".to_owned()]);
    for limit in [2, 3] {
        let mut next = Some(format!("/users?limit={limit}"));
        while let Some(path) = next {
            let reply = app.get(&path).await;
            let link = |relation: &str| {
                let links = reply.header("link").to_owned();
                let found = links.split(", ").find(|link| link.contains(&format!("rel=\"{relation}\"")))?;
                Some(found[1..found.find('>')?].to_owned())
            };
            paths.extend(link("prev"));
            next = link("next");
            paths.insert(path);
        }
    }
    let mut expected = Vec::new();
    for path in &paths {
        expected.push(app.get(path).await);
    }
    let (lock, first) = occupy(&context, &app).await;
    let requests: Vec<_> = (0..3).flat_map(|_| paths.iter().map(|path| spawn(&app, path.clone()))).collect();
    app.pool_until("all requests wait", |pool| pool["waiting"] == requests.len()).await;
    lock.unlock().await;
    assert_eq!(first.await.unwrap().status, 404);
    for (expected, reply) in expected.iter().cycle().zip(requests) {
        let reply = reply.await.unwrap();
        assert_eq!(reply.header("link").matches("rel=").count(), expected.header("link").matches("rel=").count());
        assert_eq!(reply.json(), expected.json());
    }
}

async fn batch_sizes_are_measured(context: Context) {
    let app = context.app().await;
    app.get("/users").await;
    let metrics = app.get("/metrics").await;
    for operation in ["users.list", "users.find", "users.find_by_email", "users.create"] {
        let line = format!(r#"db_client_operation_batch_size_count{{pool_name="users-api",operation="{operation}"}}"#);
        assert!(metrics.text.contains(&line), "{line} is not in:\n{}", metrics.text);
    }
}
