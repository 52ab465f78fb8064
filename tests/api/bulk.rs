//! Bulk imports: each row of the request gets a result line in the response.

use std::{fmt::Write as _, time::Duration};

use reqwest::Method;
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::{
    cases,
    harness::{
        App, Context, Engine, Locked, Proxy, Reply, Service, Upload,
        bulk::{NDJSON, bulk, count, lines, outcome_of, outcomes, rows},
        connect, eventually, number,
    },
};

cases![
    every_row_gets_a_result_line,
    an_upsert_writes_only_new_and_changed_users,
    an_upsert_inserts_if_the_conflicting_row_is_deleted,
    a_dry_run_changes_nothing,
    an_atomic_import_writes_all_rows_or_none,
    result_lines_are_streamed_while_the_body_is_sent,
    invalid_requests_are_rejected,
    an_interrupted_body_does_not_write_its_unterminated_last_row,
    the_number_of_validation_errors_per_row_is_limited,
    a_dry_run_detects_duplicates_within_the_import,
    imported_users_are_listed_in_input_order,
    pool_and_log_identify_an_import_by_its_request_id,
    an_outage_is_reported_in_the_last_line,
    a_shutdown_is_reported_in_the_last_line,
];

async fn every_row_gets_a_result_line(context: Context) {
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
        outcomes(&reply),
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
    assert_eq!((&bob["name"], &bob["version"]), (&json!("Bob"), &json!(1)), "the first of two equal emails wins");
    let errors = lines[2]["problem"]["errors"].as_array().unwrap();
    let pointers: Vec<_> = errors.iter().map(|error| &error["pointer"]).collect();
    assert_eq!(pointers, ["/name", "/email", "/age"], "all validation errors of a row are reported");

    // A lone CR (classic Mac OS) ends a line, too. Empty lines are counted.
    let reply = bulk(&app, "", "text/csv", None, "name,email\rAnn,\r\nBob,\r\rCarl,\n\rDan,").await;
    let expected = ["2 refused", "3 refused", "5 refused", "7 refused"].map(|line| format!("{line} validation-failed"));
    assert_eq!(outcomes(&reply), expected);

    let csv = "email,name\r\nd@example.com,\"D, the 4th\"\r\ne@example.com\r\nf@example.com,'=F\r\n";
    let reply = bulk(&app, "", "text/csv; charset=utf-8", None, csv).await;
    assert_eq!(outcomes(&reply), ["2 created", "3 refused validation-failed", "4 created"]);
    assert_eq!(app.get("/users?email=f@example.com").await.json()[0]["name"], "=F");

    let reply = bulk(&app, "", NDJSON, None, rows(0..2500)).await;
    let expected: Vec<String> = (1..=2500).map(|line| format!("{line} created")).collect();
    assert_eq!(outcomes(&reply), expected);
    assert_eq!(count(&app).await, 2505);
    assert_eq!(bulk(&app, "", NDJSON, None, "").await.text, "");
}

/// The row with the same email is locked when the upsert finds the conflict, and deleted before the upsert updates it.
async fn an_upsert_inserts_if_the_conflicting_row_is_deleted(context: Context) {
    if context.engine() != Engine::Postgres {
        // Only PostgreSQL detects a duplicate key without waiting for the lock of its row.
        return;
    }
    let app = context.app().await;
    app.create("Ann", "ann@example.com").await;
    let other_session = connect(&app.url).await;
    other_session.execute_unprepared("BEGIN").await.unwrap();
    other_session.execute_unprepared("SELECT id FROM users FOR UPDATE").await.unwrap();
    let upsert = {
        let app = app.clone();
        let body = "{\"name\":\"Anna\",\"email\":\"ann@example.com\"}\n";
        tokio::spawn(async move { bulk(&app, "?mode=upsert&atomic=true", NDJSON, None, body).await })
    };
    let waits = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let is_waiting = || async { (number(&other_session, waits).await.unwrap() > 0).then_some(()) };
    eventually("the upsert waits for the row lock", is_waiting).await;
    other_session.execute_unprepared("DELETE FROM users").await.unwrap();
    other_session.execute_unprepared("COMMIT").await.unwrap();
    other_session.close().await.unwrap();
    assert_eq!(outcomes(&upsert.await.unwrap()), ["1 created"]);
}

