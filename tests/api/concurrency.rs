//! Concurrent requests.

use std::collections::BTreeMap;

use serde_json::json;

use crate::{cases, harness::Context};

cases![
    concurrent_posts_of_one_email_create_one_user,
    concurrent_deletes_of_one_user_delete_once,
    a_burst_is_served_within_max_connections
];

async fn concurrent_posts_of_one_email_create_one_user(context: Context) {
    let app = context.app_with(&[("pool.acquire", "60s")]).await;
    let racing = (0..1000).map(|number| {
        let app = app.clone();
        let email = if number % 2 == 0 { "ann@example.com" } else { "ANN@example.com" };
        tokio::spawn(async move { app.post("/users", &json!({"name": "Ann", "email": email})).await.status.as_u16() })
    });
    let mut counts = BTreeMap::new();
    for status in futures_util::future::join_all(racing).await {
        *counts.entry(status.unwrap()).or_insert(0) += 1;
    }
    assert_eq!(counts, BTreeMap::from([(201, 1), (409, 999)]));
    assert_eq!(app.get("/users").await.json().as_array().unwrap().len(), 1);
}

async fn concurrent_deletes_of_one_user_delete_once(context: Context) {
    let app = context.app().await;
    let path = format!("/users/{}", app.create("Ann", "ann@example.com").await["id"].as_str().unwrap());
    let racing = (0..50).map(|_| {
        let (app, path) = (app.clone(), path.clone());
        tokio::spawn(async move { app.delete(&path).await.status.as_u16() })
    });
    let mut counts = BTreeMap::new();
    for status in futures_util::future::join_all(racing).await {
        *counts.entry(status.unwrap()).or_insert(0) += 1;
    }
    assert_eq!(counts, BTreeMap::from([(204, 1), (404, 49)]));
}

async fn a_burst_is_served_within_max_connections(context: Context) {
    let app = context.app_with(&[("pool.max", "4"), ("pool.acquire", "60s")]).await;
    let burst = (0..300).map(|number| {
        let app = app.clone();
        tokio::spawn(async move {
            let user = app.create("Ann", &format!("ann{number}@example.com")).await;
            let path = format!("/users/{}", user["id"].as_str().unwrap());
            assert_eq!(app.get(&path).await.json(), user);
            let pool = app.get("/pool").await.json();
            assert!(pool["total"].as_u64() <= Some(4), "{pool}");
        })
    });
    for served in futures_util::future::join_all(burst).await {
        served.unwrap();
    }
}
