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
    the_log_is_written_to_stderr,
    an_exported_file_can_be_imported,
    refused_rows_are_reported_by_line,
    an_unclosed_quote_is_an_error,
    failures_are_reported_and_leave_existing_files_unchanged,
    an_interrupted_import_can_be_resumed,
    an_import_that_waits_for_input_can_be_interrupted,
    a_killed_import_can_be_repeated_without_duplicates,
    an_interrupted_export_can_be_resumed,
    a_waiting_export_can_be_interrupted,
];

struct CommandOutput {
    code: Option<i32>,
    out: String,
    err: String,
}

fn command(context: &Context, url: &str, arguments: &[&str]) -> Command {
    // The test servers do not flush to disk, which causes a warning.
    let variables = [("DATABASE_URL", url), ("RUST_LOG", "warn,orm_pool::connect::session=error")];
    let mut command = binary(context.folder(), &variables);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn finish(child: Child) -> CommandOutput {
    let finished = tokio::time::timeout(Duration::from_secs(120), child.wait_with_output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    CommandOutput { code: finished.status.code(), out: text(finished.stdout), err: text(finished.stderr) }
}

async fn run(context: &Context, url: &str, arguments: &[&str]) -> CommandOutput {
    finish(command(context, url, arguments).spawn().unwrap()).await
}

fn rows(count: usize) -> String {
    let mut text = String::new();
    for number in 0..count {
        writeln!(text, r#"{{"name":"User {number}","email":"user{number}@example.com"}}"#).unwrap();
    }
    text
}

/// The number of users so far.
async fn written(url: &str) -> i64 {
    let database = connect(url).await;
    // The table may not exist yet.
    let count = number(&database, "SELECT COUNT(*) FROM users").await.unwrap_or(0);
    database.close().await.unwrap();
    count
}

/// The number of users, none of which may be exported twice.
async fn count(context: &Context, url: &str) -> usize {
    let output = run(context, url, &["export", "fields=email"]).await;
    assert_eq!(output.code, Some(0), "{}", output.err);
    let emails: std::collections::BTreeSet<&str> = output.out.lines().collect();
    assert_eq!(emails.len(), output.out.lines().count());
    emails.len()
}

async fn the_log_is_written_to_stderr(context: Context) {
    let url = context.database().await;
    let mut command = command(&context, &url, &["export", "?sort=name"]);
    let output = finish(command.env("RUST_LOG", "info").spawn().unwrap()).await;
    assert_eq!((output.code, output.out.as_str()), (Some(0), ""));
    assert!(output.err.contains("schema migrated"), "{}", output.err);
}

async fn an_exported_file_can_be_imported(context: Context) {
    let (one, two) = (context.database().await, context.database().await);
    fs::write(context.folder().join("users.ndjson"), rows(2500)).unwrap();
    let output = run(&context, &one, &["import", "users.ndjson"]).await;
    assert_eq!((output.code, output.err.as_str()), (Some(0), ""));
    assert!(output.out.starts_with("2,500 rows: 2,500 created in "), "{}", output.out);
    // First to a file by its name, then through a pipe.
    let output = run(&context, &one, &["export", "sort=email", "--output", "users.csv"]).await;
    assert_eq!((output.code, output.out.as_str()), (Some(0), ""));
    assert!(output.err.starts_with("2,500 users in "), "{}", output.err);
    let mut child = command(&context, &two, &["import", "-", "--format", "csv"]).stdin(Stdio::piped()).spawn().unwrap();
    let csv = fs::read(context.folder().join("users.csv")).unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&csv).await.unwrap();
    drop(input);
    let output = finish(child).await;
    assert_eq!(output.code, Some(0), "{}", output.err);
    let [first, second] = [&one, &two].map(|url| {
        let (context, url) = (context.clone(), url.clone());
        async move { run(&context, &url, &["export", "fields=name,email&sort=-name&q=user%201"]).await.out }
    });
    let (first, second) = (first.await, second.await);
    assert_eq!((first.lines().count(), &first), (1111, &second));
    // A reader that closes the pipe early is not an error.
    let mut child = command(&context, &one, &["export"]).spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 10]).await.unwrap();
    assert_eq!(finish(child).await.code, Some(0));
}

