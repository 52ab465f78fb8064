//! The live feed: `GET /users/changes` and `Feed-Position`.

use std::time::{Duration, Instant};

use reqwest::Method;
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};

use crate::{
    auth::{REFRESHED, get, key, migrated, printed, with_key},
    cases,
    harness::{App, Context, Engine, EventStream, Reply, Service, binary, connect, eventually, number},
};

cases![
    every_change_is_an_event_on_every_process,
    a_stream_continues_after_a_position,
    batches_wait_and_continue,
    ndjson_ends_with_the_latest_event,
    events_are_filtered,
    reads_have_the_position_before_them,
    positions_that_are_gone_are_reported,
    a_restored_database_is_detected,
    a_deletion_erases_earlier_events,
    old_events_expire,
    a_disabled_feed_ends_the_epoch,
    a_revoked_key_ends_its_streams,
    a_shutdown_ends_the_streams,
    an_outage_delays_events,
    notifications_of_postgres_save_the_poll,
];

fn position(reply: &Reply) -> String {
    reply.header("feed-position").to_owned()
}

/// The position of a process, once it has read the database.
async fn latest(app: &App) -> String {
    position(&app.get("/users/changes").await)
}

async fn changes(app: &App, query: &str) -> Vec<Value> {
    let reply = app.get(&format!("/users/changes?{query}")).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.header("content-type"), "application/cloudevents-batch+json");
    reply.json().as_array().unwrap().clone()
}

fn number_of(position: &str) -> u64 {
    position.split_once('.').unwrap().1.parse().unwrap()
}

async fn import(app: &App, query: &str, rows: &[Value]) {
    let body: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let request = app.request(Method::POST, &format!("/users/bulk?{query}")).body(body);
    assert_eq!(Reply::of(request.header("content-type", "application/x-ndjson")).await.status, 200);
}

async fn every_change_is_an_event_on_every_process(context: Context) {
    let url = context.database().await;
    let (writer, reader) = (context.app_on(&url, &[]).await, context.app_on(&url, &[]).await);
    let (mut near, _) = EventStream::open(&writer, "", "").await;
    let (mut far, _) = EventStream::open(&reader, "", "").await;
    let ann = writer.create("Ann", "ann@example.com").await;
    let path = format!("/users/{}", ann["id"].as_str().unwrap());
    let patched = writer.patch(&path, &json!({"name": "Anna"})).await.json();
    writer.patch(&path, &json!({"name": "Anna"})).await;
    writer.post("/users", &json!({"name": "Ben", "email": "ann@example.com"})).await.problem(409, "email-taken");
    let keyed = |app: &App| app.request(Method::POST, "/users").header("idempotency-key", "\"k\"");
    let ben = json!({"name": "Ben", "email": "ben@example.com"});
    for _ in 0..2 {
        assert_eq!(Reply::of(keyed(&writer).json(&ben)).await.status, 201);
    }
    let rows =
        [json!({"name": "Ben B", "email": "Ben@example.com"}), json!({"name": "Cem", "email": "cem@example.com"})];
    import(&writer, "mode=upsert", &rows).await;
    import(&writer, "dryRun=true", &[json!({"name": "Dan", "email": "dan@example.com"})]).await;
    let mut events = Vec::new();
    for _ in 0..5 {
        let event = near.event().await;
        assert_eq!(far.event().await, event, "all processes have the same order");
        events.push(event);
    }
    assert_eq!(writer.delete(&path).await.status, 204);
    let file = context.folder().join("import.csv");
    std::fs::write(&file, "name,email\nEve,eve@example.com\n").unwrap();
    let imported = binary(context.folder(), &[("DATABASE_URL", &url)]).arg("import").arg(&file).output().await.unwrap();
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));

    for _ in 0..2 {
        let event = near.event().await;
        assert_eq!(far.event().await, event);
        events.push(event);
    }
    let described: Vec<String> = events
        .iter()
        .map(|event| {
            format!("{} {} {}", event["type"], event["data"]["version"], event["data"]["name"]).replace('"', "")
        })
        .collect();
    let (upserted, inserted) = if described[3].contains("Cem") { (4, 3) } else { (3, 4) };
    assert_eq!(described[..3], ["user.created 1 Ann", "user.updated 2 Anna", "user.created 1 Ben"]);
    assert_eq!((&*described[upserted], &*described[inserted]), ("user.updated 2 Ben B", "user.created 1 Cem"));
    assert_eq!(described[5..], ["user.deleted 3 null", "user.created 1 Eve"]);
    assert_eq!(events[1]["data"], patched, "the user as GET returns it");
    let numbers: Vec<u64> = events.iter().map(|event| number_of(event["position"].as_str().unwrap())).collect();
    assert_eq!(numbers, (numbers[0]..).take(7).collect::<Vec<_>>(), "without gaps");
    let first = &events[0];
    assert_eq!((&first["specversion"], &first["source"]), (&json!("1.0"), &json!("/users")), "{first}");
    assert_eq!((&first["subject"], &first["time"]), (&ann["id"], &ann["createdAt"]), "{first}");
    assert_eq!(
        (&first["id"], &first["actor"]),
        (&json!(format!("{}.1", ann["id"].as_str().unwrap())), &json!("anyone"))
    );
    assert_eq!(events[6]["actor"].as_str().unwrap()[..4], *"cli:");
}

