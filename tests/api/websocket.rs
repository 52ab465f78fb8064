//! `GET /ws`: the feed over WebSocket.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, time::timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    auth::{REFRESHED, get, id_of, key, migrated, printed, with_key},
    cases,
    feed::{import, latest, number_of},
    harness::{App, Context, Engine, Proxy, Reply, Service, Socket, eventually, read_message},
};

cases![
    sockets_of_every_process_get_every_change,
    a_socket_continues_after_a_position,
    handshakes_are_checked,
    valid_handshakes_are_accepted,
    pages_of_other_origins_are_refused,
    messages_are_checked,
    a_shutdown_disconnects_sockets_evenly,
    a_revoked_key_ends_its_sockets,
    silent_clients_are_disconnected,
    at_the_maximum_sockets_make_room,
    a_client_that_does_not_read_delays_no_shutdown,
    clients_share_what_they_read_again,
    an_outage_delays_sockets,
];

async fn sockets_of_every_process_get_every_change(context: Context) {
    let url = context.database().await;
    let (writer, reader) = (context.app_on(&url, &[]).await, context.app_on(&url, &[]).await);
    let (mut near, _) = Socket::subscribe(writer.address, &json!({})).await;
    let (mut far, begin) = Socket::subscribe(reader.address, &json!({"after": "now"})).await;
    let ann = writer.create("Ann", "ann@example.com").await;
    let path = format!("/users/{}", ann["id"].as_str().unwrap());
    writer.patch(&path, &json!({"name": "Anna"})).await;
    let events = near.events(2).await;
    assert_eq!(far.events(2).await, events, "all processes have the same order");
    assert_eq!(reader.get(&format!("/users/changes?after={begin}")).await.json(), json!(events));
    assert_eq!(events[0]["data"], ann);
    assert_eq!(writer.delete(&path).await.status, 204);
    let deletion = near.events(1).await;
    assert_eq!(far.events(1).await, deletion);
    let types: Vec<&Value> = events.iter().chain(&deletion).map(|event| &event["type"]).collect();
    assert_eq!(types, ["user.created", "user.updated", "user.deleted"]);
    assert_eq!((near.close().await, far.close().await), (None, None));
    let subscribers = async |app: &App| app.get("/feed").await.json()["subscribers"].clone();
    eventually("both are gone", || async {
        (subscribers(&writer).await == 0 && subscribers(&reader).await == 0).then_some(())
    })
    .await;
}

async fn a_socket_continues_after_a_position(context: Context) {
    // A ring of the minimum size, so that most events come from the database.
    let app = context.app_with(&[("feed.ring", "1MiB")]).await;
    let (mut socket, begin) = Socket::subscribe(app.address, &json!({})).await;
    let rows: Vec<Value> =
        (0..3000).map(|row| json!({"name": format!("User {row}"), "email": format!("u{row}@example.com")})).collect();
    import(&app, "", &rows).await;
    let all = socket.events(rows.len()).await;
    let ids: HashSet<&str> = all.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), rows.len());
    for (after, skipped) in [(json!(begin), 0), (json!("earliest"), 0), (all[1700]["position"].clone(), 1701)] {
        let (mut again, position) = Socket::subscribe(app.address, &json!({ "after": after })).await;
        assert!(after == "earliest" || position == after);
        assert_eq!(again.events(rows.len() - skipped).await, all[skipped..]);
    }
    let user = &all[7]["subject"];
    let (mut filtered, _) = Socket::subscribe(app.address, &json!({"ids": [user], "types": ["user.deleted"]})).await;
    for event in [&all[8], &all[7]] {
        app.delete(&format!("/users/{}", event["subject"].as_str().unwrap())).await;
    }
    assert_eq!(&filtered.events(1).await[0]["subject"], user);
    let now = latest(&app).await;
    for (after, reason) in [("0af3.1".to_owned(), "epoch"), (now.clone() + "0", "ahead")] {
        let (mut gone, position) = Socket::subscribe(app.address, &json!({ "after": after })).await;
        let resync = gone.next().await;
        assert_eq!(resync, json!({"type": "resync", "reason": reason, "position": position}));
        assert!(number_of(&position) >= number_of(&now));
        app.create("Ann", &format!("{reason}@example.com")).await;
        assert_eq!(gone.events(1).await[0]["data"]["email"], format!("{reason}@example.com"));
        gone.close().await;
    }
}

/// The key of the example in RFC 6455.
const HANDSHAKE_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A request for a WebSocket.
fn upgrade(app: &App, version: &str, key: &str) -> RequestBuilder {
    app.request(Method::GET, "/ws")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", version)
        .header("sec-websocket-key", key)
}

