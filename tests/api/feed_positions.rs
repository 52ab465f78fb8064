//! Positions of the feed that are no longer valid, and events whose values are erased.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};

use crate::{
    cases,
    feed::{changes, import, latest, number_of, position},
    harness::{App, Context, Engine, EventStream, Reply, Service, connect, eventually, number},
};

cases![
    positions_that_are_gone_are_reported,
    a_restored_database_is_detected,
    a_server_that_lags_is_not_a_restored_database,
    events_that_the_database_has_lost_are_noticed,
    a_shutdown_is_not_a_restored_database,
    a_deletion_erases_earlier_events,
    old_events_expire,
    a_disabled_feed_ends_the_epoch,
    clients_that_continue_at_once_share_reads,
];

async fn positions_that_are_gone_are_reported(context: Context) {
    let app = context.app().await;
    for number in 0..3 {
        app.create("Ann", &format!("ann{number}@example.com")).await;
    }
    let end = eventually("three events", || async { Some(latest(&app).await).filter(|end| number_of(end) == 3) }).await;
    let (epoch, _) = end.split_once('.').unwrap();
    let direct = connect(&app.url).await;
    direct.execute_unprepared("UPDATE users_feed SET floor = 1").await.unwrap();
    direct.close().await.unwrap();
    eventually("the oldest event is gone", || async {
        app.get("/users/changes?after=earliest").await;
        (app.get("/feed").await.json()["earliest"] == format!("{epoch}.1")).then_some(())
    })
    .await;
    assert_eq!(changes(&app, "after=earliest").await.len(), 2);
    assert_eq!(changes(&app, &format!("after={epoch}.1")).await.len(), 2);
    for (after, reason) in [
        (format!("{epoch}.0"), "expired"),
        ("0123456789abcdef.2".to_owned(), "epoch"),
        (format!("{epoch}.1000"), "ahead"),
    ] {
        let end = latest(&app).await;
        let request =
            |accept| app.request(Method::GET, &format!("/users/changes?after={after}")).header("accept", accept);
        // At the same time, because each waits in case the server lags.
        let (batch, lines, (mut stream, first)) = tokio::join!(
            Reply::of(request("application/json")),
            Reply::of(request("application/x-ndjson")),
            EventStream::open(&app, "", &after)
        );
        for reply in [batch, lines] {
            reply.problem(410, "position-gone");
            assert_eq!(position(&reply), end);
        }
        assert_eq!((first.event.as_str(), first.id.as_str()), ("resync", end.as_str()));
        assert_eq!(first.json(), json!({"reason": reason, "position": end}));
        let user = app.create("Ben", &format!("{reason}@example.com")).await;
        assert_eq!(stream.event().await["data"], user, "the stream continues");
    }
    let (_, first) = EventStream::open(&app, "", "not a position").await;
    assert_eq!(first.event, "resync");
}

async fn a_restored_database_is_detected(context: Context) {
    let url = context.database().await;
    let app = context.app_on(&url, &[("feed.poll", "50ms")]).await;
    for number in 0..5 {
        app.create("Ann", &format!("ann{number}@example.com")).await;
    }
    let end = eventually("five events", || async { Some(latest(&app).await).filter(|end| number_of(end) == 5) }).await;
    let (mut stream, _) = EventStream::open(&app, "", "").await;
    // As if the database had been replaced by an older one.
    let direct = connect(&url).await;
    let statements: &[&str] = match context.engine() {
        Engine::Sqlite => &[
            "DELETE FROM users_journal WHERE id > 3",
            "UPDATE sqlite_sequence SET seq = 3 WHERE name = 'users_journal'",
        ],
        _ => &["DELETE FROM users_feed_positions WHERE number > 3", "UPDATE users_feed SET number = 3"],
    };
    for statement in statements {
        direct.execute_unprepared(statement).await.unwrap();
    }
    direct.close().await.unwrap();
    let message = loop {
        let message = stream.next().await.unwrap();
        if !message.event.is_empty() {
            break message;
        }
    };
    assert_eq!((message.event.as_str(), &message.json()["reason"]), ("resync", &json!("epoch")));
    let (epoch, _) = end.split_once('.').unwrap();
    let (new_epoch, number) = message.id.split_once('.').unwrap();
    assert!(new_epoch != epoch && number == "3", "{end} {}", message.id);
    app.get(&format!("/users/changes?after={end}")).await.problem(410, "position-gone");
    let user = app.create("Ben", "ben@example.com").await;
    let event = stream.event().await;
    assert_eq!((&event["data"], &event["position"]), (&user, &json!(format!("{new_epoch}.4"))));
    // Another process agrees.
    let other = context.app_on(&url, &[]).await;
    assert_eq!(latest(&other).await, format!("{new_epoch}.4"));
}