async fn a_stream_continues_after_a_position(context: Context) {
    // A ring of the minimum size, so that most events come from the database.
    let app = context.app_with(&[("feed.ring", "1MiB")]).await;
    let (mut stream, first) = EventStream::open(&app, "", "").await;
    let rows: Vec<Value> =
        (0..3000).map(|row| json!({"name": format!("User {row}"), "email": format!("u{row}@example.com")})).collect();
    import(&app, "", &rows).await;
    let mut ids = Vec::new();
    let mut middle = String::new();
    for index in 0..rows.len() {
        let event = stream.event().await;
        if index == 700 {
            event["position"].as_str().unwrap().clone_into(&mut middle);
        }
        ids.push(event["id"].clone());
    }
    let status = app.get("/feed").await.json();
    assert!(status["ring"]["events"].as_u64().unwrap() < 2000, "{status}");
    for (after, skipped) in [(first.id.as_str(), 0), (&middle, 701)] {
        let (mut again, _) = EventStream::open(&app, "?after=now", after).await;
        for id in &ids[skipped..] {
            assert_eq!(again.event().await["id"], *id);
        }
    }
    let limited = app.request(Method::GET, &format!("/users/changes?limit=5&after={middle}"));
    let mut limited = EventStream::of(limited).await.unwrap();
    for id in &ids[701..706] {
        assert_eq!(limited.event().await["id"], *id);
    }
    assert_eq!(limited.next().await, None, "five events were requested");
}

async fn batches_wait_and_continue(context: Context) {
    let app = context.app_with(&[("server.request_timeout", "1s")]).await;
    let begin = latest(&app).await;
    let waiting = tokio::spawn({
        let (app, path) = (app.clone(), format!("/users/changes?wait=30s&after={begin}"));
        async move { app.get(&path).await }
    });
    eventually("the client waits", || async { (app.get("/feed").await.json()["subscribers"] == 1).then_some(()) })
        .await;
    // Longer than a request may take: the wait has its own limit.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let ann = app.create("Ann", "ann@example.com").await;
    let reply = waiting.await.unwrap();
    assert_eq!((reply.json().as_array().unwrap().len(), &reply.json()[0]["data"]), (1, &ann), "{}", reply.text);
    assert_eq!(reply.json()[0]["position"], position(&reply));
    for number in 0..5 {
        app.create("Ben", &format!("ben{number}@example.com")).await;
    }
    let mut after = position(&reply);
    let mut emails = Vec::new();
    loop {
        let reply = app.get(&format!("/users/changes?limit=2&after={after}")).await;
        let events = reply.json();
        if events == json!([]) {
            assert_eq!(position(&reply), after);
            break;
        }
        assert!(events.as_array().unwrap().len() <= 2);
        emails.extend(events.as_array().unwrap().iter().map(|event| event["data"]["email"].clone()));
        after = position(&reply);
    }
    assert_eq!(emails, (0..5).map(|number| json!(format!("ben{number}@example.com"))).collect::<Vec<_>>());
    let asked = Instant::now();
    assert_eq!(changes(&app, &format!("wait=1s&after={after}")).await, [] as [Value; 0]);
    assert!(asked.elapsed() >= Duration::from_secs(1), "it waits");
    for query in ["wait=31s", "limit=0", "limit=1001", "after=x", "types=user.gone", "ids=x", "live=maybe", "since=1"] {
        app.get(&format!("/users/changes?{query}")).await.problem(400, "invalid-query");
    }
    let other = app.request(Method::GET, "/users/changes").header("accept", "text/csv");
    Reply::of(other).await.problem(406, "not-acceptable");
}

