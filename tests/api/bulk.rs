//! Many users at a time: rows in, lines out.

use std::{fmt::Write as _, time::Duration};

use reqwest::Method;
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::{
    cases,
    harness::{App, Context, Engine, Locked, Proxy, Reply, Service, Upload, connect, eventually, number},
};

cases![
    every_row_has_its_line,
    an_upsert_writes_what_is_new,
    an_upsert_survives_the_end_of_the_row_it_meets,
    a_dry_run_changes_nothing,
    all_or_none,
    lines_come_as_rows_are_done,
    what_cannot_be_rows_is_refused,
    a_body_that_breaks_off_leaves_no_half_row,
    what_is_told_of_a_row_has_bounds,
    a_dry_run_knows_its_own_rows,
    rows_are_listed_as_they_came,
    what_goes_wrong_is_told_by_its_request,
    an_outage_is_told_by_the_last_line,
    a_stop_is_told_by_the_last_line,
];

pub const NDJSON: &str = "application/x-ndjson";

pub async fn bulk(app: &App, query: &str, media_type: &str, key: Option<&str>, body: impl Into<String>) -> Reply {
    let mut request = app.request(Method::POST, &format!("/users/bulk{query}")).header("content-type", media_type);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    Reply::of(request.body(body.into())).await
}

pub fn rows(numbers: std::ops::Range<usize>) -> String {
    let mut text = String::new();
    for number in numbers {
        writeln!(text, r#"{{"name":"User {number}","email":"user{number}@example.com"}}"#).unwrap();
    }
    text
}

pub fn lines(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.header("content-type"), NDJSON, "{}", reply.text);
    reply.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// `line outcome` of each line, and the code of its problem.
pub fn told(reply: &Reply) -> Vec<String> {
    lines(reply).iter().map(in_words).collect()
}

pub fn in_words(line: &Value) -> String {
    let code = line["problem"]["code"].as_str().map_or(String::new(), |code| format!(" {code}"));
    format!("{} {}{code}", line["line"], line["outcome"].as_str().unwrap())
}

pub async fn count(app: &App) -> u64 {
    app.get("/users?limit=1&count=exact").await.header("x-total-count").parse().unwrap()
}

async fn every_row_has_its_line(context: Context) {
    let app = context.app().await;
    app.create("Ann", "ann@example.com").await;
    let body = concat!(
        "{\"name\":\"Bob\",\"email\":\"bob@example.com\"}\n",
        "\n",
        "{\"name\":\"Bobby\",\"email\":\"BOB@example.com\"}\n",
        "{\"name\":\"\",\"email\":\"x\",\"age\":7}\n",
        "{\"name\":\"Anna\",\"email\":\"Ann@example.com\"}\n",
        "no JSON\n",
        "{\"name\":\"Carl\",\"email\":\"carl@example.com\"}",
    );
    let reply = bulk(&app, "", NDJSON, None, body).await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        told(&reply),
        [
            "1 created",
            "3 refused email-taken",
            "4 refused validation-failed",
            "5 refused email-taken",
            "6 refused validation-failed",
            "7 created",
        ]
    );
    let lines = lines(&reply);
    let bob = app.get(&format!("/users/{}", lines[0]["id"].as_str().unwrap())).await.json();
    assert_eq!((&bob["name"], &bob["version"]), (&json!("Bob"), &json!(1)), "the first of two comes first");
    let faults: Vec<_> = lines[2]["problem"]["errors"].as_array().unwrap().iter().map(|it| &it["pointer"]).collect();
    assert_eq!(faults, ["/name", "/email", "/age"], "all faults of a row at once");

    // Old Macs end lines so; each is counted.
    let reply = bulk(&app, "", "text/csv", None, "name,email\rAnn,\r\nBob,\r\rCarl,\n\rDan,").await;
    let faulty = ["2 refused", "3 refused", "5 refused", "7 refused"].map(|line| format!("{line} validation-failed"));
    assert_eq!(told(&reply), faulty);

    let csv = "email,name\r\nd@example.com,\"D, the 4th\"\r\ne@example.com\r\nf@example.com,'=F\r\n";
    let reply = bulk(&app, "", "text/csv; charset=utf-8", None, csv).await;
    assert_eq!(told(&reply), ["2 created", "3 refused validation-failed", "4 created"]);
    assert_eq!(app.get("/users?email=f@example.com").await.json()[0]["name"], "=F");

    let reply = bulk(&app, "", NDJSON, None, rows(0..2500)).await;
    let expected: Vec<String> = (1..=2500).map(|line| format!("{line} created")).collect();
    assert_eq!(told(&reply), expected);
    assert_eq!(count(&app).await, 2505);
    assert_eq!(bulk(&app, "", NDJSON, None, "").await.text, "");
}

