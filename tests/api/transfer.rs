//! Imports and exports on the command line.

use std::{fmt::Write as _, fs, process::Stdio, time::Duration};

use sea_orm::ConnectionTrait;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};

use crate::{
    cases,
    harness::{Context, binary, connect, eventually, number},
};

cases![
    a_log_does_not_come_between,
    a_file_goes_in_and_out,
    what_is_wrong_is_told_by_line,
    an_unclosed_quote_is_no_success,
    what_cannot_be_done_is_told,
    a_signal_stops_where_it_can_be_gone_on_with,
    who_waits_for_rows_can_be_stopped,
    a_killed_import_is_begun_again_and_writes_each_row_once,
    an_export_stops_where_it_can_be_gone_on_with,
    who_waits_for_a_reader_or_a_database_can_be_stopped,
];

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn command(context: &Context, url: &str, arguments: &[&str]) -> Command {
    // The servers of the tests do not flush to disk, which is warned of.
    let variables = [("DATABASE_URL", url), ("RUST_LOG", "warn,orm_pool::connect::session=error")];
    let mut command = binary(context.folder(), &variables);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn say(child: Child) -> Said {
    let output = tokio::time::timeout(Duration::from_secs(120), child.wait_with_output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

async fn run(context: &Context, url: &str, arguments: &[&str]) -> Said {
    say(command(context, url, arguments).spawn().unwrap()).await
}

fn rows(count: usize) -> String {
    let mut text = String::new();
    for number in 0..count {
        writeln!(text, r#"{{"name":"User {number}","email":"user{number}@example.com"}}"#).unwrap();
    }
    text
}

/// How many users there are by now.
async fn written(url: &str) -> i64 {
    let database = connect(url).await;
    // The table may not be there yet.
    let count = number(&database, "SELECT COUNT(*) FROM users").await.unwrap_or(0);
    database.close().await.unwrap();
    count
}

/// How many users there are, and that none is there twice.
async fn count(context: &Context, url: &str) -> usize {
    let said = run(context, url, &["export", "fields=email"]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let emails: std::collections::BTreeSet<&str> = said.out.lines().collect();
    assert_eq!(emails.len(), said.out.lines().count());
    emails.len()
}

async fn a_log_does_not_come_between(context: Context) {
    let url = context.database().await;
    let mut loud = command(&context, &url, &["export", "?sort=name"]);
    let said = say(loud.env("RUST_LOG", "info").spawn().unwrap()).await;
    assert_eq!((said.code, said.out.as_str()), (Some(0), ""));
    assert!(said.err.contains("schema migrated"), "{}", said.err);
}

async fn a_file_goes_in_and_out(context: Context) {
    let (one, two) = (context.database().await, context.database().await);
    fs::write(context.folder().join("users.ndjson"), rows(2500)).unwrap();
    let said = run(&context, &one, &["import", "users.ndjson"]).await;
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    assert!(said.out.starts_with("2,500 rows: 2,500 created in "), "{}", said.out);
    // By its name, and through a pipe.
    let said = run(&context, &one, &["export", "sort=email", "--output", "users.csv"]).await;
    assert_eq!((said.code, said.out.as_str()), (Some(0), ""));
    assert!(said.err.starts_with("2,500 users in "), "{}", said.err);
    let mut child = command(&context, &two, &["import", "-", "--format", "csv"]).stdin(Stdio::piped()).spawn().unwrap();
    let csv = fs::read(context.folder().join("users.csv")).unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&csv).await.unwrap();
    drop(input);
    let said = say(child).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let [first, second] = [&one, &two].map(|url| {
        let (context, url) = (context.clone(), url.clone());
        async move { run(&context, &url, &["export", "fields=name,email&sort=-name&q=user%201"]).await.out }
    });
    let (first, second) = (first.await, second.await);
    assert_eq!((first.lines().count(), &first), (1111, &second));
    // A reader that has had enough is no fault.
    let mut child = command(&context, &one, &["export"]).spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 10]).await.unwrap();
    assert_eq!(say(child).await.code, Some(0));
}

async fn what_is_wrong_is_told_by_line(context: Context) {
    let url = context.database().await;
    let text = rows(2) + "\nnope\n" + &rows(1) + "{\"name\":\"\",\"email\":\"x\"}\n";
    fs::write(context.folder().join("users.jsonl"), &text).unwrap();
    let said = run(&context, &url, &["import", "users.jsonl", "--dry-run"]).await;
    assert!(said.out.contains("(nothing was written)"), "{}", said.out);
    assert_eq!((said.code, count(&context, &url).await), (Some(3), 0));
    let said = run(&context, &url, &["import", "users.jsonl", "--atomic"]).await;
    assert!(said.out.starts_with("5 rows: 0 created, 3 refused, 2 undone in "), "{}", said.out);
    assert!(said.out.contains("(nothing was written)"), "{}", said.out);
    assert_eq!((said.code, count(&context, &url).await), (Some(3), 0));
    let said = run(&context, &url, &["import", "users.jsonl"]).await;
    assert_eq!(
        said.err.lines().collect::<Vec<_>>(),
        [
            "line 4: not valid JSON at column 2",
            "line 5: another user has this email",
            "line 6: name: a name has at least 1 character that is no white space; email: an email address looks like ann@example.com",
            "users-api: some rows were refused",
        ]
    );
    assert!(said.out.starts_with("5 rows: 2 created, 3 refused in "), "{}", said.out);
    assert_eq!((said.code, count(&context, &url).await), (Some(3), 2));
    let said = run(&context, &url, &["import", "users.jsonl", "--mode", "upsert", "--from-line", "5"]).await;
    assert!(said.out.starts_with("2 rows: 0 created, 1 unchanged, 1 refused in "), "{}", said.out);
}

async fn what_cannot_be_done_is_told(context: Context) {
    let url = context.database().await;
    fs::write(context.folder().join("users.csv"), "name,phone\nAnn,1\n").unwrap();
    for (arguments, code, part) in [
        (&["import", "nowhere.csv"][..], 1, "nowhere.csv"),
        (&["import", "users.csv"], 1, "there is no column \"phone\""),
        (&["import", "users.csv", "--mode", "replace"], 2, "insert, upsert"),
        (&["import"], 2, "<FILE>"),
        (&["export", "sort=age"], 2, "sort is createdAt"),
        (&["export", "--output", "nowhere/users.csv"], 1, "nowhere/users.csv"),
    ] {
        let said = run(&context, &url, arguments).await;
        assert_eq!(said.code, Some(code), "{arguments:?}: {}", said.err);
        assert!(said.err.contains(part), "{arguments:?}: {}", said.err);
    }
    // What cannot be written anew is not written over.
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let mut nowhere = command(&context, &format!("mysql://ann@127.0.0.1:{port}/app"), &["export", "-o", "users.csv"]);
    let said = say(nowhere.env("USERS_API__POOL__ACQUIRE", "10ms").spawn().unwrap()).await;
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert_eq!(fs::read_to_string(context.folder().join("users.csv")).unwrap(), "name,phone\nAnn,1\n");
    let database = connect(&url).await;
    database.execute_unprepared("ALTER TABLE users RENAME TO away").await.unwrap();
    database.close().await.unwrap();
    let mut without = command(&context, &url, &["export", "-o", "users.csv"]);
    let said = say(without.env("USERS_API__DATABASE__MIGRATE", "off").spawn().unwrap()).await;
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert_eq!(fs::read_to_string(context.folder().join("users.csv")).unwrap(), "name,phone\nAnn,1\n");
}

async fn a_signal_stops_where_it_can_be_gone_on_with(context: Context) {
    let url = context.database().await;
    let all = rows(60_000);
    fs::write(context.folder().join("users.ndjson"), &all).unwrap();
    let mut child = command(&context, &url, &["import", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    // Its input does not come to its end.
    let mut input = child.stdin.take().unwrap();
    let feeding = tokio::spawn(async move {
        let _ = input.write_all(&all.as_bytes()[..all.len() - 1000]).await;
        std::future::pending::<()>().await;
        drop(input);
    });
    eventually("some are written", || async { (written(&url).await > 0).then_some(()) }).await;
    signal(&child, "INT").await;
    let said = say(child).await;
    feeding.abort();
    assert_eq!(said.code, Some(4), "{}", said.err);
    let line = said.err.trim().rsplit(' ').next().unwrap().to_owned();
    let written = count(&context, &url).await;
    assert_eq!(said.err.trim(), format!("users-api: stopped; go on with --from-line {}", written + 1));
    let said = run(&context, &url, &["import", "users.ndjson", "--from-line", &line]).await;
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "no row is there twice");
    assert_eq!(count(&context, &url).await, 60_000);
}

async fn who_waits_for_rows_can_be_stopped(context: Context) {
    let url = context.database().await;
    let mut child = command(&context, &url, &["import", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(rows(3).as_bytes()).await.unwrap();
    eventually("they are written", || async { (written(&url).await == 3).then_some(()) }).await;
    signal(&child, "INT").await;
    let said = say(child).await;
    assert_eq!((said.code, said.err.as_str()), (Some(4), "users-api: stopped; go on with --from-line 4\n"));
    drop(input);
}

async fn a_killed_import_is_begun_again_and_writes_each_row_once(context: Context) {
    let url = context.database().await;
    fs::write(context.folder().join("users.ndjson"), rows(30_000)).unwrap();
    for least in [1, 10_000] {
        let mut child = command(&context, &url, &["import", "users.ndjson", "--mode", "upsert"]).spawn().unwrap();
        eventually("some are written", || async { (written(&url).await >= least).then_some(()) }).await;
        child.kill().await.unwrap();
    }
    let said = run(&context, &url, &["import", "users.ndjson", "--mode", "upsert"]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.contains(" unchanged"), "{}", said.out);
    assert_eq!(count(&context, &url).await, 30_000);
}

async fn an_export_stops_where_it_can_be_gone_on_with(context: Context) {
    let url = context.database().await;
    fs::write(context.folder().join("users.ndjson"), rows(30_000)).unwrap();
    assert_eq!(run(&context, &url, &["import", "users.ndjson"]).await.code, Some(0));
    let mut child = command(&context, &url, &["export", "fields=email&sort=-email"]).spawn().unwrap();
    // It writes faster than this is read, so it is not at its end when it hears the signal.
    let mut out = child.stdout.take().unwrap();
    let mut begin = vec![0; 1000];
    out.read_exact(&mut begin).await.unwrap();
    signal(&child, "TERM").await;
    let mut text = String::from_utf8(begin).unwrap();
    out.read_to_string(&mut text).await.unwrap();
    let said = say(child).await;
    assert_eq!(said.code, Some(4), "{}", said.err);
    let go_on = said.err.split('\'').nth(1).unwrap();
    assert!(go_on.starts_with("fields=email&sort=-email&cursor="), "{}", said.err);
    let rest = run(&context, &url, &["export", go_on]).await;
    assert!(!text.is_empty() && !rest.out.is_empty());
    let whole = run(&context, &url, &["export", "fields=email&sort=-email"]).await;
    assert_eq!(text + &rest.out, whole.out);
}

async fn who_waits_for_a_reader_or_a_database_can_be_stopped(context: Context) {
    let url = context.database().await;
    fs::write(context.folder().join("users.ndjson"), rows(5000)).unwrap();
    assert_eq!(run(&context, &url, &["import", "users.ndjson"]).await.code, Some(0));
    let mut child = command(&context, &url, &["export"]).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 1]).await.unwrap();
    // The first signal waits for the reader, who never comes; the second one does not.
    signal(&child, "INT").await;
    signal(&child, "TERM").await;
    assert!([130, 143].contains(&say(child).await.code.unwrap()));
    drop(out);
    // Nobody answers there.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("mysql://ann@{}/app", listener.local_addr().unwrap());
    let child = command(&context, &silent, &["export"]).spawn().unwrap();
    let connection = listener.accept().await.unwrap();
    signal(&child, "INT").await;
    let said = say(child).await;
    assert_eq!((said.code, said.err.as_str()), (Some(4), "users-api: stopped before anything was done\n"));
    drop(connection);
}

async fn signal(child: &Child, name: &str) {
    let id = child.id().unwrap();
    let sent = Command::new("/bin/sh").arg("-c").arg(format!("kill -{name} {id}")).status().await.unwrap();
    assert!(sent.success());
}

async fn an_unclosed_quote_is_no_success(context: Context) {
    let url = context.database().await;
    let mut text = "name,email\n".to_owned();
    for number in 1..=3000 {
        let quote = if number == 6 { "\"" } else { "" };
        writeln!(text, "{quote}User {number},user{number}@example.com").unwrap();
    }
    fs::write(context.folder().join("users.csv"), &text).unwrap();
    let unread = "users-api: line 7: a quoted cell is not closed; lines 7 to 3001 were not read";
    let go_on = "; close it and go on with --from-line 7\n";
    for (options, out, err) in [
        (&["--atomic"][..], "0 rows: 0 created in ", format!("{unread}\n")),
        (&["--dry-run"], "5 rows: 5 created in ", format!("{unread}{go_on}")),
        (&[], "5 rows: 5 created in ", format!("{unread}{go_on}")),
        (&["--from-line", "7"], "0 rows: 0 created in ", format!("{unread}{go_on}")),
        (&["--from-line", "9"], "0 rows: 0 created in ", format!("{unread}{go_on}")),
    ] {
        let said = run(&context, &url, &[&["import", "users.csv"][..], options].concat()).await;
        assert_eq!((said.code, said.err), (Some(1), err), "{options:?}");
        assert!(said.out.starts_with(out), "{options:?}: {}", said.out);
        let is_said = said.out.ends_with(" (nothing was written)\n");
        assert_eq!(is_said, options.contains(&"--atomic") || options.contains(&"--dry-run"), "{}", said.out);
        let written = if options.is_empty() || options[0] == "--from-line" { 5 } else { 0 };
        assert_eq!(count(&context, &url).await, written, "{options:?}");
    }
    fs::write(context.folder().join("users.csv"), text.replace('"', "")).unwrap();
    let said = run(&context, &url, &["import", "users.csv", "--from-line", "7"]).await;
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    assert!(said.out.starts_with("2,995 rows: 2,995 created in "), "{}", said.out);
    let broken = "name,email\n\"Ann\nBob\" x,ann@example.com\nA\"nn,ann@example.com\n\"Ann\nBob\",a@example.com\n";
    fs::write(context.folder().join("users.csv"), broken).unwrap();
    let said = run(&context, &url, &["import", "users.csv"]).await;
    assert_eq!(
        said.err.lines().collect::<Vec<_>>(),
        [
            "lines 2 to 3: text follows the closing quote of a cell",
            "line 4: a cell with a quote in it must be enclosed in quotes, and the quote in it doubled",
            "lines 5 to 6: name: a name has no control characters",
            "users-api: some rows were refused",
        ]
    );
    assert_eq!(said.code, Some(3));
}