async fn a_server_that_lags_is_not_a_restored_database(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let url = context.database().await;
    let variables = [("DATABASE_URL", url.as_str()), ("USERS_API__FEED__POLL", "50ms"), ("RUST_LOG", "info")];
    let service = Service::start(context.folder(), &variables).await;
    let app = App::at(service.address, &url);
    for number in 0..5 {
        app.create("Ann", &format!("ann{number}@example.com")).await;
    }
    let end = eventually("five events", || async { Some(latest(&app).await).filter(|end| number_of(end) == 5) }).await;
    let (mut stream, _) = EventStream::open(&app, "", "").await;

    // As if both processes were connected to a server that lags.
    let direct = connect(&url).await;
    direct.execute_unprepared("UPDATE users_feed SET number = 3").await.unwrap();
    service.logged("the database has fewer events than before; waiting for replication").await;
    assert_eq!(changes(&app, &format!("after={end}")).await, Vec::<Value>::new());
    let other = Service::start(context.folder(), &variables).await;
    let other = App::at(other.address, &url);
    let continued = tokio::spawn({
        let (app, after) = (other.clone(), format!("/users/changes?after={end}"));
        async move { app.get(&after).await }
    });
    eventually("the client waits", || async { (other.get("/feed").await.json()["subscribers"] == 1).then_some(()) })
        .await;
    direct.execute_unprepared("UPDATE users_feed SET number = 5").await.unwrap();
    direct.close().await.unwrap();

    let continued = continued.await.unwrap();
    assert_eq!((continued.status, continued.json(), position(&continued)), (StatusCode::OK, json!([]), end.clone()));
    let user = app.create("Ben", "ben@example.com").await;
    let event = stream.event().await;
    let (epoch, _) = end.split_once('.').unwrap();
    assert_eq!((&event["data"], &event["position"]), (&user, &json!(format!("{epoch}.6"))));
}

async fn events_that_the_database_has_lost_are_noticed(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let url = context.database().await;
    let app = context.app_on(&url, &[("feed.poll", "50ms")]).await;
    app.create("Ann", "ann@example.com").await;
    let (mut stream, _) = EventStream::open(&app, "", "").await;
    app.create("Lost", "lost@example.com").await;
    let lost = stream.event().await;

    // As if a replica without the latest commit had become the primary: other events get its positions.
    let direct = connect(&url).await;
    let number = number_of(lost["position"].as_str().unwrap());
    for statement in [
        format!("DELETE FROM users_feed_positions WHERE number = {number}"),
        "DELETE FROM users_journal WHERE email = 'lost@example.com'".to_owned(),
        format!("UPDATE users_feed SET number = {}", number - 1),
    ] {
        direct.execute_unprepared(&statement).await.unwrap();
    }
    direct.close().await.unwrap();
    app.create("Ben", "ben@example.com").await;
    app.create("Cid", "cid@example.com").await;

    let message = stream.next().await.unwrap();
    assert_eq!(message.event, "resync", "{message:?}");
    assert_eq!(message.json()["reason"], "epoch");
    assert_eq!(number_of(&message.id), number + 1, "{}", message.id);
    let (epoch, _) = lost["position"].as_str().unwrap().split_once('.').unwrap();
    assert_ne!(message.id.split_once('.').unwrap().0, epoch);
    let user = app.create("Dan", "dan@example.com").await;
    assert_eq!(stream.event().await["data"], user, "the stream continues");
}

async fn a_shutdown_is_not_a_restored_database(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let url = context.database().await;
    let mut service = Service::start(context.folder(), &[("DATABASE_URL", &url)]).await;
    let app = App::at(service.address, &url);
    app.create("Ann", "ann@example.com").await;
    let end = eventually("one event", || async { Some(latest(&app).await).filter(|end| number_of(end) == 1) }).await;
    let (epoch, _) = end.split_once('.').unwrap();

    // The position of a process that has read more.
    let request = app.request(Method::GET, "/users/changes").header("last-event-id", format!("{epoch}.5"));
    let mut stream = EventStream::of(request).await.unwrap();
    eventually("the client waits", || async { (app.get("/feed").await.json()["subscribers"] == 1).then_some(()) })
        .await;
    service.signal("TERM").await;
    while let Some(message) = stream.next().await {
        assert_ne!(message.event, "resync", "{message:?}");
    }
    service.ended().await;
}

async fn a_deletion_erases_earlier_events(context: Context) {
    let url = context.database().await;
    let app = context.app_on(&url, &[]).await;
    let (mut stream, _) = EventStream::open(&app, "", "").await;
    let secret = app.create("Hidden Name", "hidden@example.com").await;
    app.create("Ben", "ben@example.com").await;
    let path = format!("/users/{}", secret["id"].as_str().unwrap());
    app.patch(&path, &json!({"name": "Hidden Too"})).await;
    for _ in 0..3 {
        stream.event().await;
    }
    assert_eq!(app.delete(&path).await.status, 204);
    assert_eq!(stream.event().await["type"], "user.deleted");
    // From memory, and from the database.
    let other = context.app_on(&url, &[]).await;
    for app in [&app, &other] {
        let events = changes(app, "after=earliest").await;
        let text = Value::from(events.clone()).to_string();
        assert!(!text.contains("Hidden") && !text.contains("hidden@") && text.contains("ben@"), "{text}");
        assert_eq!(events.len(), 4);
        assert_eq!(events[0]["type"], "user.created");
        assert_eq!(events[2]["data"], json!({"id": secret["id"], "version": 2}));
    }
}