/// The row that keeps the email is locked when it is found to be taken, and deleted when it is to be written over.
async fn an_upsert_survives_the_end_of_the_row_it_meets(context: Context) {
    if context.engine() != Engine::Postgres {
        // Only PostgreSQL finds a taken key without waiting for who holds its row.
        return;
    }
    let app = context.app().await;
    app.create("Ann", "ann@example.com").await;
    let outside = connect(&app.url).await;
    outside.execute_unprepared("BEGIN").await.unwrap();
    outside.execute_unprepared("SELECT id FROM users FOR UPDATE").await.unwrap();
    let upsert = {
        let app = app.clone();
        let body = "{\"name\":\"Anna\",\"email\":\"ann@example.com\"}\n";
        tokio::spawn(async move { bulk(&app, "?mode=upsert&atomic=true", NDJSON, None, body).await })
    };
    let waits = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    eventually("it waits for the row", || async { (number(&outside, waits).await.unwrap() > 0).then_some(()) }).await;
    outside.execute_unprepared("DELETE FROM users").await.unwrap();
    outside.execute_unprepared("COMMIT").await.unwrap();
    outside.close().await.unwrap();
    assert_eq!(told(&upsert.await.unwrap()), ["1 created"]);
}

async fn an_upsert_writes_what_is_new(context: Context) {
    let app = context.app().await;
    let ann = app.create("Ann", "ann@example.com").await;
    let body = concat!(
        "{\"name\":\"Ann\",\"email\":\"ann@example.com\"}\n",
        "{\"name\":\"Anna\",\"email\":\"Ann@example.com\"}\n",
        "{\"name\":\"Bob\",\"email\":\"bob@example.com\"}\n",
        "{\"name\":\"Bob\",\"email\":\"bob@example.com\"}\n",
        "{\"name\":\"Bobby\",\"email\":\"bob@example.com\"}\n",
    );
    let reply = bulk(&app, "?mode=upsert", NDJSON, None, body).await;
    assert_eq!(told(&reply), ["1 unchanged", "2 updated", "3 created", "4 unchanged", "5 updated"]);
    let lines = lines(&reply);
    assert_eq!((&lines[0]["id"], &lines[1]["id"], &lines[2]["id"]), (&ann["id"], &ann["id"], &lines[4]["id"]));
    let now = app.get(&format!("/users/{}", ann["id"].as_str().unwrap())).await.json();
    assert_eq!((&now["name"], &now["email"], &now["version"]), (&json!("Anna"), &json!("Ann@example.com"), &json!(2)));
    assert_eq!(now["createdAt"], ann["createdAt"]);
    assert_eq!(app.get("/users?name=bobby").await.ids().len(), 1, "it is found by its new name");
    let again = bulk(&app, "?mode=upsert", NDJSON, None, rows(0..1500)).await;
    assert!(told(&again).iter().all(|line| line.ends_with("created")));
    let again = bulk(&app, "?mode=upsert", NDJSON, None, rows(0..1500)).await;
    assert!(told(&again).iter().all(|line| line.ends_with("unchanged")));
}

