//! Responses to bulk imports: buffered or streamed, with the lines of the requested report.

use serde_json::{Value, json};

use crate::{
    cases,
    harness::{
        Context, Reply, Upload,
        bulk::{NDJSON, bulk, count, lines, outcome_of, rows},
        eventually,
    },
};

cases![
    a_buffered_response_is_sent_after_the_last_row,
    rows_written_before_a_body_timeout_are_reported,
    a_report_contains_only_the_requested_lines,
    replayed_rows_are_counted_in_the_summary,
    an_atomic_import_supports_the_same_reports,
];

async fn a_buffered_response_is_sent_after_the_last_row(context: Context) {
    let app = context.app().await;
    let mut upload = Upload::begin(app.address, "/users/bulk", "content-type: application/x-ndjson\r\n").await;
    for round in 0..3 {
        upload.send(&rows(round * 5..round * 5 + 5)).await;
        let expected = round as u64 * 5 + 5;
        eventually("the rows are written", || async { (count(&app).await == expected).then_some(()) }).await;
        assert!(!upload.has_answer());
    }
    upload.finish().await;
    let lines = upload.end().await;
    let created: Vec<String> = lines.iter().map(|line| outcome_of(&serde_json::from_str(line).unwrap())).collect();
    assert_eq!(created, (1..=15).map(|line| format!("{line} created")).collect::<Vec<_>>());
    let head = String::from_utf8_lossy(upload.answer()).into_owned();
    assert!(head.contains("\r\ncontent-length: "), "{head}");
}

async fn rows_written_before_a_body_timeout_are_reported(context: Context) {
    let app = context.app_with(&[("server.request_timeout", "1s")]).await;
    let headers = format!("content-type: {NDJSON}\r\n");
    let mut upload = Upload::begin(app.address, "/users/bulk?report=refused", &headers).await;
    upload.send(&(rows(0..2) + &rows(1..2))).await;
    eventually("the rows are written", || async { (count(&app).await == 2).then_some(()) }).await;
    assert_eq!(upload.status().await, 200);
    let lines: Vec<Value> = upload.end().await.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(outcome_of(&lines[0]), "3 refused email-taken");
    assert_eq!(lines[1], summary(2, 0, 1));
    assert_eq!(outcome_of(&lines[2]), "4 stopped body-timeout");
    assert_eq!(lines.len(), 3);
}

fn summary(created: u64, unchanged: u64, refused: u64) -> Value {
    json!({
        "outcome": "summary", "created": created, "updated": 0, "unchanged": unchanged, "refused": refused, "undone": 0
    })
}

/// Returns the refused lines and the summary.
fn parts(reply: &Reply) -> (Vec<String>, Value) {
    let mut lines = lines(reply);
    let summary = lines.pop().unwrap();
    (lines.iter().map(outcome_of).collect(), summary)
}

async fn a_report_contains_only_the_requested_lines(context: Context) {
    let app = context.app().await;
    let body = rows(0..1200) + "no JSON\n" + &rows(7..8);
    for (answer, report) in [("end", "refused"), ("stream", "refused"), ("end", "summary"), ("stream", "summary")] {
        let query = format!("?answer={answer}&report={report}&dryRun=true");
        let (refused, counted) = parts(&bulk(&app, &query, NDJSON, None, body.as_str()).await);
        let expected: &[&str] = match report {
            "refused" => &["1201 refused validation-failed", "1202 refused email-taken"],
            _ => &[],
        };
        assert_eq!(refused, expected, "{query}");
        assert_eq!(counted, summary(1200, 0, 2), "{query}");
    }
    let all = bulk(&app, "?report=all", NDJSON, None, body.as_str()).await;
    assert_eq!((lines(&all).len(), count(&app).await), (1202, 1200));
    let again = bulk(&app, "?mode=upsert&report=summary", NDJSON, None, body.as_str()).await;
    assert_eq!(parts(&again), (vec![], summary(0, 1201, 1)));
    assert_eq!(lines(&bulk(&app, "?report=summary", NDJSON, None, "").await), [summary(0, 0, 0)]);
    bulk(&app, "?report=none", NDJSON, None, "").await.problem(400, "invalid-query");
    bulk(&app, "?answer=soon", NDJSON, None, "").await.problem(400, "invalid-query");
}

async fn replayed_rows_are_counted_in_the_summary(context: Context) {
    let app = context.app().await;
    let body = rows(0..1500) + &rows(3..4);
    let first = bulk(&app, "", NDJSON, Some("key"), body.as_str()).await;
    // A retry with the same key may request a different report.
    for report in ["refused", "summary"] {
        let again = bulk(&app, &format!("?report={report}"), NDJSON, Some("key"), body.as_str()).await;
        assert_eq!(again.header("idempotency-replayed"), "true");
        let (refused, counted) = parts(&again);
        assert_eq!(refused.len(), usize::from(report == "refused"));
        assert_eq!(counted, summary(1500, 0, 1));
    }
    assert_eq!(bulk(&app, "", NDJSON, Some("key"), body.as_str()).await.text, first.text);
}

async fn an_atomic_import_supports_the_same_reports(context: Context) {
    let app = context.app().await;
    let body = rows(0..3) + "{}\n";
    let reply = bulk(&app, "?atomic=true&report=refused", NDJSON, None, body).await;
    assert_eq!(reply.status, 422);
    let (refused, counted) = parts(&reply);
    assert_eq!(refused, ["4 refused validation-failed"]);
    assert_eq!((&counted["refused"], &counted["undone"]), (&json!(1), &json!(3)));
    let reply = bulk(&app, "?atomic=true&report=summary", NDJSON, None, rows(0..3)).await;
    assert_eq!((reply.status.as_u16(), parts(&reply)), (200, (vec![], summary(3, 0, 0))));
}