async fn an_upsert_writes_only_new_and_changed_users(context: Context) {
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
    assert_eq!(outcomes(&reply), ["1 unchanged", "2 updated", "3 created", "4 unchanged", "5 updated"]);
    let lines = lines(&reply);
    assert_eq!((&lines[0]["id"], &lines[1]["id"], &lines[2]["id"]), (&ann["id"], &ann["id"], &lines[4]["id"]));
    let now = app.get(&format!("/users/{}", ann["id"].as_str().unwrap())).await.json();
    assert_eq!((&now["name"], &now["email"], &now["version"]), (&json!("Anna"), &json!("Ann@example.com"), &json!(2)));
    assert_eq!(now["createdAt"], ann["createdAt"]);
    assert_eq!(app.get("/users?name=bobby").await.ids().len(), 1, "the user is found by the new name");
    let again = bulk(&app, "?mode=upsert", NDJSON, None, rows(0..1500)).await;
    assert!(outcomes(&again).iter().all(|line| line.ends_with("created")));
    let again = bulk(&app, "?mode=upsert", NDJSON, None, rows(0..1500)).await;
    assert!(outcomes(&again).iter().all(|line| line.ends_with("unchanged")));
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
            assert_eq!(outcomes(&reply), [format!("1 {outcome}"), second.to_owned()], "{query}");
            assert!(lines(&reply)[1]["id"].is_null(), "a user that was not created has no id");
            assert_eq!(app.get("/users").await.text, before);
        }
    }
}

async fn an_atomic_import_writes_all_rows_or_none(context: Context) {
    let app = context.app().await;
    app.create("Ann", "ann@example.com").await;
    for (bad_row, code) in
        [("{\"name\":\"Ann\",\"email\":\"ann@example.com\"}\n", "email-taken"), ("{}\n", "validation-failed")]
    {
        let reply = bulk(&app, "?atomic=true", NDJSON, None, rows(0..2) + bad_row + &rows(2..3)).await;
        assert_eq!(reply.status, 422);
        assert_eq!(
            outcomes(&reply),
            ["1 undone".to_owned(), "2 undone".to_owned(), format!("3 refused {code}"), "4 undone".to_owned()]
        );
        assert_eq!(count(&app).await, 1);
    }
    let first = bulk(&app, "?atomic=true", NDJSON, Some("whole"), rows(0..1200)).await;
    assert_eq!((first.status.as_u16(), outcomes(&first).len(), count(&app).await), (200, 1200, 1201));
    let again = bulk(&app, "?atomic=true", NDJSON, Some("whole"), rows(0..1200)).await;
    assert_eq!((again.header("idempotency-replayed"), &again.text), ("true", &first.text));
    // 10,000 rows are the maximum; one more is rejected, with or without a final line end.
    for (mode, outcome) in [("insert", "created"), ("upsert", "unchanged")] {
        let largest = bulk(&app, &format!("?atomic=true&mode={mode}"), NDJSON, None, rows(2000..12_000)).await;
        assert_eq!((largest.status.as_u16(), outcomes(&largest).len()), (200, 10_000), "{}", &largest.text[..200]);
        assert!(outcomes(&largest).iter().all(|line| line.ends_with(outcome)));
    }
    for too_many in [rows(20_000..30_001), rows(20_000..30_001).trim_end().to_owned()] {
        bulk(&app, "?atomic=true", NDJSON, None, too_many).await.problem(413, "payload-too-large");
    }
    assert_eq!(count(&app).await, 11_201);
}