async fn refused_rows_are_reported_by_line(context: Context) {
    let url = context.database().await;
    let text = rows(2) + "\nnope\n" + &rows(1) + "{\"name\":\"\",\"email\":\"x\"}\n";
    fs::write(context.folder().join("users.jsonl"), &text).unwrap();
    let output = run(&context, &url, &["import", "users.jsonl", "--dry-run"]).await;
    assert!(output.out.contains("(nothing was written)"), "{}", output.out);
    assert_eq!((output.code, count(&context, &url).await), (Some(3), 0));
    let output = run(&context, &url, &["import", "users.jsonl", "--atomic"]).await;
    assert!(output.out.starts_with("5 rows: 0 created, 3 refused, 2 undone in "), "{}", output.out);
    assert!(output.out.contains("(nothing was written)"), "{}", output.out);
    assert_eq!((output.code, count(&context, &url).await), (Some(3), 0));
    let output = run(&context, &url, &["import", "users.jsonl"]).await;
    assert_eq!(
        output.err.lines().collect::<Vec<_>>(),
        [
            "line 4: not valid JSON at column 2",
            "line 5: email already in use",
            "line 6: name: must not be blank; email: must be an email address such as ann@example.com",
            "users-api: some rows were refused",
        ]
    );
    assert!(output.out.starts_with("5 rows: 2 created, 3 refused in "), "{}", output.out);
    assert_eq!((output.code, count(&context, &url).await), (Some(3), 2));
    let output = run(&context, &url, &["import", "users.jsonl", "--mode", "upsert", "--from-line", "5"]).await;
    assert!(output.out.starts_with("2 rows: 0 created, 1 unchanged, 1 refused in "), "{}", output.out);
}

async fn failures_are_reported_and_leave_existing_files_unchanged(context: Context) {
    let url = context.database().await;
    fs::write(context.folder().join("users.csv"), "name,phone\nAnn,1\n").unwrap();
    for (arguments, code, part) in [
        (&["import", "nowhere.csv"][..], 1, "nowhere.csv"),
        (&["import", "users.csv"], 1, "unknown column \"phone\""),
        (&["import", "users.csv", "--mode", "replace"], 2, "insert, upsert"),
        (&["import"], 2, "<FILE>"),
        (&["export", "sort=age"], 2, "must be one of createdAt"),
        (&["export", "--output", "nowhere/users.csv"], 1, "nowhere/users.csv"),
    ] {
        let output = run(&context, &url, arguments).await;
        assert_eq!(output.code, Some(code), "{arguments:?}: {}", output.err);
        assert!(output.err.contains(part), "{arguments:?}: {}", output.err);
    }
    // A failed export does not overwrite an existing file.
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let mut nowhere = command(&context, &format!("mysql://ann@127.0.0.1:{port}/app"), &["export", "-o", "users.csv"]);
    let output = finish(nowhere.env("USERS_API__POOL__ACQUIRE", "10ms").spawn().unwrap()).await;
    assert_eq!(output.code, Some(1), "{}", output.err);
    assert_eq!(fs::read_to_string(context.folder().join("users.csv")).unwrap(), "name,phone\nAnn,1\n");
    let database = connect(&url).await;
    database.execute_unprepared("ALTER TABLE users RENAME TO away").await.unwrap();
    database.close().await.unwrap();
    let mut without = command(&context, &url, &["export", "-o", "users.csv"]);
    let output = finish(without.env("USERS_API__DATABASE__MIGRATE", "off").spawn().unwrap()).await;
    assert_eq!(output.code, Some(1), "{}", output.err);
    assert_eq!(fs::read_to_string(context.folder().join("users.csv")).unwrap(), "name,phone\nAnn,1\n");
}

