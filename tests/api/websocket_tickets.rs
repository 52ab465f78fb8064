//! Tickets for WebSockets, and messages to users.

use reqwest::{Method, StatusCode};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};

use crate::{
    auth::{REFRESHED, id_of, key, migrated, printed, with_key},
    cases,
    feed::changes,
    harness::{App, Context, Reply, SigningKey, Socket, connect, eventually, number},
    tokens::{claims, header, now, service},
};

cases![
    a_ticket_opens_one_socket,
    a_ticket_is_not_stored_and_expires,
    subjects_get_tickets_for_themselves,
    a_socket_is_renewed,
    a_revoked_key_ends_the_sockets_of_its_tickets,
    a_ticket_does_not_outlive_its_key,
    what_is_withheld_comes_with_the_next_ticket,
    messages_reach_every_socket_of_the_user,
    messages_are_validated,
    a_deletion_removes_messages,
    old_messages_expire,
];

async fn ticket(app: &App, credentials: &str, body: &Value) -> Reply {
    let request = app.request(Method::POST, "/ws/tickets").json(body);
    Reply::of(if credentials.is_empty() { request } else { request.bearer_auth(credentials) }).await
}

/// Requests a ticket and opens a socket with it.
async fn open(app: &App, credentials: &str, body: &Value) -> Socket {
    let reply = ticket(app, credentials, body).await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    Socket::open(app.address, &path(&reply)).await
}

fn path(ticket: &Reply) -> String {
    format!("/ws?ticket={}", ticket.json()["ticket"].as_str().unwrap())
}

async fn send(app: &App, user: &Value, data: Value) -> Reply {
    app.post(&format!("/users/{}/messages", user.as_str().unwrap()), &json!({ "data": data })).await
}

/// A user who is the subject of access tokens.
struct Subject {
    app: App,
    key: SigningKey,
    admin: String,
    id: Value,
}

impl Subject {
    async fn create(context: &Context) -> Self {
        let key = SigningKey::ed();
        let app = service(context, &[("ed", &key)], &[]).await;
        let mut subject = Self { app, key, admin: String::new(), id: Value::Null };
        subject.admin = subject.token_with(&json!({"scope": "users:write messages:send", "sub": "admin"}));
        let body = json!({"name": "Ann", "email": "ann@example.com"});
        let request = with_key(&subject.app, Method::POST, "/users", &subject.admin).json(&body);
        subject.id = Reply::of(request).await.json()["id"].clone();
        subject
    }

    fn token_with(&self, changes: &Value) -> String {
        self.key.token(&header(&self.key, "ed"), &claims(changes))
    }

    /// A token of the user, with this expiry.
    fn token(&self, until: u64) -> String {
        self.token_with(&json!({"scope": "users:self", "sub": self.id, "exp": until}))
    }

    /// Sends a message to the user.
    async fn send(&self, data: Value) {
        let path = format!("/users/{}/messages", self.id.as_str().unwrap());
        let request = with_key(&self.app, Method::POST, &path, &self.admin).json(&json!({ "data": data }));
        assert_eq!(Reply::of(request).await.status, 202);
    }
}

async fn a_ticket_opens_one_socket(context: Context) {
    let url = migrated(&context).await;
    let (reader, writer) = (key(&context, &url, &["feed:read"]).await, key(&context, &url, &["users:write"]).await);
    let (app, other) = (context.app_on(&url, &REFRESHED).await, context.app_on(&url, &REFRESHED).await);
    ticket(&app, &writer, &json!({})).await.problem(403, "scope-missing");
    ticket(&app, "", &json!({})).await.problem(401, "credentials-required");
    ticket(&app, &reader, &json!({"userId": "x"})).await.problem(422, "validation-failed");
    ticket(&app, &reader, &json!({"user": "x"})).await.problem(422, "validation-failed");
    let reply = ticket(&app, &reader, &json!({})).await;
    assert_eq!((reply.status, reply.header("cache-control")), (StatusCode::CREATED, "no-store"));
    // Any process accepts it, once.
    let mut socket = Socket::open(other.address, &path(&reply)).await;
    socket.begin(&json!({})).await;
    let body = json!({"name": "Ann", "email": "ann@example.com"});
    assert_eq!(Reply::of(with_key(&app, Method::POST, "/users", &writer).json(&body)).await.status, 201);
    assert_eq!(socket.events(1).await[0]["data"]["email"], "ann@example.com");
    let unknown = format!("/ws?ticket=uwt_{}", "a".repeat(43));
    for invalid in [path(&reply), unknown, "/ws?ticket=".to_owned(), "/ws?ticket=x".to_owned()] {
        let mut socket = Socket::open(app.address, &invalid).await;
        // A script does not know yet that it is refused.
        socket.send(&json!({"type": "subscribe", "after": "earliest"})).await;
        let (messages, code, _) = socket.rest().await;
        assert_eq!((messages, code), (Vec::new(), 4401), "{invalid}");
    }
    // Two at the same time: one of them is accepted.
    let path = path(&ticket(&app, &reader, &json!({})).await);
    let attempts = [app.address, other.address, app.address, other.address].map(|address| {
        let path = path.clone();
        async move {
            let mut socket = Socket::open(address, &path).await;
            socket.send(&json!({"type": "subscribe"})).await;
            matches!(socket.frame().await, Some(frame) if frame.is_text())
        }
    });
    let accepted = futures_util::future::join_all(attempts).await.into_iter().filter(|accepted| *accepted).count();
    assert!(accepted <= 1, "{accepted} sockets with one ticket");
}

