//! `users-api feed tail`.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::{
    cases,
    feed::latest,
    harness::{Context, binary},
};

cases![events_are_printed_as_they_happen, a_stopped_tail_continues, invalid_options_are_refused];

/// Starts it with its output as lines.
fn tail(context: &Context, url: &str, arguments: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut command = binary(context.folder(), &[("DATABASE_URL", url), ("RUST_LOG", "off")]);
    command.args(["feed", "tail"]).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

/// Stops it by a signal. Returns the exit code and what it has printed to standard error.
async fn stop(mut child: Child) -> (Option<i32>, String) {
    let kill = format!("kill -INT {}", child.id().unwrap());
    assert!(Command::new("/bin/sh").arg("-c").arg(kill).status().await.unwrap().success());
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).await.unwrap();
    (child.wait().await.unwrap().code(), text)
}

async fn events_are_printed_as_they_happen(context: Context) {
    let app = context.app().await;
    let begin = latest(&app).await;
    let (child, mut lines) = tail(&context, &app.url, &["--after", &begin]);
    let ann = app.create("Ann \"A\"", "ann@example.com").await;
    let line = lines.next_line().await.unwrap().unwrap();
    let id = ann["id"].as_str().unwrap();
    let time = ann["createdAt"].as_str().unwrap();
    assert_eq!(line, format!("{time}  {id}  version 1  user.created  anyone  \"Ann \\\"A\\\"\"  \"ann@example.com\""));
    let (json_child, mut json_lines) =
        tail(&context, &app.url, &["--json", "--after", "earliest", "--type", "user.deleted", "--user", id]);
    app.delete(&format!("/users/{id}")).await;
    assert!(lines.next_line().await.unwrap().unwrap().ends_with("version 2  user.deleted  anyone"));
    let event: Value = serde_json::from_str(&json_lines.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!(event["data"], json!({"id": id, "version": 2}));
    let position = latest(&app).await;
    for child in [child, json_child] {
        let expected = format!("users-api: stopped; continue with --after {position}\n");
        assert_eq!(stop(child).await, (Some(4), expected));
    }
}

async fn a_stopped_tail_continues(context: Context) {
    let app = context.app().await;
    let (child, mut lines) = tail(&context, &app.url, &["--json", "--after", "earliest"]);
    app.create("Ann", "ann@example.com").await;
    lines.next_line().await.unwrap().unwrap();
    let (_, text) = stop(child).await;
    for number in 0..300 {
        app.create("Ben", &format!("ben{number}@example.com")).await;
    }
    let position = text.trim().rsplit(' ').next().unwrap();
    let (child, mut lines) = tail(&context, &app.url, &["--json", "--after", position]);
    for number in 0..300 {
        let event: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
        assert_eq!(event["data"]["email"], format!("ben{number}@example.com"));
    }
    // A reader that closes the pipe, as `head` does, ends it with the next event.
    drop(lines);
    app.create("Cem", "cem@example.com").await;
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
}

async fn invalid_options_are_refused(context: Context) {
    let url = context.database().await;
    for arguments in [&["--after", "yesterday"][..], &["--user", "x"], &["--type", "user.gone"]] {
        let (child, _) = tail(&context, &url, arguments);
        assert_eq!(child.wait_with_output().await.unwrap().status.code(), Some(2), "{arguments:?}");
    }
    let mut disabled = binary(context.folder(), &[("DATABASE_URL", &url), ("USERS_API__FEED__ENABLED", "false")]);
    let output = disabled.args(["feed", "tail"]).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && text.contains("feed.enabled"), "{text}");
}