async fn ndjson_ends_with_the_latest_event(context: Context) {
    let app = context.app().await;
    for number in 0..3 {
        app.create("Ann", &format!("ann{number}@example.com")).await;
    }
    let request = |query: &str| app.request(Method::GET, &format!("/users/changes?after=earliest{query}"));
    let reply = Reply::of(request("").header("accept", "application/x-ndjson")).await;
    assert_eq!((reply.header("content-type"), reply.text.lines().count()), ("application/x-ndjson", 3));
    assert_eq!(number_of(&position(&reply)), 0, "where it begins");
    let none = Reply::of(request("&types=user.deleted").header("accept", "application/x-ndjson")).await;
    assert_eq!((none.status.as_u16(), none.text.as_str()), (200, ""));
    let mut live = request("&live=true").header("accept", "application/x-ndjson").send().await.unwrap();
    app.create("Ben", "ben@example.com").await;
    let mut received = String::new();
    while received.lines().count() < 4 {
        received += std::str::from_utf8(&live.chunk().await.unwrap().unwrap()).unwrap();
    }
    assert_eq!(received.lines().take(3).collect::<Vec<_>>(), reply.text.lines().collect::<Vec<_>>());
    assert!(received.contains("ben@example.com"), "{received}");
}

async fn events_are_filtered(context: Context) {
    let app = context.app().await;
    let mut ids = Vec::new();
    for number in 0..3 {
        let user = app.create("Ann", &format!("ann{number}@example.com")).await;
        ids.push(user["id"].as_str().unwrap().to_owned());
    }
    app.delete(&format!("/users/{}", ids[1])).await;
    let count = async |query: &str| changes(&app, &format!("after=earliest&{query}")).await.len();
    eventually("all events", || async { (count("").await == 4).then_some(()) }).await;
    assert_eq!(count(&format!("ids={}", ids[1])).await, 2);
    assert_eq!(count(&format!("ids={},{}", ids[0], ids[1])).await, 3);
    assert_eq!(count("types=user.deleted").await, 1);
    assert_eq!(count("types=user.created,user.deleted").await, 4);
    assert_eq!(count(&format!("ids={}&types=user.deleted", ids[0])).await, 0);
    // The position is behind the events that were not wanted.
    let none = app.get(&format!("/users/changes?after=earliest&types=user.deleted&ids={}", ids[0])).await;
    assert_eq!(number_of(&position(&none)), 4);
    let (mut stream, _) = EventStream::open(&app, "?types=user.updated", "").await;
    app.create("Ben", "ben@example.com").await;
    app.patch(&format!("/users/{}", ids[0]), &json!({"name": "Anna"})).await;
    assert_eq!(stream.event().await["subject"], ids[0].as_str());
}

