//! `GET /users/{id}/presence`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    auth::migrated,
    cases,
    harness::{App, Context, Service, Socket, eventually},
};

cases![a_user_is_online_while_it_has_a_socket, a_killed_process_has_no_ghosts, presence_survives_an_expired_lease];

async fn presence(app: &App, user: &Value) -> Value {
    let reply = app.get(&format!("/users/{}/presence", user.as_str().unwrap())).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

async fn until(app: &App, user: &Value, is_online: bool) -> Value {
    eventually(&format!("online: {is_online}"), || async {
        Some(presence(app, user).await).filter(|presence| presence["online"] == is_online)
    })
    .await
}

async fn open(app: &App, user: &Value) -> Socket {
    let ticket = app.post("/ws/tickets", &json!({ "userId": user })).await.json();
    let mut socket = Socket::open(app.address, &format!("/ws?ticket={}", ticket["ticket"].as_str().unwrap())).await;
    socket.begin(&json!({})).await;
    socket
}

async fn a_user_is_online_while_it_has_a_socket(context: Context) {
    let url = context.database().await;
    let (near, far) = (context.app_on(&url, &[]).await, context.app_on(&url, &[]).await);
    let ann = near.create("Ann", "ann@example.com").await["id"].clone();
    let ben = near.create("Ben", "ben@example.com").await["id"].clone();
    assert_eq!(presence(&near, &ann).await, json!({"online": false}));
    let first = open(&near, &ann).await;
    let since = until(&far, &ann, true).await;
    assert!(since["since"].as_str().unwrap().ends_with('Z'));
    assert_eq!(presence(&far, &ben).await, json!({"online": false}));
    let second = open(&far, &ann).await;
    first.close().await;
    // Still on the other process.
    until(&near, &ann, true).await;
    second.close().await;
    until(&near, &ann, false).await;
    // A socket without a ticket does not belong to a user.
    let (_anonymous, _) = Socket::subscribe(near.address, &json!({})).await;
    assert_eq!(presence(&far, &ann).await, json!({"online": false}));
    near.get("/users/019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40/presence").await.problem(404, "user-not-found");
    near.get("/users/x/presence").await.problem(400, "invalid-id");
}

async fn a_killed_process_has_no_ghosts(context: Context) {
    let url = migrated(&context).await;
    let app = context.app_on(&url, &[]).await;
    let mut service = Service::start(context.folder(), &[("DATABASE_URL", &url)]).await;
    let ann = app.create("Ann", "ann@example.com").await["id"].clone();
    let _socket = open(&App::at(service.address, &url), &ann).await;
    until(&app, &ann, true).await;
    service.signal("KILL").await;
    service.ended().await;
    let killed = Instant::now();
    until(&app, &ann, false).await;
    assert!(killed.elapsed() < Duration::from_secs(20), "{:?}", killed.elapsed());
}

async fn presence_survives_an_expired_lease(context: Context) {
    let app = context.app().await;
    let ann = app.create("Ann", "ann@example.com").await["id"].clone();
    let _socket = open(&app, &ann).await;
    until(&app, &ann, true).await;
    // As if the process had been unable to reach the database for a while, and another one had forgotten it.
    let database = crate::harness::connect(&app.url).await;
    for table in ["users_presence", "users_processes"] {
        sea_orm::ConnectionTrait::execute_unprepared(&database, &format!("DELETE FROM {table}")).await.unwrap();
    }
    assert_eq!(presence(&app, &ann).await, json!({"online": false}));
    until(&app, &ann, true).await;
}