async fn handshakes_are_checked(context: Context) {
    let app = context.app().await;
    let plain = app.get("/ws").await;
    assert_eq!(plain.header("upgrade"), "websocket");
    plain.problem(426, "upgrade-required");
    let old = Reply::of(upgrade(&app, "8", HANDSHAKE_KEY)).await;
    assert_eq!(old.header("sec-websocket-version"), "13");
    old.problem(426, "upgrade-required");
    for malformed in ["", "short", "dGhlIHNhbXBsZSBub25jZQ=", "dGhlIHNhbXBsZSBub25jZSB0b28gbG9uZw=="] {
        Reply::of(upgrade(&app, "13", malformed)).await.problem(400, "invalid-handshake");
    }
    let other = upgrade(&app, "13", HANDSHAKE_KEY).header("sec-websocket-protocol", "chat, users-api.v2");
    Reply::of(other).await.problem(400, "invalid-handshake");
    app.post("/ws", &json!({})).await.problem(405, "method-not-allowed");
    let head = upgrade(&app, "13", HANDSHAKE_KEY).build().unwrap();
    let head = app.request(Method::HEAD, "/ws").headers(head.headers().clone());
    assert_eq!(Reply::of(head).await.status, 426);
    for (name, value, status) in [
        ("upgrade", "h2c, websocket", 426),
        ("upgrade", "xwebsocketx", 426),
        ("content-length", "5", 400),
        ("transfer-encoding", "chunked", 400),
    ] {
        let mut stream = tokio::net::TcpStream::connect(app.address).await.unwrap();
        let upgrade = if name == "upgrade" { String::new() } else { "upgrade: websocket\r\n".to_owned() };
        let head = format!(
            "GET /ws HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\n{upgrade}{name}: {value}\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: {HANDSHAKE_KEY}\r\n\r\n0\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let (head, _) = read_message(&mut stream).await.unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {value}: {head}");
    }
    // A server may ignore a request for another protocol.
    let body = json!({"name": "Ann", "email": "ann@example.com"});
    let request = app.request(Method::POST, "/users").header("connection", "upgrade").header("upgrade", "websocket");
    assert_eq!(Reply::of(request.json(&body)).await.status, 201);
    let disabled = context.app_with(&[("feed.enabled", "false")]).await;
    disabled.get("/ws").await.problem(404, "not-found");
}

async fn valid_handshakes_are_accepted(context: Context) {
    let app = context.app().await;
    for offered in [None, Some("chat, users-api.v1")] {
        let request = upgrade(&app, "13", HANDSHAKE_KEY);
        let request = offered.iter().fold(request, |request, names| request.header("sec-websocket-protocol", *names));
        let response = request.send().await.unwrap();
        let headers = response.headers();
        assert_eq!((response.status().as_u16(), &headers["upgrade"]), (101, &"websocket".parse().unwrap()));
        assert_eq!(headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "the example of RFC 6455");
        let selected = headers.get("sec-websocket-protocol").map(|name| name.to_str().unwrap());
        assert_eq!(selected, offered.map(|_| "users-api.v1"));
        for unwanted in ["content-length", "content-type", "transfer-encoding"] {
            assert!(!headers.contains_key(unwanted), "{headers:?}");
        }
    }
}

async fn pages_of_other_origins_are_refused(context: Context) {
    let app = context.app_with(&[("cors.origins", "https://app.example")]).await;
    let own = format!("http://{}", app.address);
    let from = async |origin: &str| Socket::open_with(app.address, "/ws", &[("origin", origin)]).await;
    for origin in ["https://app.example", &own] {
        assert!(from(origin).await.is_ok(), "{origin}");
    }
    let port = format!("http://127.0.0.1:{}", app.address.port() ^ 1);
    for origin in ["https://evil.example", "http://app.example", "https://app.example.evil.example", "null", "", &port]
    {
        let refused = from(origin).await.err().unwrap_or_else(|| panic!("{origin:?} was accepted"));
        assert_eq!(refused.status(), 403, "{origin}");
        assert!(String::from_utf8_lossy(refused.body().as_ref().unwrap()).contains("origin-not-allowed"));
    }
}

async fn messages_are_checked(context: Context) {
    let app = context.app().await;
    let mut socket = Socket::open(app.address, "/ws").await;
    for invalid in [json!({}), json!([]), json!({"type": "publish"}), json!({"type": "subscribe", "after": "x"})] {
        socket.send(&invalid).await;
        let error = socket.next().await;
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("invalid-message")), "{error}");
    }
    socket.begin(&json!({})).await;
    socket.send(&json!({"type": "subscribe"})).await;
    assert_eq!(socket.next().await["code"], "subscribed-already");
    app.create("Ann", "ann@example.com").await;
    let event = &socket.events(1).await[0];
    socket.send_text("{\"type\":").await;
    let (messages, code, _) = socket.rest().await;
    assert_eq!((&messages[0]["code"], code), (&json!("malformed-json"), 1007));
    assert_eq!(messages[1], json!({"type": "bookmark", "position": event["position"]}));
}

