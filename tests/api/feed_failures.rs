//! The feed while callers lose access, processes stop, and the database or the doorbell fails.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use crate::{
    auth::{REFRESHED, get, id_of, key, migrated, printed, with_key},
    cases,
    feed::number_of,
    harness::{App, Context, Engine, EventStream, Proxy, Reply, Service, Socket, binary, eventually},
};

cases![
    a_revoked_key_ends_its_streams,
    events_and_revocations_take_effect_during_the_drain_delay,
    a_shutdown_ends_the_streams,
    a_head_request_has_no_stream,
    a_shutdown_during_an_outage_ends_the_streams,
    an_outage_delays_events,
    old_connections_end_and_their_clients_continue,
    notifications_of_postgres_save_the_poll,
];

async fn a_revoked_key_ends_its_streams(context: Context) {
    let url = migrated(&context).await;
    let (reader, writer) = (key(&context, &url, &["feed:read"]).await, key(&context, &url, &["users:write"]).await);
    let app = context.app_on(&url, &REFRESHED).await;
    get(&app, "/users/changes", &writer).await.problem(403, "scope-missing");
    let mut stream = EventStream::of(with_key(&app, Method::GET, "/users/changes", &reader)).await.unwrap();
    stream.next().await.unwrap();
    let create = async |email: &str| {
        let body = json!({"name": "Ann", "email": email});
        assert_eq!(Reply::of(with_key(&app, Method::POST, "/users", &writer).json(&body)).await.status, 201);
    };
    create("before@example.com").await;
    assert_eq!(stream.event().await["data"]["email"], "before@example.com");
    printed(&context, &url, &["revoke", id_of(&reader)]).await;
    eventually("the key is revoked", || async {
        (get(&app, "/users/changes", &reader).await.status == 401).then_some(())
    })
    .await;
    // The caller of a stream is checked once a second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    create("after@example.com").await;
    while let Some(message) = stream.next().await {
        assert!(!message.data.contains("after@"), "{message:?}");
    }
}

async fn events_and_revocations_take_effect_during_the_drain_delay(context: Context) {
    let url = migrated(&context).await;
    let (reader, writer) = (key(&context, &url, &["feed:read"]).await, key(&context, &url, &["users:write"]).await);
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("USERS_API__AUTH__MODE", "required"),
        ("USERS_API__AUTH__REFRESH", "100ms"),
        ("USERS_API__SERVER__DRAIN_DELAY", "5s"),
    ];
    let mut service = Service::start(context.folder(), &variables).await;
    let app = App::at(service.address, &url);
    let mut stream = EventStream::of(with_key(&app, Method::GET, "/users/changes", &reader)).await.unwrap();
    stream.next().await.unwrap();
    service.signal("TERM").await;
    service.logged("shutdown: readiness is now false").await;

    let body = json!({"name": "Ann", "email": "ann@example.com"});
    assert_eq!(Reply::of(with_key(&app, Method::POST, "/users", &writer).json(&body)).await.status, 201);
    assert_eq!(stream.event().await["data"]["email"], "ann@example.com");
    printed(&context, &url, &["revoke", id_of(&writer)]).await;
    eventually("the key is revoked", || async { (get(&app, "/users", &writer).await.status == 401).then_some(()) })
        .await;
    assert!(!service.log().iter().any(|line| line["message"] == "shutdown: listening stopped"));
    assert_eq!(service.ended().await.code(), Some(0));
}

async fn a_shutdown_ends_the_streams(context: Context) {
    let app = context.app_with(&[("feed.drain", "2s"), ("feed.poll", "10ms")]).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(EventStream::open(&app, "", "").await);
    }
    let waiting = tokio::spawn({
        let app = app.clone();
        async move { app.get("/users/changes?wait=30s").await }
    });
    eventually("all clients", || async { (app.get("/feed").await.json()["subscribers"] == 21).then_some(()) }).await;
    // Streams end although there is always another event.
    let writer = context.app_on(&app.url, &[]).await;
    let writing = tokio::spawn(async move {
        for number in 0.. {
            writer.create("Ann", &format!("ann{number}@example.com")).await;
        }
    });
    let stopping = Instant::now();
    let stopped = tokio::spawn({
        let app = app.clone();
        async move { app.stop().await.unwrap() }
    });
    for (stream, _) in &mut streams {
        while stream.next().await.is_some() {}
    }
    assert_eq!((waiting.await.unwrap().status.as_u16(), stopped.await.unwrap().is_ok()), (200, true));
    writing.abort();
    assert!(stopping.elapsed() < Duration::from_secs(15), "the streams did not delay it until its limit");
}

async fn an_outage_delays_events(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let url = migrated(&context).await;
    let (proxy, proxied) = Proxy::before(&url).await;
    let service = Service::start(context.folder(), &[("DATABASE_URL", &proxied)]).await;
    let app = App::at(service.address, &url);
    let (mut stream, first) = EventStream::open(&app, "", "").await;
    app.create("Ann", "ann@example.com").await;
    let event = stream.event().await;
    proxy.cut();
    eventually("the outage", || async { (app.get("/users").await.status == 503).then_some(()) }).await;
    // A stream that begins during the outage gets what this process knows.
    let (mut during, begin) = EventStream::open(&app, "", &first.id).await;
    assert_eq!((begin.id.as_str(), during.event().await), (first.id.as_str(), event));
    let writer = context.app_on(&url, &[]).await;
    let ben = writer.create("Ben", "ben@example.com").await;
    proxy.restore();
    for stream in [&mut stream, &mut during] {
        assert_eq!(stream.event().await["data"], ben);
    }
    drop(service);
}

