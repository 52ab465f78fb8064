//! The live feed: `GET /users/changes` and `Feed-Position`.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    cases,
    harness::{App, Context, EventStream, Reply, binary, eventually},
};

cases![
    every_change_is_an_event_on_every_process,
    a_stream_continues_after_a_position,
    batches_wait_and_continue,
    ndjson_ends_with_the_latest_event,
    events_are_filtered,
    reads_have_the_position_before_them,
];

pub fn position(reply: &Reply) -> String {
    reply.header("feed-position").to_owned()
}

/// The position of a process, once it has read the database.
pub async fn latest(app: &App) -> String {
    position(&app.get("/users/changes").await)
}

pub async fn changes(app: &App, query: &str) -> Vec<Value> {
    let reply = app.get(&format!("/users/changes?{query}")).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.header("content-type"), "application/cloudevents-batch+json");
    reply.json().as_array().unwrap().clone()
}

pub fn number_of(position: &str) -> u64 {
    position.split_once('.').unwrap().1.parse().unwrap()
}

pub async fn import(app: &App, query: &str, rows: &[Value]) {
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
