//! Bulk imports with an `Idempotency-Key`.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    cases,
    harness::{
        Context, Locked, Upload,
        bulk::{NDJSON, bulk, count, outcomes, rows},
        connect, eventually, number,
    },
};

cases![
    an_interrupted_import_resumes_with_the_same_key,
    concurrent_imports_with_one_key_have_one_effect,
    a_key_is_bound_to_all_rows_of_its_body,
    a_key_is_in_use_until_its_rows_are_written,
    a_slow_upload_is_served_and_a_stalled_one_times_out,
    a_chunk_of_refused_rows_stores_no_response,
];

async fn an_interrupted_import_resumes_with_the_same_key(context: Context) {
    let app = context.app().await;
    let all = rows(0..3500);
    let headers = "content-type: application/x-ndjson\r\nidempotency-key: import-1\r\n";
    let mut upload = Upload::begin(app.address, "/users/bulk?answer=stream", headers).await;
    let cut = all.lines().take(2600).map(str::len).sum::<usize>() + 2600 + 10;
    upload.send(&all[..cut]).await;
    let before = upload.lines(2000).await;
    assert_eq!(before.len(), 2000, "rows are written in chunks of 1,000");
    drop(upload);
    // The service may not have noticed the disconnect yet.
    let again = eventually("the key is free again", || async {
        let reply = bulk(&app, "", NDJSON, Some("import-1"), all.as_str()).await;
        (reply.status != 409).then_some(reply)
    })
    .await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.text.lines().take(2000).collect::<Vec<_>>(), before, "the stored lines are replayed unchanged");
    assert!(outcomes(&again).iter().all(|line| line.ends_with("created")));
    assert_eq!((outcomes(&again).len(), count(&app).await), (3500, 3500), "each row is written once");
    let third = bulk(&app, "", NDJSON, Some("import-1"), all.as_str()).await;
    assert_eq!(third.text, again.text);
    // A different body with the same key: in its first chunk, or in a later one.
    bulk(&app, "", NDJSON, Some("import-1"), rows(1..3500)).await.problem(422, "idempotency-key-reused");
    bulk(&app, "?mode=upsert", NDJSON, Some("import-1"), all.as_str()).await.problem(422, "idempotency-key-reused");
    let with_row = |row: &str| bulk(&app, "", NDJSON, Some("import-2"), format!("{}{row}\n", rows(4000..4001)));
    assert_eq!(outcomes(&with_row("{}").await)[1], "2 refused validation-failed");
    assert_eq!(outcomes(&with_row("{}").await)[1], "2 refused validation-failed");
    with_row("no JSON").await.problem(422, "idempotency-key-reused");
    let longer = bulk(&app, "", NDJSON, Some("import-1"), rows(0..3600)).await;
    let results = outcomes(&longer);
    assert_eq!((results.len(), results[3000].as_str()), (3001, "3001 stopped idempotency-key-reused"));
    assert_eq!(count(&app).await, 3501);
}

async fn concurrent_imports_with_one_key_have_one_effect(context: Context) {
    let app = context.app().await;
    let all: Vec<_> = (0..20)
        .map(|_| {
            let app = app.clone();
            tokio::spawn(async move { bulk(&app, "", NDJSON, Some("k"), rows(0..1500)).await })
        })
        .collect();
    let mut texts = BTreeSet::new();
    for reply in all {
        let reply = reply.await.unwrap();
        if reply.status == 409 {
            reply.problem(409, "idempotency-key-in-use");
            assert!(!reply.header("retry-after").is_empty());
        } else {
            texts.insert(reply.text);
        }
    }
    assert_eq!((texts.len(), count(&app).await), (1, 1500), "one effect, one response");
}