async fn a_shutdown_disconnects_sockets_evenly(context: Context) {
    let app = context.app_with(&[("feed.drain", "2s")]).await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(Socket::subscribe(app.address, &json!({})).await);
    }
    let mut unsubscribed = Socket::open(app.address, "/ws").await;
    let stopped = tokio::spawn({
        let app = app.clone();
        async move { app.stop().await.unwrap() }
    });
    let ends = sockets.into_iter().map(|(mut socket, begin)| async move {
        let (messages, code, _) = socket.rest().await;
        assert_eq!((&messages[..], code), (&[json!({"type": "bookmark", "position": begin})][..], 1012));
        tokio::time::Instant::now()
    });
    let ends = futures_util::future::join_all(ends).await;
    assert_eq!(unsubscribed.rest().await.1, 1012);
    assert!(stopped.await.unwrap().is_ok());
    let (first, last) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
    assert!(*last - *first > Duration::from_millis(500), "they end over time: {:?}", *last - *first);
}

async fn a_revoked_key_ends_its_sockets(context: Context) {
    let url = migrated(&context).await;
    let (reader, writer) = (key(&context, &url, &["feed:read"]).await, key(&context, &url, &["users:write"]).await);
    let app = context.app_on(&url, &REFRESHED).await;
    let bearer = |key: &str| format!("Bearer {key}");
    let open = async |key: &str| Socket::open_with(app.address, "/ws", &[("authorization", &bearer(key))]).await;
    assert_eq!(open(&writer).await.err().unwrap().status(), 403);
    assert_eq!(Socket::open_with(app.address, "/ws", &[]).await.err().unwrap().status(), 401);
    let (mut socket, _) = open(&reader).await.unwrap();
    socket.begin(&json!({})).await;
    let create = async |email: &str| {
        let body = json!({"name": "Ann", "email": email});
        assert_eq!(Reply::of(with_key(&app, Method::POST, "/users", &writer).json(&body)).await.status, 201);
    };
    create("before@example.com").await;
    assert_eq!(socket.events(1).await[0]["data"]["email"], "before@example.com");
    printed(&context, &url, &["revoke", id_of(&reader)]).await;
    eventually("the key is revoked", || async {
        (get(&app, "/users/changes", &reader).await.status == 401).then_some(())
    })
    .await;
    // A caller is checked once a second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    create("after@example.com").await;
    let (messages, code, _) = socket.rest().await;
    assert!(messages.iter().all(|message| message["type"] == "bookmark"), "{messages:?}");
    assert_eq!(code, 4401);
}