async fn old_events_expire(context: Context) {
    let url = context.database().await;
    let app = context.app_on(&url, &[("feed.retain_rows", "1000")]).await;
    let rows: Vec<Value> =
        (0..1800).map(|row| json!({"name": "Ann", "email": format!("u{row}@example.com")})).collect();
    import(&app, "", &rows).await;
    eventually("all events", || async { (number_of(&latest(&app).await) == 1800).then_some(()) }).await;
    // The sweeper runs every 30 seconds.
    let begin = Instant::now();
    let earliest = loop {
        app.get("/users/changes?after=earliest&limit=1").await;
        let earliest = app.get("/feed").await.json()["earliest"].as_str().unwrap().to_owned();
        if number_of(&earliest) == 800 {
            break earliest;
        }
        assert!(begin.elapsed() < Duration::from_mins(2), "{earliest}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let first = &changes(&app, "after=earliest&limit=1").await[0];
    assert_eq!(number_of(first["position"].as_str().unwrap()), 801);
    let (epoch, _) = earliest.split_once('.').unwrap();
    app.get(&format!("/users/changes?after={epoch}.799")).await.problem(410, "position-gone");
    let direct = connect(&url).await;
    assert_eq!(number(&direct, "SELECT COUNT(*) FROM users_journal").await.unwrap(), 1800, "the journal keeps them");
    if context.engine() != Engine::Sqlite {
        assert_eq!(number(&direct, "SELECT COUNT(*) FROM users_feed_positions").await.unwrap(), 1000);
        assert_eq!(number(&direct, "SELECT COUNT(*) FROM users_feed_pending").await.unwrap(), 0);
    }
    direct.close().await.unwrap();
}

async fn a_disabled_feed_ends_the_epoch(context: Context) {
    let url = context.database().await;
    let app = context.app_on(&url, &[]).await;
    app.create("Ann", "ann@example.com").await;
    let end = eventually("the event", || async { Some(latest(&app).await).filter(|end| number_of(end) == 1) }).await;
    app.stop().await.unwrap().unwrap();
    let app = context.app_on(&url, &[("feed.enabled", "false")]).await;
    for path in ["/users/changes", "/feed"] {
        app.get(path).await.problem(404, "not-found");
    }
    app.create("Ben", "ben@example.com").await;
    assert!(!app.get("/users").await.headers.contains_key("feed-position"));
    let direct = connect(&url).await;
    if context.engine() != Engine::Sqlite {
        assert_eq!(number(&direct, "SELECT COUNT(*) FROM users_feed_pending").await.unwrap(), 0, "it costs nothing");
    }
    eventually("the epoch has ended", || async {
        (number(&direct, "SELECT COUNT(*) FROM users_feed WHERE epoch = ''").await.unwrap() == 1).then_some(())
    })
    .await;
    direct.close().await.unwrap();
    app.stop().await.unwrap().unwrap();
    let app = context.app_on(&url, &[]).await;
    app.get(&format!("/users/changes?after={end}")).await.problem(410, "position-gone");
    let (mut stream, first) = EventStream::open(&app, "", &end).await;
    assert_eq!((first.event.as_str(), &first.json()["reason"]), ("resync", &json!("epoch")));
    let cem = app.create("Cem", "cem@example.com").await;
    assert_eq!(stream.event().await["data"], cem);
}

/// As after the end of a process whose clients all connect to another one.
async fn clients_that_continue_at_once_share_reads(context: Context) {
    const CLIENTS: u64 = 100;
    // Readiness checks and metrics run no operations; a longer interval of polls leaves only the clients' reads.
    let app = context.app_on(&context.database().await, &[("feed.poll", "5s")]).await;
    for number in 0..3 {
        app.create("Ann", &format!("ann{number}@example.com")).await;
    }
    let end = eventually("three events", || async { Some(latest(&app).await).filter(|end| number_of(end) == 3) }).await;
    let (_first, _) = EventStream::open(&app, "", &end).await;
    let operations = || async { app.pool().await["counters"]["operations"].as_u64().unwrap() };
    let (before, began) = (operations().await, Instant::now());
    let mut streams = Vec::new();
    for _ in 0..CLIENTS {
        streams.push(EventStream::open(&app, "", &end).await.0);
    }
    let reads = operations().await - before;
    // One for each 100 ms, and those of polls. A machine that needs longer for a client needs a read for it.
    let allowed = u64::try_from(began.elapsed().as_millis()).unwrap() / 100 + 5;
    assert!(reads <= allowed, "{reads} reads, {allowed} are allowed");
    let user = app.create("Ben", "ben@example.com").await;
    for stream in &mut streams {
        assert_eq!(stream.event().await["data"], user);
    }
}