async fn a_ticket_is_not_stored_and_expires(context: Context) {
    let app = context.app().await;
    let reply = ticket(&app, "", &json!({})).await;
    let database = connect(&app.url).await;
    assert_eq!(number(&database, "SELECT count(*) FROM users_tickets").await, Ok(1));
    let update = "UPDATE users_tickets SET expires_at = '2020-01-01 00:00:00+00:00'";
    let update = if app.url.starts_with("mysql") {
        update.trim_end_matches("+00:00'").to_owned() + "'"
    } else {
        update.to_owned()
    };
    database.execute_unprepared(&update).await.unwrap();
    assert_eq!(Socket::open(app.address, &path(&reply)).await.rest().await.1, 4401);
    assert_eq!(number(&database, "SELECT count(*) FROM users_tickets").await, Ok(0));
    let expires_at = reply.json()["expiresAt"].as_str().unwrap().to_owned();
    assert!(expires_at.starts_with("20") && expires_at.ends_with('Z'), "{expires_at}");
}

async fn subjects_get_tickets_for_themselves(context: Context) {
    let key = SigningKey::ed();
    let app = service(&context, &[("ed", &key)], &[]).await;
    let token = |changes: Value| key.token(&header(&key, "ed"), &claims(&changes));
    let admin = token(json!({"scope": "users:write messages:send feed:read", "sub": "admin"}));
    let create = async |email: &str| {
        let body = json!({"name": "Ann", "email": email});
        Reply::of(with_key(&app, Method::POST, "/users", &admin).json(&body)).await.json()["id"].clone()
    };
    let (ann, ben) = (create("ann@example.com").await, create("ben@example.com").await);
    let own = token(json!({"scope": "users:self", "sub": ann}));
    ticket(&app, &own, &json!({"userId": ben})).await.problem(403, "scope-missing");
    let stranger = token(json!({"scope": "users:self", "sub": "ann"}));
    ticket(&app, &stranger, &json!({})).await.problem(403, "scope-missing");
    let message = async |user: &Value, caller: &str| {
        let path = format!("/users/{}/messages", user.as_str().unwrap());
        Reply::of(with_key(&app, Method::POST, &path, caller).json(&json!({"data": user}))).await
    };
    message(&ben, &own).await.problem(403, "scope-missing");
    for body in [json!({}), json!({"userId": ann})] {
        let mut socket = open(&app, &own, &body).await;
        socket.send(&json!({"type": "subscribe", "ids": [ann, ben]})).await;
        assert_eq!(socket.next().await["code"], "invalid-message");
        socket.begin(&json!({"after": "earliest"})).await;
        assert_eq!(socket.events(1).await[0]["subject"], ann);
        for user in [&ben, &ann] {
            assert_eq!(message(user, &admin).await.status, 202);
        }
        // Not the events and messages of others.
        let received = socket.next().await;
        assert_eq!((&received["type"], &received["data"]), (&json!("message"), &ann), "{received}");
        assert_eq!(received["from"], format!("admin@{}", "https://login.example.com/"));
    }
    // The token ends, and so does its socket. Tokens are accepted for some time after their expiry.
    let short = token(json!({"scope": "users:self", "sub": ann, "exp": now() - 27}));
    let mut socket = open(&app, &short, &json!({})).await;
    socket.begin(&json!({})).await;
    let (_, code, _) = socket.rest().await;
    assert_eq!(code, 4401);
}

async fn a_socket_is_renewed(context: Context) {
    let subject = Subject::create(&context).await;
    let app = &subject.app;
    let mut socket = open(app, &subject.token(now() - 26), &json!({})).await;
    socket.begin(&json!({})).await;
    let reply = ticket(app, &subject.token(now() + 600), &json!({})).await;
    socket.send(&json!({"type": "renew", "ticket": reply.json()["ticket"]})).await;
    // After the first token has expired.
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    for number in 0..2 {
        subject.send(json!(number)).await;
        assert_eq!(socket.next().await["data"], json!(number));
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    }
    // A ticket of another caller.
    let other = subject.token_with(&json!({"scope": "feed:read", "sub": "other"}));
    let reply = ticket(app, &other, &json!({"userId": subject.id})).await;
    socket.send(&json!({"type": "renew", "ticket": reply.json()["ticket"]})).await;
    assert_eq!(socket.rest().await.1, 4403);
}

