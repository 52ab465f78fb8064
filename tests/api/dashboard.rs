//! The live state of the pool, which the dashboard shows.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    auth::{REFRESHED, id_of, key, keys, migrated, with_key},
    cases,
    harness::{App, Context, EventStream, Load},
};

cases![
    a_viewer_sees_each_connection,
    viewers_get_the_same_messages,
    the_stream_ends_at_a_shutdown,
    the_stream_ends_with_its_key,
    the_stream_works_without_a_feed,
];

async fn open(app: &App) -> EventStream {
    EventStream::of(app.request(Method::GET, "/pool/live")).await.unwrap()
}

async fn next(stream: &mut EventStream) -> Value {
    loop {
        let message = stream.next().await.expect("the stream ended");
        if message.event == "pool" {
            return message.json();
        }
    }
}

/// Returns the first message that matches.
async fn until(stream: &mut EventStream, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..200 {
        let message = next(stream).await;
        if matches(&message) {
            return message;
        }
    }
    panic!("no message: {what}");
}

async fn a_viewer_sees_each_connection(context: Context) {
    let app = context.app_with(&[("pool.max", "4"), ("pool.min", "2")]).await;
    let mut stream = open(&app).await;
    let quiet = until(&mut stream, "two idle connections", |message| message["idle"] == 2).await;
    assert_eq!((&quiet["phase"], &quiet["state"], &quiet["demo"]), (&json!("serving"), &json!("up"), &json!(false)));
    assert_eq!(quiet["limits"]["max"], 4);
    assert_eq!((&quiet["viewers"], &quiet["feed"]["broker"]), (&json!(1), &json!("none")));
    let connections = quiet["connections"].as_array().unwrap();
    assert_eq!(connections.len(), 2, "{quiet}");
    let ids: BTreeSet<u64> = connections.iter().map(|connection| connection["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), 2);
    for connection in connections {
        assert_eq!(connection["state"], "idle");
        assert!(connection["forMs"].is_u64() && connection["operation"].is_null(), "{connection}");
    }
    // The other members are those of `GET /pool`.
    let pool = app.pool().await;
    for member in pool.as_object().unwrap().keys() {
        assert!(!quiet[member].is_null(), "{member}");
    }

    let load = Load::start(&app, 16, std::time::Duration::ZERO);
    let busy = until(&mut stream, "a connection in use by a request", |message| {
        let connections = message["connections"].as_array().unwrap();
        connections.iter().any(|connection| {
            connection["state"] == "in-use"
                && connection["operation"].as_str().unwrap().starts_with("users.")
                && connection["request"].is_string()
        })
    });
    busy.await;
    load.answered(200, 50).await;
    load.stop().await;
    let after = until(&mut stream, "no connection in use", |message| message["inUse"] == 0).await;
    let sum = |name: &str| {
        after["histograms"][name].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum::<u64>()
    };
    let bounds = after["histograms"]["upperMs"].as_array().unwrap();
    assert!(bounds.last().unwrap().is_null() && bounds.len() > 80);
    assert!(sum("wait") >= 50 && sum("use") > 0, "{after}");
}

async fn viewers_get_the_same_messages(context: Context) {
    let app = context.app().await;
    let (mut one, mut other) = (open(&app).await, open(&app).await);
    until(&mut one, "two viewers", |message| message["viewers"] == 2).await;
    let mut of_one = Vec::new();
    let mut of_other = Vec::new();
    for _ in 0..8 {
        of_one.push(next(&mut one).await);
        of_other.push(next(&mut other).await);
    }
    // Their times are in microseconds: equal ones were read together.
    let common = of_one.iter().filter(|message| of_other.contains(message)).count();
    assert!(common >= 5, "{common} of 8 messages are the same");
    drop(other);
    until(&mut one, "one viewer", |message| message["viewers"] == 1).await;
}

async fn the_stream_ends_at_a_shutdown(context: Context) {
    let app = context.app().await;
    let mut stream = open(&app).await;
    next(&mut stream).await;
    let stopping = app.clone();
    let stopped = tokio::spawn(async move { stopping.stop().await.unwrap() });
    while stream.next().await.is_some() {}
    stopped.await.unwrap().unwrap();
}

async fn the_stream_ends_with_its_key(context: Context) {
    let url = migrated(&context).await;
    let (viewer, reader) = (key(&context, &url, &["ops:read"]).await, key(&context, &url, &["users:read"]).await);
    let app = context.app_on(&url, &REFRESHED).await;
    let refused = async |request| EventStream::of(request).await.err().unwrap().as_u16();
    assert_eq!(refused(app.request(Method::GET, "/pool/live")).await, 401);
    assert_eq!(refused(with_key(&app, Method::GET, "/pool/live", &reader)).await, 403);
    let mut stream = EventStream::of(with_key(&app, Method::GET, "/pool/live", &viewer)).await.unwrap();
    next(&mut stream).await;
    assert!(keys(&context, &url, &["revoke", id_of(&viewer)]).await.status.success());
    while stream.next().await.is_some() {}
}

async fn the_stream_works_without_a_feed(context: Context) {
    let app = context.app_with(&[("feed.enabled", "false")]).await;
    let mut stream = open(&app).await;
    let message = next(&mut stream).await;
    assert!(message["feed"].is_null(), "{message}");
    // A request without a body has an end.
    let head = app.request(Method::HEAD, "/pool/live").send().await.unwrap();
    assert_eq!((head.status().as_u16(), head.headers()["content-type"].to_str().unwrap()), (200, "text/event-stream"));
}