async fn reads_have_the_position_before_them(context: Context) {
    let app = context.app().await;
    let begin = latest(&app).await;
    let ann = app.create("Ann", "ann@example.com").await;
    let id = ann["id"].as_str().unwrap();
    let after = format!("/users/changes?wait=30s&after={begin}");
    let end = position(&app.get(&after).await);
    for path in ["/users".to_owned(), format!("/users/{id}"), "/users/export".to_owned()] {
        let reply = app.get(&path).await;
        assert_eq!(position(&reply), end, "{path}");
    }
    app.create("Ben", "ben@example.com").await;
    // What is not in the list is in the feed after its position, even if the list is slow.
    let reply = app.get("/users").await;
    let listed = reply.json().as_array().unwrap().len();
    let events = changes(&app, &format!("after={}&wait=1s", position(&reply))).await;
    assert!(listed + events.len() >= 2, "{listed} {events:?}");
}

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
    for (after, reason) in
        [(format!("{epoch}.0"), "expired"), ("0123456789abcdef.2".to_owned(), "epoch"), (format!("{epoch}.4"), "ahead")]
    {
        for accept in ["application/json", "application/x-ndjson"] {
            let request = app.request(Method::GET, &format!("/users/changes?after={after}")).header("accept", accept);
            let reply = Reply::of(request).await;
            reply.problem(410, "position-gone");
            assert_eq!(position(&reply), end);
        }
        let (mut stream, first) = EventStream::open(&app, "", &after).await;
        assert_eq!((first.event.as_str(), first.id.as_str()), ("resync", end.as_str()));
        assert_eq!(first.json(), json!({"reason": reason, "position": end}));
        let user = app.create("Ben", &format!("{reason}@example.com")).await;
        assert_eq!(stream.event().await["data"], user, "the stream continues");
        let delete = format!("/users/{}", user["id"].as_str().unwrap());
        assert_eq!(app.delete(&delete).await.status, 204);
        if reason == "expired" {
            break;
        }
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
    printed(&context, &url, &["revoke", crate::auth::id_of(&reader)]).await;
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

async fn a_shutdown_ends_the_streams(context: Context) {
    let app = context.app_with(&[("feed.drain", "500ms")]).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(EventStream::open(&app, "", "").await);
    }
    let waiting = tokio::spawn({
        let app = app.clone();
        async move { app.get("/users/changes?wait=30s").await }
    });
    eventually("all clients", || async { (app.get("/feed").await.json()["subscribers"] == 21).then_some(()) }).await;
    let stopping = Instant::now();
    let stopped = tokio::spawn({
        let app = app.clone();
        async move { app.stop().await.unwrap() }
    });
    for (stream, _) in &mut streams {
        while stream.next().await.is_some() {}
    }
    assert_eq!((waiting.await.unwrap().json(), stopped.await.unwrap().is_ok()), (json!([]), true));
    assert!(stopping.elapsed() < Duration::from_secs(15), "the streams did not delay it until its limit");
}

async fn an_outage_delays_events(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let url = migrated(&context).await;
    let (proxy, proxied) = crate::harness::Proxy::before(&url).await;
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
    let (proxy, proxied) = crate::harness::Proxy::before(&url).await;
    let (writer, reader) = (context.app_on(&url, &settings).await, context.app_on(&proxied, &settings).await);
    let doorbell = async |app: &App| app.get("/feed").await.json()["doorbell"].clone();
    for app in [&writer, &reader] {
        eventually("it listens", || async { (doorbell(app).await["connected"] == true).then_some(()) }).await;
    }
    let (mut stream, _) = EventStream::open(&reader, "", "").await;
    for number in 0..3 {
        let user = writer.create("Ann", &format!("ann{number}@example.com")).await;
        assert_eq!(stream.event().await["data"], user);
    }
    assert!(doorbell(&reader).await["rings"].as_u64().unwrap() >= 2);
    assert_eq!(doorbell(&writer).await["rings"], 1, "it does not hear itself");
    // The connection breaks; what happens in the meantime is read when it listens again.
    proxy.cut();
    eventually("it is disconnected", || async { (doorbell(&reader).await["connected"] == false).then_some(()) }).await;
    let user = writer.create("Ben", "ben@example.com").await;
    proxy.restore();
    assert_eq!(stream.event().await["data"], user);
    let cem = writer.create("Cem", "cem@example.com").await;
    assert_eq!(stream.event().await["data"], cem);
}