async fn old_connections_end_and_their_clients_continue(context: Context) {
    let app = context.app_with(&[("feed.max_age", "1s")]).await;
    let (mut socket, begin) = Socket::subscribe(app.address, &json!({})).await;
    let (mut stream, first) = EventStream::open(&app, "", "").await;
    let lines = app.request(Method::GET, "/users/changes?live=true").header("accept", "application/x-ndjson");
    let lines = tokio::spawn(Reply::of(lines));
    let (messages, code, _) = socket.rest().await;
    assert_eq!((&messages[..], code), (&[json!({"type": "bookmark", "position": begin})][..], 1012));
    assert_eq!(lines.await.unwrap().status, 200);
    // Also if there is always another event.
    let writer = app.clone();
    let writing = tokio::spawn(async move {
        for number in 0.. {
            writer.create("Ann", &format!("ann{number}@example.com")).await;
        }
    });
    let mut last = first.id;
    while let Some(message) = stream.next().await {
        if !message.id.is_empty() {
            last = message.id;
        }
    }
    // On a busy machine a stream may end before it has an event.
    let next = loop {
        let (mut stream, first) = EventStream::open(&app, "", &last).await;
        assert_eq!(first.id, last);
        let mut next = None;
        while let Some(message) = stream.next().await {
            next = next.or(Some(message.id).filter(|id| *id != last));
        }
        if let Some(next) = next {
            break next;
        }
    };
    assert_eq!(number_of(&next), number_of(&last) + 1);
    writing.abort();
}

async fn notifications_of_postgres_save_the_poll(context: Context) {
    if context.engine() != Engine::Postgres {
        let url = context.database().await;
        let variables = [("DATABASE_URL", url.as_str()), ("USERS_API__FEED__BROKER", "postgres")];
        let output = binary(context.folder(), &variables).arg("config").output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && text.contains("FEED__BROKER"), "{text}");
        return;
    }
    let url = migrated(&context).await;
    // Without notifications, events of the other process would arrive after a minute.
    let settings = [("feed.poll", "1m"), ("feed.broker", "postgres")];
    let (proxy, proxied) = Proxy::before(&url).await;
    let doorbell = async |app: &App| app.get("/feed").await.json()["doorbell"].clone();
    let listens = async |app: &App| {
        eventually("it listens", || async { (doorbell(app).await["connected"] == true).then_some(()) }).await;
    };
    let writer = context.app_on(&url, &settings).await;
    listens(&writer).await;
    writer.create("First", "first@example.com").await;
    // Gives the change its position, which rings.
    assert_eq!(writer.get("/users/changes?after=earliest").await.json().as_array().unwrap().len(), 1);
    assert_eq!(doorbell(&writer).await["rings"], 1, "it ignores its own notifications");
    let reader = context.app_on(&proxied, &settings).await;
    listens(&reader).await;
    let (mut stream, _) = EventStream::open(&reader, "", "").await;
    for number in 0..3 {
        let user = writer.create("Ann", &format!("ann{number}@example.com")).await;
        assert_eq!(stream.event().await["data"], user);
    }
    assert!(doorbell(&reader).await["rings"].as_u64().unwrap() >= 2);
    // The connection breaks; what happens in the meantime is read when it listens again.
    proxy.cut();
    eventually("it is disconnected", || async { (doorbell(&reader).await["connected"] == false).then_some(()) }).await;
    let user = writer.create("Ben", "ben@example.com").await;
    proxy.restore();
    assert_eq!(stream.event().await["data"], user);
    let cem = writer.create("Cem", "cem@example.com").await;
    assert_eq!(stream.event().await["data"], cem);
}

async fn a_head_request_has_no_stream(context: Context) {
    let app = context.app().await;
    let request = |method| app.request(method, "/users/changes?after=earliest").header("accept", "text/event-stream");
    for _ in 0..3 {
        let reply = Reply::of(request(Method::HEAD)).await;
        assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "text/event-stream"));
    }
    assert_eq!(app.get("/feed").await.json()["subscribers"], 0);
}

async fn a_shutdown_during_an_outage_ends_the_streams(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let (proxy, proxied) = Proxy::before(&context.database().await).await;
    let app = context.app_on(&proxied, &[("feed.drain", "100ms")]).await;
    let (mut attached, _) = EventStream::open(&app, "", "").await;
    proxy.cut();
    eventually("the outage", || async { (app.get("/users").await.status == 503).then_some(()) }).await;
    // It cannot know where to begin.
    let request = app.request(Method::GET, "/users/changes?after=earliest");
    let mut waiting = EventStream::of(request).await.unwrap();
    let stopping = Instant::now();
    let stopped = tokio::spawn({
        let app = app.clone();
        async move { app.stop().await.unwrap() }
    });
    while attached.next().await.is_some() {}
    while waiting.next().await.is_some() {}
    stopped.await.unwrap().unwrap();
    assert!(stopping.elapsed() < Duration::from_secs(15));
    proxy.restore();
}