async fn a_revoked_key_ends_the_sockets_of_its_tickets(context: Context) {
    let url = migrated(&context).await;
    let reader = key(&context, &url, &["feed:read", "users:write"]).await;
    let writer = key(&context, &url, &["users:write"]).await;
    let app = context.app_on(&url, &REFRESHED).await;
    let mut socket = open(&app, &reader, &json!({})).await;
    socket.begin(&json!({})).await;
    printed(&context, &url, &["revoke", id_of(&reader)]).await;
    eventually("the key is revoked", || async {
        (ticket(&app, &reader, &json!({})).await.status == 401).then_some(())
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let body = json!({"name": "Ann", "email": "ann@example.com"});
    assert_eq!(Reply::of(with_key(&app, Method::POST, "/users", &writer).json(&body)).await.status, 201);
    assert_eq!(socket.rest().await.1, 4401);
}

async fn messages_reach_every_socket_of_the_user(context: Context) {
    let url = context.database().await;
    let (near, far) = (context.app_on(&url, &[]).await, context.app_on(&url, &[]).await);
    let (ann, ben) = (near.create("Ann", "ann@example.com").await, near.create("Ben", "ben@example.com").await);
    let (ann, ben) = (&ann["id"], &ben["id"]);
    let mut sockets = Vec::new();
    for app in [&near, &far, &far] {
        let mut socket = open(app, "", &json!({"userId": ann})).await;
        let position = socket.begin(&json!({})).await;
        sockets.push((socket, position));
    }
    let mut other = open(&near, "", &json!({"userId": ben})).await;
    other.begin(&json!({})).await;
    let (mut all, _) = Socket::subscribe(far.address, &json!({})).await;
    let sent = send(&near, ann, json!({"text": "Grüße", "n": [1, null]})).await;
    assert_eq!(sent.status, 202, "{}", sent.text);
    let path = format!("/users/{}", ann.as_str().unwrap());
    far.patch(&path, &json!({"name": "Anna"})).await;
    let second = send(&far, ann, json!("again")).await.json();
    for (socket, _) in &mut sockets {
        let message = socket.next().await;
        let expected = json!({
            "type": "message",
            "id": sent.json()["id"],
            "from": "anyone",
            "time": message["time"],
            "data": {"text": "Grüße", "n": [1, null]},
            "position": sent.json()["position"],
        });
        assert_eq!(message, expected);
        // In one order with the events.
        assert_eq!(socket.events(1).await[0]["data"]["name"], "Anna");
        let message = socket.next().await;
        assert_eq!((&message["id"], &message["position"]), (&second["id"], &second["position"]));
    }
    // A client that was disconnected gets both.
    let mut back = open(&near, "", &json!({"userId": ann})).await;
    back.begin(&json!({"after": sockets[0].1})).await;
    assert_eq!(back.next().await["id"], sent.json()["id"]);
    assert_eq!(back.events(1).await.len(), 1);
    assert_eq!(back.next().await["id"], second["id"]);
    // Other users do not receive them, and /users/changes does not contain them.
    send(&near, ben, json!(1)).await;
    assert_eq!(other.next().await["data"], 1);
    assert_eq!(all.events(1).await[0]["data"]["name"], "Anna");
    let events = changes(&near, "after=earliest").await;
    assert_eq!(events.len(), 3, "{events:?}");
    let history = near.get(&format!("{path}/history")).await.json();
    assert_eq!(history.as_array().unwrap().len(), 2, "{history}");
}

async fn messages_are_validated(context: Context) {
    let app = context.app().await;
    let ann = app.create("Ann", "ann@example.com").await;
    let path = format!("/users/{}/messages", ann["id"].as_str().unwrap());
    for invalid in [json!({}), json!({"data": 1, "to": 2}), json!({"data": "x".repeat(4095)}), json!([])] {
        app.post(&path, &invalid).await.problem(422, "validation-failed");
    }
    app.post("/users/x/messages", &json!({"data": 1})).await.problem(400, "invalid-id");
    let unknown = "/users/019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40/messages";
    app.post(unknown, &json!({"data": 1})).await.problem(404, "user-not-found");
    for data in [json!(null), json!("x".repeat(4094)), json!({"a": {"b": 9_007_199_254_740_993_u64}})] {
        assert_eq!(app.post(&path, &json!({ "data": data })).await.status, 202);
    }
    let begin = changes(&app, "after=earliest").await[0]["position"].clone();
    let mut socket = open(&app, "", &json!({"userId": ann["id"]})).await;
    socket.begin(&json!({"after": begin})).await;
    for data in [json!(null), json!("x".repeat(4094)), json!({"a": {"b": 9_007_199_254_740_993_u64}})] {
        assert_eq!(socket.next().await["data"], data);
    }
    let disabled = context.app_with(&[("feed.enabled", "false")]).await;
    disabled.post(unknown, &json!({"data": 1})).await.problem(404, "not-found");
    disabled.post("/ws/tickets", &json!({})).await.problem(404, "not-found");
}

async fn a_deletion_removes_messages(context: Context) {
    let app = context.app().await;
    let ann = app.create("Ann", "ann@example.com").await["id"].clone();
    let ben = app.create("Ben", "ben@example.com").await["id"].clone();
    let (_alive, begin) = Socket::subscribe(app.address, &json!({"after": "earliest"})).await;
    for user in [&ann, &ben] {
        send(&app, user, json!("secret")).await;
    }
    assert_eq!(app.delete(&format!("/users/{}", ann.as_str().unwrap())).await.status, 204);
    let database = connect(&app.url).await;
    assert_eq!(number(&database, "SELECT count(*) FROM users_messages").await, Ok(1));
    let mut socket = open(&app, "", &json!({"userId": ann})).await;
    socket.begin(&json!({"after": begin})).await;
    let events = socket.events(2).await;
    assert_eq!(events[1]["type"], "user.deleted", "{events:?}");
    send(&app, &ann, json!("late")).await.problem(404, "user-not-found");
}

async fn old_messages_expire(context: Context) {
    let app = context.app().await;
    let ann = app.create("Ann", "ann@example.com").await["id"].clone();
    send(&app, &ann, json!("old")).await;
    let database = connect(&app.url).await;
    // As if it had been sent two days ago: numbers are microseconds with 11 more bits.
    let ago = 172_800_000_000_i64 << 11;
    for sql in [
        format!("UPDATE users_messages SET number = number - {ago}"),
        format!("UPDATE users_journal SET version = version + {ago} WHERE action = 'message'"),
    ] {
        database.execute_unprepared(&sql).await.unwrap();
    }
    send(&app, &ann, json!("new")).await;
    let pool =
        orm_pool::Pool::connect(&orm_pool::DatabaseUrl::parse(&app.url).unwrap(), &orm_pool::PoolOptions::default())
            .await
            .unwrap();
    let store = users_api::service::MessageStore::new(pool.clone());
    assert!(!store.delete_expired().await.unwrap());
    pool.close(std::time::Duration::from_secs(5)).await.unwrap();
    assert_eq!(number(&database, "SELECT count(*) FROM users_messages").await, Ok(1));
    let mut socket = open(&app, "", &json!({"userId": ann})).await;
    socket.begin(&json!({"after": "earliest"})).await;
    assert_eq!(socket.events(1).await.len(), 1);
    assert_eq!(socket.next().await["data"], "new", "the old one has expired");
}

async fn a_ticket_does_not_outlive_its_key(context: Context) {
    let url = migrated(&context).await;
    let reader = key(&context, &url, &["feed:read", "users:write"]).await;
    let app = context.app_on(&url, &REFRESHED).await;
    let body = json!({"name": "Ann", "email": "ann@example.com"});
    assert_eq!(Reply::of(with_key(&app, Method::POST, "/users", &reader).json(&body)).await.status, 201);
    let reply = ticket(&app, &reader, &json!({})).await;
    printed(&context, &url, &["revoke", id_of(&reader)]).await;
    eventually("the key is revoked", || async {
        (ticket(&app, &reader, &json!({})).await.status == 401).then_some(())
    })
    .await;
    let mut socket = Socket::open(app.address, &path(&reply)).await;
    socket.send(&json!({"type": "subscribe", "after": "earliest"})).await;
    let (messages, code, _) = socket.rest().await;
    assert_eq!((messages, code), (Vec::new(), 4401));
}

async fn what_is_withheld_comes_with_the_next_ticket(context: Context) {
    let subject = Subject::create(&context).await;
    let app = &subject.app;
    let mut socket = open(app, &subject.token(now() - 27), &json!({})).await;
    let mut position = json!(socket.begin(&json!({})).await);
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    subject.send(json!("important")).await;
    let (messages, code, _) = socket.rest().await;
    assert_eq!(code, 4401);
    if let Some(last) = messages.last() {
        position = last["position"].clone();
    }
    let mut socket = open(app, &subject.token(now() + 600), &json!({})).await;
    socket.begin(&json!({"after": position})).await;
    assert_eq!(socket.next().await["data"], "important");
}