async fn silent_clients_are_disconnected(context: Context) {
    if context.engine() != Engine::Sqlite {
        return;
    }
    let app = context.app().await;
    let mut unsubscribed = Socket::open(app.address, "/ws").await;
    let (mut waiting, begin) = Socket::subscribe(app.address, &json!({})).await;
    let (_, code, reason) = unsubscribed.rest().await;
    assert_eq!((code, reason.as_str()), (4408, "no subscription within 10 s"));
    assert_eq!(waiting.next().await, json!({"type": "bookmark", "position": begin}));
    loop {
        match timeout(Duration::from_secs(31), waiting.frame()).await.expect("a ping").unwrap() {
            Message::Ping(_) => break,
            Message::Text(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn at_the_maximum_sockets_make_room(context: Context) {
    let settings = [("USERS_API__SERVER__MAX_CONNECTIONS", "4"), ("USERS_API__SERVER__WORKERS", "1")];
    let service = Service::start(context.folder(), &settings).await;
    // Those that have not subscribed make room as well.
    let mut unsubscribed = Vec::new();
    for _ in 0..4 {
        unsubscribed.push(Socket::open(service.address, "/ws").await);
    }
    let opened = Instant::now();
    assert_eq!(App::at(service.address, "").get("/health/live").await.status, 200);
    let ends = unsubscribed.iter_mut().map(|socket| Box::pin(socket.rest()));
    let ((_, code, _), ..) = futures_util::future::select_all(ends).await;
    assert_eq!(code, 1012);
    assert!(opened.elapsed() < Duration::from_secs(9), "before they have to subscribe");
    drop(unsubscribed);
    let mut sockets = Vec::new();
    for _ in 0..4 {
        sockets.push(Socket::subscribe(service.address, &json!({})).await.0);
    }
    // Idle connections would be closed first; all of them are busy.
    let app = App::at(service.address, "");
    app.create("Ann", "ann@example.com").await;
    let ends = sockets.iter_mut().map(|socket| Box::pin(socket.rest()));
    let ((_, code, _), ..) = futures_util::future::select_all(ends).await;
    assert_eq!(code, 1012);
    let mut others = 0;
    for socket in &mut sockets {
        // The one that has ended returns nothing.
        others +=
            usize::from(matches!(timeout(Duration::from_millis(100), socket.frame()).await, Ok(Some(_)) | Err(_)));
    }
    assert!(others >= 2, "the others stay: {others}");
}

async fn a_client_that_does_not_read_delays_no_shutdown(context: Context) {
    if context.engine() != Engine::Sqlite {
        return;
    }
    let mut service = Service::start(context.folder(), &[("USERS_API__FEED__DRAIN", "500ms")]).await;
    let app = App::at(service.address, "");
    let mut stalled = Vec::new();
    for upgrade in ["connection: upgrade\r\nupgrade: websocket\r\n", "accept: text/event-stream\r\n"] {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(2048).unwrap();
        let mut stream = socket.connect(service.address).await.unwrap();
        let path = if upgrade.contains("upgrade") { "/ws" } else { "/users/changes" };
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\n{upgrade}sec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // A masked frame with a mask of zeros.
        let message = br#"{"type":"subscribe"}"#;
        stream.write_all(&[&[0x81, 0x94, 0, 0, 0, 0][..], message].concat()).await.unwrap();
        stalled.push(stream);
    }
    let (mut reading, _) = Socket::subscribe(service.address, &json!({})).await;
    eventually("all clients", || async { (app.get("/feed").await.json()["subscribers"] == 3).then_some(()) }).await;
    let rows: Vec<Value> =
        (0..20_000).map(|row| json!({"name": "User", "email": format!("u{row}@example.com")})).collect();
    import(&app, "report=summary", &rows).await;
    reading.events(rows.len()).await;
    let stopping = Instant::now();
    service.signal("TERM").await;
    assert_eq!(reading.rest().await.1, 1012);
    assert_eq!(service.ended().await.code(), Some(0));
    assert!(stopping.elapsed() < Duration::from_secs(15), "the shutdown did not wait until its limit, 20 s");
    drop(stalled);
}

async fn clients_share_what_they_read_again(context: Context) {
    let app = context.app_with(&[("feed.ring", "1MiB")]).await;
    let (mut alive, begin) = Socket::subscribe(app.address, &json!({})).await;
    let rows: Vec<Value> =
        (0..4000).map(|row| json!({"name": "User", "email": format!("u{row}@example.com")})).collect();
    import(&app, "report=summary", &rows).await;
    let all = alive.events(rows.len()).await;
    let reads = async || {
        let metrics = app.get("/metrics").await.text;
        let lines = metrics.lines().filter(|line| line.contains("operation=\"feed.page\"") && line.contains("_count"));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>()
    };
    let before = reads().await;
    let clients = (0..20).map(|client| {
        let (address, begin, all) = (app.address, begin.clone(), &all);
        async move {
            let after = if client == 0 { json!(begin) } else { all[client * 10]["position"].clone() };
            let skipped = if client == 0 { 0 } else { client * 10 + 1 };
            let (mut socket, _) = Socket::subscribe(address, &json!({ "after": after })).await;
            assert_eq!(socket.events(all.len() - skipped).await, all[skipped..]);
        }
    });
    futures_util::future::join_all(clients).await;
    let shared = reads().await - before;
    // Alone, each client would read each page. On a busy machine, pages are forgotten before all have read them.
    assert!((8.0..=160.0).contains(&shared), "{shared} reads of 16 pages for 20 clients");
}

async fn an_outage_delays_sockets(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let url = migrated(&context).await;
    let (proxy, proxied) = Proxy::before(&url).await;
    let service = Service::start(context.folder(), &[("DATABASE_URL", &proxied)]).await;
    let app = App::at(service.address, &url);
    let (mut socket, _) = Socket::subscribe(app.address, &json!({})).await;
    proxy.cut();
    eventually("the outage", || async { (app.get("/users").await.status == 503).then_some(()) }).await;
    let mut during = Socket::open(app.address, "/ws").await;
    during.send(&json!({"type": "subscribe", "after": "now"})).await;
    // Whether a message is refused does not depend on the database.
    during.send(&json!({"type": "subscribe"})).await;
    assert_eq!(during.next().await["code"], "subscribed-already");
    let writer = context.app_on(&url, &[]).await;
    let ben = writer.create("Ben", "ben@example.com").await;
    proxy.restore();
    assert_eq!(socket.events(1).await[0]["data"], ben);
    // What "now" is, is known only now.
    assert_eq!(during.next().await["type"], "hello");
    let cem = writer.create("Cem", "cem@example.com").await;
    assert_eq!(during.events(1).await[0]["data"], cem);
    drop(service);
}