async fn an_interrupted_import_can_be_resumed(context: Context) {
    let url = context.database().await;
    let text = rows(60_000);
    fs::write(context.folder().join("users.ndjson"), &text).unwrap();
    let mut child = command(&context, &url, &["import", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    // The input never ends.
    let mut input = child.stdin.take().unwrap();
    let feeding = tokio::spawn(async move {
        let _ = input.write_all(&text.as_bytes()[..text.len() - 1000]).await;
        std::future::pending::<()>().await;
        drop(input);
    });
    eventually("some rows are written", || async { (written(&url).await > 0).then_some(()) }).await;
    signal(&child, "INT").await;
    let output = finish(child).await;
    feeding.abort();
    assert_eq!(output.code, Some(4), "{}", output.err);
    let line = output.err.trim().rsplit(' ').next().unwrap().to_owned();
    let written = count(&context, &url).await;
    assert_eq!(output.err.trim(), format!("users-api: stopped; continue with --from-line {}", written + 1));
    let output = run(&context, &url, &["import", "users.ndjson", "--from-line", &line]).await;
    assert_eq!((output.code, output.err.as_str()), (Some(0), ""), "no row is written twice");
    assert_eq!(count(&context, &url).await, 60_000);
}

async fn an_import_that_waits_for_input_can_be_interrupted(context: Context) {
    let url = context.database().await;
    let mut child = command(&context, &url, &["import", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(rows(3).as_bytes()).await.unwrap();
    eventually("the rows are written", || async { (written(&url).await == 3).then_some(()) }).await;
    signal(&child, "INT").await;
    let output = finish(child).await;
    assert_eq!((output.code, output.err.as_str()), (Some(4), "users-api: stopped; continue with --from-line 4\n"));
    drop(input);
}

async fn a_killed_import_can_be_repeated_without_duplicates(context: Context) {
    let url = context.database().await;
    fs::write(context.folder().join("users.ndjson"), rows(30_000)).unwrap();
    for minimum in [1, 10_000] {
        let mut child = command(&context, &url, &["import", "users.ndjson", "--mode", "upsert"]).spawn().unwrap();
        eventually("some rows are written", || async { (written(&url).await >= minimum).then_some(()) }).await;
        child.kill().await.unwrap();
    }
    let output = run(&context, &url, &["import", "users.ndjson", "--mode", "upsert"]).await;
    assert_eq!(output.code, Some(0), "{}", output.err);
    assert!(output.out.contains(" unchanged"), "{}", output.out);
    assert_eq!(count(&context, &url).await, 30_000);
}

async fn an_interrupted_export_can_be_resumed(context: Context) {
    let url = context.database().await;
    fs::write(context.folder().join("users.ndjson"), rows(30_000)).unwrap();
    assert_eq!(run(&context, &url, &["import", "users.ndjson"]).await.code, Some(0));
    let mut child = command(&context, &url, &["export", "fields=email&sort=-email"]).spawn().unwrap();
    // It writes faster than this reads, so it has not finished when it receives the signal.
    let mut out = child.stdout.take().unwrap();
    let mut start = vec![0; 1000];
    out.read_exact(&mut start).await.unwrap();
    signal(&child, "TERM").await;
    let mut text = String::from_utf8(start).unwrap();
    out.read_to_string(&mut text).await.unwrap();
    let output = finish(child).await;
    assert_eq!(output.code, Some(4), "{}", output.err);
    let resume = output.err.split('\'').nth(1).unwrap();
    assert!(resume.starts_with("fields=email&sort=-email&cursor="), "{}", output.err);
    let remaining = run(&context, &url, &["export", resume]).await;
    assert!(!text.is_empty() && !remaining.out.is_empty());
    let complete = run(&context, &url, &["export", "fields=email&sort=-email"]).await;
    assert_eq!(text + &remaining.out, complete.out);
}

async fn a_waiting_export_can_be_interrupted(context: Context) {
    let url = context.database().await;
    fs::write(context.folder().join("users.ndjson"), rows(5000)).unwrap();
    assert_eq!(run(&context, &url, &["import", "users.ndjson"]).await.code, Some(0));
    let mut child = command(&context, &url, &["export"]).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 1]).await.unwrap();
    // After the first signal it waits for the reader, which never reads; after the second one it does not.
    signal(&child, "INT").await;
    signal(&child, "TERM").await;
    assert!([130, 143].contains(&finish(child).await.code.unwrap()));
    drop(out);
    // The server never responds.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("mysql://ann@{}/app", listener.local_addr().unwrap());
    let child = command(&context, &silent, &["export"]).spawn().unwrap();
    let connection = listener.accept().await.unwrap();
    signal(&child, "INT").await;
    let output = finish(child).await;
    assert_eq!((output.code, output.err.as_str()), (Some(4), "users-api: stopped before anything was done\n"));
    drop(connection);
}

async fn signal(child: &Child, name: &str) {
    let id = child.id().unwrap();
    let sent = Command::new("/bin/sh").arg("-c").arg(format!("kill -{name} {id}")).status().await.unwrap();
    assert!(sent.success());
}

async fn an_unclosed_quote_is_an_error(context: Context) {
    let url = context.database().await;
    let mut text = "name,email\n".to_owned();
    for number in 1..=3000 {
        let quote = if number == 6 { "\"" } else { "" };
        writeln!(text, "{quote}User {number},user{number}@example.com").unwrap();
    }
    fs::write(context.folder().join("users.csv"), &text).unwrap();
    let error = "users-api: line 7: a quoted cell is not closed; lines 7 to 3001 were not read";
    let hint = "; close the quote and continue with --from-line 7\n";
    for (options, out, err) in [
        (&["--atomic"][..], "0 rows: 0 created in ", format!("{error}\n")),
        (&["--dry-run"], "5 rows: 5 created in ", format!("{error}{hint}")),
        (&[], "5 rows: 5 created in ", format!("{error}{hint}")),
        (&["--from-line", "7"], "0 rows: 0 created in ", format!("{error}{hint}")),
        (&["--from-line", "9"], "0 rows: 0 created in ", format!("{error}{hint}")),
    ] {
        let output = run(&context, &url, &[&["import", "users.csv"][..], options].concat()).await;
        assert_eq!((output.code, output.err), (Some(1), err), "{options:?}");
        assert!(output.out.starts_with(out), "{options:?}: {}", output.out);
        let is_marked = output.out.ends_with(" (nothing was written)\n");
        assert_eq!(is_marked, options.contains(&"--atomic") || options.contains(&"--dry-run"), "{}", output.out);
        let written = if options.is_empty() || options[0] == "--from-line" { 5 } else { 0 };
        assert_eq!(count(&context, &url).await, written, "{options:?}");
    }
    fs::write(context.folder().join("users.csv"), text.replace('"', "")).unwrap();
    let output = run(&context, &url, &["import", "users.csv", "--from-line", "7"]).await;
    assert_eq!((output.code, output.err.as_str()), (Some(0), ""));
    assert!(output.out.starts_with("2,995 rows: 2,995 created in "), "{}", output.out);
    let broken = "name,email\n\"Ann\nBob\" x,ann@example.com\nA\"nn,ann@example.com\n\"Ann\nBob\",a@example.com\n";
    fs::write(context.folder().join("users.csv"), broken).unwrap();
    let output = run(&context, &url, &["import", "users.csv"]).await;
    assert_eq!(
        output.err.lines().collect::<Vec<_>>(),
        [
            "lines 2 to 3: text follows the closing quote of a cell",
            "line 4: a cell that contains a quote must be enclosed in quotes, and the quote doubled",
            "lines 5 to 6: name: must not contain control characters",
            "users-api: some rows were refused",
        ]
    );
    assert_eq!(output.code, Some(3));
}