async fn the_number_of_validation_errors_per_row_is_limited(context: Context) {
    let app = context.app().await;
    let mut row = r#"{"name":"Ann","email":"ann@example.com""#.to_owned();
    for number in 0..150 {
        write!(row, r#","{}{number}":1"#, "~".repeat(90)).unwrap();
    }
    row.push_str("}\n");
    let reply = bulk(&app, "", NDJSON, Some("key"), row.repeat(1000)).await;
    let again = bulk(&app, "", NDJSON, Some("key"), row.repeat(1000)).await;
    assert_eq!((outcomes(&reply).len(), &again.text), (1000, &reply.text));
    assert_eq!(lines(&reply)[0]["problem"]["errors"].as_array().unwrap().len(), 10);
    assert!(reply.text.len() < 4_000_000, "{}", reply.text.len());
    // An array is not a row.
    let reply = bulk(&app, "", NDJSON, None, "[\"Ann\",\"ann@example.com\"]\n").await;
    assert_eq!(outcomes(&reply), ["1 refused validation-failed"]);
    assert_eq!(count(&app).await, 0);
}

async fn a_dry_run_detects_duplicates_within_the_import(context: Context) {
    let app = context.app().await;
    let body = rows(0..2500) + &rows(7..8) + "{\"name\":\"\",\"email\":\"user2600@example.com\"}\n" + &rows(2600..2601);
    let dry_run = outcomes(&bulk(&app, "?dryRun=true", NDJSON, None, body.as_str()).await);
    assert_eq!(dry_run[2500..], ["2501 refused email-taken", "2502 refused validation-failed", "2503 created"]);
    assert_eq!(count(&app).await, 0);
    assert_eq!(outcomes(&bulk(&app, "", NDJSON, None, body).await), dry_run);
}

async fn imported_users_are_listed_in_input_order(context: Context) {
    let app = context.app().await;
    bulk(&app, "", NDJSON, None, rows(0..2500)).await;
    let listed = app.get("/users/export?fields=email").await.text;
    let expected: String = (0..2500).map(|number| format!("{{\"email\":\"user{number}@example.com\"}}\n")).collect();
    assert_eq!(listed, expected);
}

async fn pool_and_log_identify_an_import_by_its_request_id(context: Context) {
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
    let pool = app.pool_until("the import holds a connection", |pool| pool["inUse"] == 1).await;
    assert_eq!(pool["longestHolders"][0]["request"], "import-7", "{pool}");
    lock.unlock().await;
    assert_eq!(upload.lines(6).await.len(), 6);
    let database = connect(&url).await;
    database.execute_unprepared("ALTER TABLE users RENAME TO away").await.unwrap();
    database.close().await.unwrap();
    upload.send(&rows(6..9)).await;
    upload.finish().await;
    let lines = upload.end().await;
    assert_eq!(outcome_of(&serde_json::from_str(&lines[6]).unwrap()), "7 stopped internal");
    let line = eventually("the error is logged", || async {
        service.log().into_iter().find(|line| line["message"] == "response aborted")
    })
    .await;
    assert_eq!((&line["level"], &line["request_id"]), (&json!("ERROR"), &json!("import-7")), "{line}");
    assert_eq!((&line["code"], &line["route"]), (&json!("internal"), &json!("/users/bulk")), "{line}");
    assert!(line["error"].as_str().unwrap().contains("users"), "{line}");
}

async fn result_lines_are_streamed_while_the_body_is_sent(context: Context) {
    let app = context.app().await;
    let mut upload =
        Upload::begin(app.address, "/users/bulk?answer=stream", "content-type: application/x-ndjson\r\n").await;
    for round in 0..3 {
        upload.send(&rows(round * 5..round * 5 + 5)).await;
        // The lines arrive before the body ends.
        assert_eq!(upload.lines(round * 5 + 5).await.len(), round * 5 + 5);
        assert_eq!(count(&app).await, round as u64 * 5 + 5);
    }
    upload.send("{\"name\":\"Ann\",\"email\":").await;
    upload.send("\"ann@example.com\"}").await;
    upload.finish().await;
    let lines = upload.end().await;
    assert_eq!(lines.len(), 16);
    assert_eq!(outcome_of(&serde_json::from_str(&lines[15]).unwrap()), "16 created");
}

async fn invalid_requests_are_rejected(context: Context) {
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
    for (csv, part) in [("", "header is missing"), ("name\nAnn\n", "email"), ("name,email,phone\n", "phone")] {
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

async fn an_interrupted_body_does_not_write_its_unterminated_last_row(context: Context) {
    let app = context.app().await;
    let mut upload =
        Upload::begin(app.address, "/users/bulk?answer=stream", "content-type: application/x-ndjson\r\n").await;
    // The last row is complete except for its line end.
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

async fn an_outage_is_reported_in_the_last_line(context: Context) {
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
    assert_eq!((lines.len(), outcome_of(&last).as_str()), (4, "4 stopped database-unavailable"));
    // A response that has not started reports the outage by its status.
    bulk(&app, "", NDJSON, None, rows(3..6)).await.problem(503, "database-unavailable");
    app.get("/users/export").await.problem(503, "database-unavailable");
    proxy.restore();
    app.pool_until("up", |pool| pool["state"] == "up").await;
    assert_eq!(outcomes(&bulk(&app, "", NDJSON, None, rows(3..6)).await).len(), 3);
    assert_eq!(count(&app).await, 6);
}

async fn a_shutdown_is_reported_in_the_last_line(context: Context) {
    let app = context.app().await;
    let headers = "content-type: application/x-ndjson\r\n";
    let mut upload = Upload::begin(app.address, "/users/bulk?answer=stream", headers).await;
    upload.send(&rows(0..3)).await;
    assert_eq!(upload.lines(3).await.len(), 3);
    let stopping = {
        let app = app.clone();
        tokio::spawn(async move { app.stop().await })
    };
    // New connections are refused once the shutdown has begun.
    eventually("the service no longer listens", || async { TcpStream::connect(app.address).await.err() }).await;
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
    assert_eq!(outcome_of(&last), format!("{} stopped shutting-down", lines.len()));
    stopping.await.unwrap().unwrap().unwrap();
    let app = context.app_on(&app.url, &[]).await;
    assert_eq!(count(&app).await, lines.len() as u64 - 1, "exactly the reported rows are stored");
}