async fn a_key_is_bound_to_all_rows_of_its_body(context: Context) {
    let app = context.app().await;
    for count in [0, 1000, 2000, 2500] {
        let key = format!("key-{count}");
        let send = async |count| bulk(&app, "?mode=upsert", NDJSON, Some(&key), rows(0..count)).await;
        let first = send(count).await;
        assert_eq!((first.status.as_u16(), first.text.lines().count()), (200, count));
        for other in [0, 1, 1000, 1001, 2000, 2001, 2500, 3500] {
            let reply = send(other).await;
            if other == count {
                assert_eq!(reply.text, first.text);
            } else if reply.status == 200 {
                let results = outcomes(&reply);
                let last = results.last().unwrap();
                assert!(last.ends_with("stopped idempotency-key-reused"), "{other} rows for {count}: {last}");
                assert!(results.len() <= count.min(other) + 1, "{other} rows for {count}");
            } else {
                reply.problem(422, "idempotency-key-reused");
            }
        }
    }
    assert_eq!(count(&app).await, 2500, "no different body had an effect");
}

async fn a_key_is_in_use_until_its_rows_are_written(context: Context) {
    for query in ["?atomic=true", ""] {
        let app = context.app_with(&[("pool.acquire", "60s"), ("server.request_timeout", "2s")]).await;
        let send = async || bulk(&app, query, NDJSON, Some("key"), rows(0..3)).await;
        let lock = Locked::users(&context, &app.url).await;
        send().await.problem(503, "request-timeout");
        send().await.problem(409, "idempotency-key-in-use");
        lock.unlock().await;
        let succeeded = || async { Some(send().await).filter(|reply| reply.status == 200) };
        let done = eventually("the rows are written", succeeded).await;
        assert_eq!((done.header("idempotency-replayed"), outcomes(&done).len()), ("true", 3), "{query}");
        assert_eq!(count(&app).await, 3);
        app.stop().await.unwrap().unwrap();
    }
}

async fn a_slow_upload_is_served_and_a_stalled_one_times_out(context: Context) {
    let limit = Duration::from_secs(2);
    let app = context.app_with(&[("server.request_timeout", "2s")]).await;
    for query in ["?atomic=true", ""] {
        let headers = format!("content-type: {NDJSON}\r\nidempotency-key: slow{}\r\n", query.len());
        let mut upload = Upload::begin(app.address, &format!("/users/bulk{query}"), &headers).await;
        let began = tokio::time::Instant::now();
        let mut sent = 0;
        while began.elapsed() < limit + limit / 4 {
            upload.send(&rows(sent..sent + 1)).await;
            sent += 1;
            tokio::time::sleep(limit / 40).await;
        }
        upload.finish().await;
        assert_eq!(upload.status().await, 200);
        let written = count(&app).await;
        assert!(query.is_empty() || written == sent as u64, "{written} of {sent}");
        if query.is_empty() {
            assert_eq!(upload.end().await.len(), sent);
        }
    }
    // A client that stops sending gets 408.
    let headers = format!("content-type: {NDJSON}\r\nidempotency-key: silent\r\n");
    let mut upload = Upload::begin(app.address, "/users/bulk?answer=stream", &headers).await;
    upload.send(&rows(0..1)).await;
    assert_eq!(upload.status().await, 408);
}

async fn a_chunk_of_refused_rows_stores_no_response(context: Context) {
    let app = context.app().await;
    let ann = app.create("Ann", "user0@example.com").await;
    let taken = rows(0..1);
    for number in 0..3 {
        let invalid = "{}\n".repeat(1500);
        let reply = bulk(&app, "", NDJSON, Some(&format!("invalid-{number}")), invalid).await;
        assert_eq!(outcomes(&reply).len(), 1500, "{}", reply.text);
        let reply = bulk(&app, "", NDJSON, Some(&format!("taken-{number}")), taken.as_str()).await;
        assert!(reply.text.contains("refused"), "{}", reply.text);
    }
    let database = connect(&app.url).await;
    let bytes = number(&database, "SELECT COALESCE(MAX(LENGTH(answer)), 0) FROM idempotency_keys").await.unwrap();
    database.close().await.unwrap();
    assert!(bytes <= 8, "only the number of chunks is stored: {bytes} bytes");
    app.delete(&format!("/users/{}", ann["id"].as_str().unwrap())).await;
    let again = bulk(&app, "", NDJSON, Some("taken-0"), taken.as_str()).await;
    assert!(again.text.contains("created"), "{}", again.text);
}
