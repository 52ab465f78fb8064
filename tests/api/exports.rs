//! All users out, in one answer.

use std::fmt::Write as _;

use reqwest::Method;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use crate::{
    bulk::{NDJSON, bulk, rows, told},
    cases,
    harness::{App, Context, Reply, eventually},
};

cases![
    what_is_exported_can_be_imported,
    an_export_is_a_selection,
    a_client_says_what_it_likes,
    an_export_that_broke_off_is_gone_on_with,
    who_stops_reading_is_let_go,
];

async fn export(app: &App, query: &str, accept: &str) -> Reply {
    let reply = Reply::of(app.request(Method::GET, &format!("/users/export{query}")).header("accept", accept)).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply
}

async fn what_is_exported_can_be_imported(context: Context) {
    let one = context.app().await;
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
        one.create(name, &format!("user-{number}@example.com")).await;
    }
    bulk(&one, "", NDJSON, None, rows(0..1300)).await;
    let pick = |text: &str| -> Vec<(Value, Value)> {
        let users = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        users.map(|user| (user["name"].clone(), user["email"].clone())).collect()
    };
    let original = export(&one, "", NDJSON).await;
    assert_eq!(original.header("content-type"), NDJSON);
    assert_eq!(original.text.lines().count(), 1315);
    for (accept, media_type) in [(NDJSON, NDJSON), ("text/csv", "text/csv"), ("text/*;q=0.9, image/png", "text/csv")] {
        let text = export(&one, "?cursors=true", accept).await.text;
        if media_type == "text/csv" {
            assert!(text.starts_with("id,name,email,version,createdAt,updatedAt,cursor\r\n"), "{text:.99}");
            assert!(text.contains(",\"'=1+1\",") && text.contains(",\"''=1+1\","), "formulas are no formulas");
            assert!(
                text.contains("\"Ann;'=1+1;\"") && text.contains(",\"'＝1\","),
                "nor are they where ; separates cells"
            );
        }
        let two = context.app().await;
        let reply = bulk(&two, "", media_type, None, text).await;
        assert!(told(&reply).iter().all(|line| line.ends_with("created")), "{}", reply.text);
        let copy = export(&two, "", "*/*").await.text;
        assert_eq!(pick(&copy), pick(&original.text), "in the same order");
    }
}

async fn an_export_is_a_selection(context: Context) {
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

async fn a_client_says_what_it_likes(context: Context) {
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
            let told = reply.header("content-type");
            assert!(reply.status == 200 && told.starts_with(media_type), "{told} for {accept}");
        }
    }
}

async fn an_export_that_broke_off_is_gone_on_with(context: Context) {
    let app = context.app().await;
    bulk(&app, "", NDJSON, None, rows(0..1700)).await;
    for query in ["cursors=true", "cursors=true&sort=-name", "cursors=true&sort=email"] {
        let whole = export(&app, &format!("?{query}"), NDJSON).await.text;
        let whole: Vec<&str> = whole.lines().collect();
        for broken_off in [0, 499, 500, 1234, 1699] {
            let last: Value = serde_json::from_str(whole[broken_off]).unwrap();
            let cursor = last["cursor"].as_str().unwrap();
            let rest = export(&app, &format!("?{query}&cursor={cursor}"), NDJSON).await.text;
            assert_eq!(rest.lines().collect::<Vec<_>>(), whole[broken_off + 1..], "{query} {broken_off}");
            app.get(&format!("/users/export?name=u&cursor={cursor}")).await.problem(400, "invalid-cursor");
        }
    }
}

/// Connections to this port that the system still has on the server's side.
fn connections(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let is_open = |line: &&str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns[1].ends_with(&local) && columns[3] == "01"
    };
    table.lines().skip(1).filter(is_open).count()
}

async fn who_stops_reading_is_let_go(context: Context) {
    let app = context.app_with(&[("server.write_timeout", "1s")]).await;
    // More than the system keeps for a client that does not read.
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
    // The client of this test has connections of its own, and they stay.
    eventually("they are let go", || async { (connections(app.address.port()) <= 5).then_some(()) }).await;
    app.pool_until("nothing is read for them", |pool| pool["inUse"] == 0).await;
    drop(stalled);
    assert_eq!(export(&app, "", NDJSON).await.text.lines().count(), 13_000, "others are served");
}
