//! Exports of all users in one response.

use std::fmt::Write as _;

use reqwest::Method;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use crate::{
    cases,
    harness::{
        App, Context, Reply,
        bulk::{NDJSON, bulk, outcomes, rows},
        eventually,
    },
};

cases![
    an_export_can_be_imported,
    an_export_supports_filters_sorting_and_fields,
    the_media_type_is_negotiated_by_the_accept_header,
    an_interrupted_export_resumes_from_a_cursor,
    a_client_that_stops_reading_is_disconnected,
];

async fn export(app: &App, query: &str, accept: &str) -> Reply {
    let reply = Reply::of(app.request(Method::GET, &format!("/users/export{query}")).header("accept", accept)).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply
}

async fn an_export_can_be_imported(context: Context) {
    let source = context.app().await;
    let names = [
        "=1+1",
        "'=1+1",
        "''x",
        "-Ann",
        "@Ann",
        "+49",
        "Ann, \"A.\"",
        "O'Hara",
        "Zoë",
        "'Ann",
        "Ann;=1+1;",
        "A;'-1",
        "＝1",
        "(＋1",
        "a|\"@b\"",
    ];
    for (number, name) in names.iter().enumerate() {
        source.create(name, &format!("user-{number}@example.com")).await;
    }
    bulk(&source, "", NDJSON, None, rows(0..1300)).await;
    let names_and_emails = |text: &str| -> Vec<(Value, Value)> {
        let users = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        users.map(|user| (user["name"].clone(), user["email"].clone())).collect()
    };
    let original = export(&source, "", NDJSON).await;
    assert_eq!(original.header("content-type"), NDJSON);
    assert_eq!(original.text.lines().count(), 1315);
    for (accept, media_type) in [(NDJSON, NDJSON), ("text/csv", "text/csv"), ("text/*;q=0.9, image/png", "text/csv")] {
        let text = export(&source, "?cursors=true", accept).await.text;
        if media_type == "text/csv" {
            assert!(text.starts_with("id,name,email,version,createdAt,updatedAt,cursor\r\n"), "{text:.99}");
            assert!(text.contains(",\"'=1+1\",") && text.contains(",\"''=1+1\","), "formulas are escaped");
            assert!(
                text.contains("\"Ann;'=1+1;\"") && text.contains(",\"'＝1\","),
                "formulas are escaped for `;` as separator, too"
            );
        }
        let target = context.app().await;
        let reply = bulk(&target, "", media_type, None, text).await;
        assert!(outcomes(&reply).iter().all(|line| line.ends_with("created")), "{}", reply.text);
        let copy = export(&target, "", "*/*").await.text;
        assert_eq!(names_and_emails(&copy), names_and_emails(&original.text), "in the same order");
    }
}

async fn an_export_supports_filters_sorting_and_fields(context: Context) {
    let app = context.app().await;
    bulk(&app, "", NDJSON, None, rows(0..1200)).await;
    assert_eq!(export(&app, "?name=user%2011", NDJSON).await.text.lines().count(), 111);
    let reply = export(&app, "?sort=-email&fields=email,id", NDJSON).await;
    let emails: Vec<Value> = reply.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(emails.len(), 1200);
    assert!(emails.is_sorted_by(|a, b| a["email"].as_str() > b["email"].as_str()));
    assert!(emails.iter().all(|user| user.as_object().unwrap().keys().eq(["email", "id"])));
    let csv = export(&app, "?email=USER7@example.com&fields=name,email", "text/csv").await;
    assert_eq!(csv.text, "name,email\r\nUser 7,user7@example.com\r\n");
    assert_eq!(csv.header("content-disposition"), "attachment; filename=\"users.csv\"");
    assert_eq!(Reply::of(app.request(Method::HEAD, "/users/export")).await.text, "");
}

async fn the_media_type_is_negotiated_by_the_accept_header(context: Context) {
    let app = context.app().await;
    for (accept, media_type) in [
        ("", NDJSON),
        ("*/*", NDJSON),
        ("text/csv", "text/csv"),
        ("text/csv, application/x-ndjson", "text/csv"),
        ("application/*, text/*", NDJSON),
        ("application/x-ndjson;q=0, */*", "text/csv"),
        ("text/*;q=0.9, text/csv;q=0.1, application/x-ndjson;q=0.5", NDJSON),
        ("text/csv;q=0", ""),
        ("*/*;q=0", ""),
        ("text/*, text/csv;q=0", ""),
        ("application/json", ""),
        ("nothing", ""),
    ] {
        let reply = Reply::of(app.request(Method::GET, "/users/export").header("accept", accept)).await;
        if media_type.is_empty() {
            reply.problem(406, "not-acceptable");
        } else {
            let content_type = reply.header("content-type");
            assert!(reply.status == 200 && content_type.starts_with(media_type), "{content_type} for {accept}");
        }
    }
}

async fn an_interrupted_export_resumes_from_a_cursor(context: Context) {
    let app = context.app().await;
    bulk(&app, "", NDJSON, None, rows(0..1700)).await;
    for query in ["cursors=true", "cursors=true&sort=-name", "cursors=true&sort=email"] {
        let complete = export(&app, &format!("?{query}"), NDJSON).await.text;
        let complete: Vec<&str> = complete.lines().collect();
        for last_received in [0, 499, 500, 1234, 1699] {
            let last: Value = serde_json::from_str(complete[last_received]).unwrap();
            let cursor = last["cursor"].as_str().unwrap();
            let remaining = export(&app, &format!("?{query}&cursor={cursor}"), NDJSON).await.text;
            assert_eq!(remaining.lines().collect::<Vec<_>>(), complete[last_received + 1..], "{query} {last_received}");
            app.get(&format!("/users/export?name=u&cursor={cursor}")).await.problem(400, "invalid-cursor");
        }
    }
}

/// Counts the established connections on the server's side of this port.
fn connections(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let is_open = |line: &&str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns[1].ends_with(&local) && columns[3] == "01"
    };
    table.lines().skip(1).filter(is_open).count()
}

async fn a_client_that_stops_reading_is_disconnected(context: Context) {
    let app = context.app_with(&[("server.write_timeout", "1s")]).await;
    // More than the socket buffers hold for a client that does not read.
    let name = "x".repeat(200);
    let mut users = String::new();
    for number in 0..13_000 {
        writeln!(users, r#"{{"name":"{name}","email":"user{number}@example.com"}}"#).unwrap();
    }
    assert_eq!(bulk(&app, "", NDJSON, None, users).await.text.lines().count(), 13_000);
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 * 1024).unwrap();
        let mut stream = socket.connect(app.address).await.unwrap();
        stream.write_all(b"GET /users/export HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut begin = [0; 100];
        stream.read_exact(&mut begin).await.unwrap();
        stalled.push(stream);
    }
    // The HTTP client of this test keeps its connections.
    let disconnected = || async { (connections(app.address.port()) <= 5).then_some(()) };
    eventually("the stalled clients are disconnected", disconnected).await;
    app.pool_until("their connections are returned to the pool", |pool| pool["inUse"] == 0).await;
    drop(stalled);
    assert_eq!(export(&app, "", NDJSON).await.text.lines().count(), 13_000, "other clients are served");
}