async fn a_dry_run_changes_nothing(context: Context) {
    let app = context.app().await;
    app.create("Ann", "ann@example.com").await;
    let before = app.get("/users").await.text;
    let body = concat!(
        "{\"name\":\"Anna\",\"email\":\"ann@example.com\"}\n",
        "{\"name\":\"Bob\",\"email\":\"bob@example.com\"}\n",
    );
    for (mode, outcome) in [("insert", "refused email-taken"), ("upsert", "updated")] {
        for atomic in ["false", "true"] {
            let query = format!("?dryRun=true&mode={mode}&atomic={atomic}");
            let reply = bulk(&app, &query, NDJSON, Some("a-key"), body).await;
            let second = if mode == "insert" && atomic == "true" { "2 undone" } else { "2 created" };
            assert_eq!(told(&reply), [format!("1 {outcome}"), second.to_owned()], "{query}");
            assert!(lines(&reply)[1]["id"].is_null(), "what is not there has no id");
            assert_eq!(app.get("/users").await.text, before);
        }
    }
}

async fn all_or_none(context: Context) {
    let app = context.app().await;
    app.create("Ann", "ann@example.com").await;
    for (wrong, code) in
        [("{\"name\":\"Ann\",\"email\":\"ann@example.com\"}\n", "email-taken"), ("{}\n", "validation-failed")]
    {
        let reply = bulk(&app, "?atomic=true", NDJSON, None, rows(0..2) + wrong + &rows(2..3)).await;
        assert_eq!(reply.status, 422);
        assert_eq!(
            told(&reply),
            ["1 undone".to_owned(), "2 undone".to_owned(), format!("3 refused {code}"), "4 undone".to_owned()]
        );
        assert_eq!(count(&app).await, 1);
    }
    let first = bulk(&app, "?atomic=true", NDJSON, Some("whole"), rows(0..1200)).await;
    assert_eq!((first.status.as_u16(), told(&first).len(), count(&app).await), (200, 1200, 1201));
    let again = bulk(&app, "?atomic=true", NDJSON, Some("whole"), rows(0..1200)).await;
    assert_eq!((again.header("idempotency-replayed"), &again.text), ("true", &first.text));
    // As many as there may be, and one more; the last line may have no end.
    for (mode, outcome) in [("insert", "created"), ("upsert", "unchanged")] {
        let most = bulk(&app, &format!("?atomic=true&mode={mode}"), NDJSON, None, rows(2000..12_000)).await;
        assert_eq!((most.status.as_u16(), told(&most).len()), (200, 10_000), "{}", &most.text[..200]);
        assert!(told(&most).iter().all(|line| line.ends_with(outcome)));
    }
    for many in [rows(20_000..30_001), rows(20_000..30_001).trim_end().to_owned()] {
        bulk(&app, "?atomic=true", NDJSON, None, many).await.problem(413, "payload-too-large");
    }
    assert_eq!(count(&app).await, 11_201);
}

async fn what_is_told_of_a_row_has_bounds(context: Context) {
    let app = context.app().await;
    let mut row = r#"{"name":"Ann","email":"ann@example.com""#.to_owned();
    for number in 0..150 {
        write!(row, r#","{}{number}":1"#, "~".repeat(90)).unwrap();
    }
    row.push_str("}\n");
    let reply = bulk(&app, "", NDJSON, Some("key"), row.repeat(1000)).await;
    let again = bulk(&app, "", NDJSON, Some("key"), row.repeat(1000)).await;
    assert_eq!((told(&reply).len(), &again.text), (1000, &reply.text));
    assert_eq!(lines(&reply)[0]["problem"]["errors"].as_array().unwrap().len(), 10);
    assert!(reply.text.len() < 4_000_000, "{}", reply.text.len());
    // Neither is a row what merely looks like one.
    let reply = bulk(&app, "", NDJSON, None, "[\"Ann\",\"ann@example.com\"]\n").await;
    assert_eq!(told(&reply), ["1 refused validation-failed"]);
    assert_eq!(count(&app).await, 0);
}

async fn a_dry_run_knows_its_own_rows(context: Context) {
    let app = context.app().await;
    let body = rows(0..2500) + &rows(7..8) + "{\"name\":\"\",\"email\":\"user2600@example.com\"}\n" + &rows(2600..2601);
    let tried = told(&bulk(&app, "?dryRun=true", NDJSON, None, body.as_str()).await);
    assert_eq!(tried[2500..], ["2501 refused email-taken", "2502 refused validation-failed", "2503 created"]);
    assert_eq!(count(&app).await, 0);
    assert_eq!(told(&bulk(&app, "", NDJSON, None, body).await), tried);
}

async fn rows_are_listed_as_they_came(context: Context) {
    let app = context.app().await;
    bulk(&app, "", NDJSON, None, rows(0..2500)).await;
    let listed = app.get("/users/export?fields=email").await.text;
    let expected: String = (0..2500).map(|number| format!("{{\"email\":\"user{number}@example.com\"}}\n")).collect();
    assert_eq!(listed, expected);
}

async fn what_goes_wrong_is_told_by_its_request(context: Context) {
    let url = context.database().await;
    let variables = [("DATABASE_URL", url.as_str()), ("USERS_API__POOL__ACQUIRE", "60s")];
    let service = Service::start(context.folder(), &variables).await;
    let app = App::at(service.address, &url);
    let headers = "content-type: application/x-ndjson\r\nx-request-id: import-7\r\n";
    let mut upload = Upload::begin(app.address, "/users/bulk?answer=stream", headers).await;
    upload.send(&rows(0..3)).await;
    assert_eq!(upload.lines(3).await.len(), 3);
    let lock = Locked::users(&context, &url).await;
    upload.send(&rows(3..6)).await;
    let pool = app.pool_until("it is at work", |pool| pool["inUse"] == 1).await;
    assert_eq!(pool["longestHolders"][0]["request"], "import-7", "{pool}");
    lock.unlock().await;
    assert_eq!(upload.lines(6).await.len(), 6);
    let database = connect(&url).await;
    database.execute_unprepared("ALTER TABLE users RENAME TO away").await.unwrap();
    database.close().await.unwrap();
    upload.send(&rows(6..9)).await;
    upload.finish().await;
    let lines = upload.end().await;
    assert_eq!(in_words(&serde_json::from_str(&lines[6]).unwrap()), "7 stopped internal");
    let told = eventually("it is told", || async {
        service.log().into_iter().find(|line| line["message"] == "answer broken off")
    })
    .await;
    assert_eq!((&told["level"], &told["request_id"]), (&json!("ERROR"), &json!("import-7")), "{told}");
    assert_eq!((&told["code"], &told["route"]), (&json!("internal"), &json!("/users/bulk")), "{told}");
    assert!(told["error"].as_str().unwrap().contains("users"), "{told}");
}

async fn lines_come_as_rows_are_done(context: Context) {
    let app = context.app().await;
    let mut upload =
        Upload::begin(app.address, "/users/bulk?answer=stream", "content-type: application/x-ndjson\r\n").await;
    for round in 0..3 {
        upload.send(&rows(round * 5..round * 5 + 5)).await;
        // The body goes on; the lines are here.
        assert_eq!(upload.lines(round * 5 + 5).await.len(), round * 5 + 5);
        assert_eq!(count(&app).await, round as u64 * 5 + 5);
    }
    upload.send("{\"name\":\"Ann\",\"email\":").await;
    upload.send("\"ann@example.com\"}").await;
    upload.finish().await;
    let lines = upload.end().await;
    assert_eq!(lines.len(), 16);
    assert_eq!(in_words(&serde_json::from_str(&lines[15]).unwrap()), "16 created");
}

async fn what_cannot_be_rows_is_refused(context: Context) {
    let app = context.app().await;
    let row = rows(0..1);
    for media_type in ["application/json", "text/plain", "text/csv; charset=latin1", ""] {
        bulk(&app, "", media_type, None, row.as_str()).await.problem(415, "unsupported-media-type");
    }
    for (query, parameter) in
        [("?mode=replace", "mode"), ("?dryRun=1", "dryRun"), ("?atomic=", "atomic"), ("?limit=1", "limit")]
    {
        let problem = bulk(&app, query, NDJSON, None, row.as_str()).await.problem(400, "invalid-query");
        assert_eq!(problem["errors"][0]["parameter"], parameter);
    }
    bulk(&app, "", NDJSON, Some("\"open"), row.as_str()).await.problem(400, "invalid-idempotency-key");
    for (csv, part) in [("", "no header"), ("name\nAnn\n", "email"), ("name,email,phone\n", "phone")] {
        let problem = bulk(&app, "", "text/csv", None, csv).await.problem(422, "validation-failed");
        assert!(problem["detail"].as_str().unwrap().contains(part), "{problem}");
    }
    app.get("/users/bulk").await.problem(405, "method-not-allowed");
    let post = app.post("/users/export", &json!({})).await;
    post.problem(405, "method-not-allowed");
    assert_eq!(post.header("allow"), "GET, HEAD");
    let export = Reply::of(app.request(Method::GET, "/users/export").header("accept", "image/png")).await;
    export.problem(406, "not-acceptable");
    app.get("/users/export?limit=5").await.problem(400, "invalid-query");
    app.get("/users/export?cursor=x").await.problem(400, "invalid-cursor");
    assert_eq!(count(&app).await, 0);
}

async fn a_body_that_breaks_off_leaves_no_half_row(context: Context) {
    let app = context.app().await;
    let mut upload =
        Upload::begin(app.address, "/users/bulk?answer=stream", "content-type: application/x-ndjson\r\n").await;
    // What has come of the last row would be one.
    upload.send(&(rows(0..3) + "{\"name\":\"Ann\",\"email\":\"ann@example.com\"}")).await;
    assert_eq!(upload.lines(3).await.len(), 3);
    drop(upload);
    let mut upload =
        Upload::begin(app.address, "/users/bulk?answer=stream", "content-type: application/x-ndjson\r\n").await;
    upload.send(&rows(3..4)).await;
    upload.finish().await;
    assert_eq!(upload.end().await.len(), 1);
    assert_eq!(count(&app).await, 4);
}

async fn an_outage_is_told_by_the_last_line(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let app = context.app_on(&url, &[("pool.outage_wait", "0s")]).await;
    let headers = "content-type: application/x-ndjson\r\n";
    let mut upload = Upload::begin(app.address, "/users/bulk?answer=stream", headers).await;
    upload.send(&rows(0..3)).await;
    assert_eq!(upload.lines(3).await.len(), 3);
    proxy.cut();
    app.pool_until("down", |pool| pool["state"] == "down").await;
    upload.send(&rows(3..6)).await;
    upload.finish().await;
    let lines = upload.end().await;
    let last: Value = serde_json::from_str(&lines[3]).unwrap();
    assert_eq!((lines.len(), in_words(&last).as_str()), (4, "4 stopped database-unavailable"));
    // One that has not begun is told by its status.
    bulk(&app, "", NDJSON, None, rows(3..6)).await.problem(503, "database-unavailable");
    app.get("/users/export").await.problem(503, "database-unavailable");
    proxy.mend();
    app.pool_until("up", |pool| pool["state"] == "up").await;
    assert_eq!(told(&bulk(&app, "", NDJSON, None, rows(3..6)).await).len(), 3);
    assert_eq!(count(&app).await, 6);
}

async fn a_stop_is_told_by_the_last_line(context: Context) {
    let app = context.app().await;
    let headers = "content-type: application/x-ndjson\r\n";
    let mut upload = Upload::begin(app.address, "/users/bulk?answer=stream", headers).await;
    upload.send(&rows(0..3)).await;
    assert_eq!(upload.lines(3).await.len(), 3);
    let stopping = {
        let app = app.clone();
        tokio::spawn(async move { app.stop().await })
    };
    // New connections are refused once it is on its way out.
    eventually("it does not listen", || async { TcpStream::connect(app.address).await.err() }).await;
    tokio::time::timeout(Duration::from_secs(20), async {
        let mut number = 3;
        while upload.lines(0).await.len() <= number {
            upload.send(&rows(number..number + 1)).await;
            number += 1;
            upload.lines(number).await;
            let lines = upload.lines(0).await;
            if lines.last().unwrap().contains("stopped") {
                break;
            }
        }
    })
    .await
    .unwrap();
    upload.finish().await;
    let lines = upload.end().await;
    let last: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    assert_eq!(in_words(&last), format!("{} stopped shutting-down", lines.len()));
    stopping.await.unwrap().unwrap().unwrap();
    let app = context.app_on(&app.url, &[]).await;
    assert_eq!(count(&app).await, lines.len() as u64 - 1, "what was told of is there, and nothing else");
}
