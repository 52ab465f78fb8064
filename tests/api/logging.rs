//! A stalled log reader blocks neither requests nor signals.

use std::{
    io::Write,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::{
    cases,
    harness::{Context, Service, binary, client, eventually, read_message},
};

cases![
    a_stalled_reader_blocks_neither_requests_nor_signals,
    a_second_signal_acts_while_the_reader_stalls,
    dropped_lines_are_counted_and_reported,
    a_failed_start_exits_even_if_no_one_reads_stderr,
    imports_and_exports_stop_even_if_no_one_reads_their_output,
];

/// More than the pipe and the log buffer hold.
const REQUESTS: usize = 6000;
/// Long enough for a busy machine. Without the limits under test, the process would never exit.
const LIMIT: Duration = Duration::from_secs(60);

/// Sends requests with ids of the maximum length. Each request is logged.
async fn request(service: &Service, count: usize) {
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    let request = format!("GET /health/live HTTP/1.1\r\nhost: localhost\r\nx-request-id: {}\r\n\r\n", "x".repeat(128));
    for number in 0..count {
        stream.write_all(request.as_bytes()).await.unwrap();
        let (head, _) = read_message(&mut stream).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "request {number}: {head}");
    }
}

async fn a_stalled_reader_blocks_neither_requests_nor_signals(context: Context) {
    for format in ["json", "human"] {
        let (mut service, _unread) =
            Service::start_unread(context.folder(), &[("USERS_API__LOG__FORMAT", format)]).await;
        request(&service, REQUESTS).await;
        let ready = service.get(&client(), "/health/ready").send().await.unwrap();
        assert_eq!(ready.status(), 200);
        service.signal("TERM").await;
        assert_eq!(service.ended().await.code(), Some(0));
    }
}

async fn a_second_signal_acts_while_the_reader_stalls(context: Context) {
    let variables = [("USERS_API__SERVER__DRAIN_DELAY", "1h")];
    let (mut service, _unread) = Service::start_unread(context.folder(), &variables).await;
    request(&service, REQUESTS).await;
    service.signal("TERM").await;
    let draining = || async {
        let ready = service.get(&client(), "/health/ready").send().await.unwrap();
        (ready.status() == 503).then_some(())
    };
    eventually("the service is no longer ready", draining).await;
    service.signal("TERM").await;
    assert_eq!(service.ended().await.code(), Some(143));
}

async fn dropped_lines_are_counted_and_reported(context: Context) {
    let (mut service, output) = Service::start_unread(context.folder(), &[]).await;
    request(&service, REQUESTS).await;
    let metrics = service.get(&client(), "/metrics").send().await.unwrap().text().await.unwrap();
    let counted = metrics.lines().find_map(|line| line.strip_prefix("log_lines_dropped_total ")).unwrap();
    assert!(counted.parse::<u64>().unwrap() > 0, "{counted} lines dropped");
    // The reader resumes.
    let mut output = BufReader::new(output).lines();
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line: &Value| line["message"] != "log lines dropped") {
        lines.push(serde_json::from_str(&output.next_line().await.unwrap().unwrap()).unwrap());
    }
    service.signal("TERM").await;
    while let Some(line) = output.next_line().await.unwrap() {
        lines.push(serde_json::from_str(&line).unwrap());
    }
    assert_eq!(service.ended().await.code(), Some(0));
    let requests = lines.iter().filter(|line| line["message"] == "request" && line["route"] == "/health/live").count();
    let reports: Vec<&Value> = lines.iter().filter(|line| line["message"] == "log lines dropped").collect();
    let dropped: u64 = reports.iter().map(|line| line["count"].as_u64().unwrap()).sum();
    assert_eq!(reports[0]["level"], "WARN");
    let missing = (REQUESTS - requests) as u64;
    // The metrics request is logged, too.
    assert!(dropped == missing || dropped == missing + 1, "{dropped} reported, {missing} missing");
    assert_eq!(lines.last().unwrap()["message"], "stopped");
}

async fn a_failed_start_exits_even_if_no_one_reads_stderr(context: Context) {
    let (output, _reader) = full_pipe();
    let mut command = binary(context.folder(), &[("DATABASE_URL", "sqlite:///nowhere/at/all.db")]);
    let mut child = command.stdout(Stdio::null()).stderr(output).spawn().unwrap();
    let status = tokio::time::timeout(LIMIT, child.wait()).await.expect("the process did not exit").unwrap();
    assert_eq!(status.code(), Some(1));
}

async fn imports_and_exports_stop_even_if_no_one_reads_their_output(context: Context) {
    let url = context.database().await;
    let rows = (0..5000).map(|number| {
        let name = "x".repeat(150);
        format!("{{\"name\":\"{name}\",\"email\":\"user{number}@example.com\"}}\n")
    });
    let file = context.folder().join("users.ndjson");
    std::fs::write(&file, rows.collect::<String>()).unwrap();
    let variables = [("DATABASE_URL", url.as_str())];
    let imported = binary(context.folder(), &variables).arg("import").arg(&file).output().await.unwrap();
    assert_eq!(imported.status.code(), Some(0));
    // Each row is refused with a line, and each user exported.
    for arguments in [&["import", "users.ndjson"][..], &["export"]] {
        let (output, _reader) = full_pipe();
        let mut command = binary(context.folder(), &variables);
        let mut child = command.args(arguments).stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap();
        let id = child.id().unwrap();
        let in_progress = || async { (handles_sigterm(id) && bytes_read(id) > 250_000).then_some(()) };
        eventually("the command is in progress", in_progress).await;
        let killed = tokio::process::Command::new("/bin/sh").arg("-c").arg(format!("kill -TERM {id}")).status().await;
        assert!(killed.unwrap().success());
        let status = tokio::time::timeout(LIMIT, child.wait()).await.expect("the process did not exit").unwrap();
        assert_eq!(status.code(), Some(4), "{arguments:?}");
    }
}

/// Returns the writer and the reader of a full pipe.
fn full_pipe() -> (std::io::PipeWriter, std::io::PipeReader) {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut filling = writer.try_clone().unwrap();
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    // The thread ends when the reader is dropped.
    std::thread::spawn(move || {
        while let Ok(bytes) = filling.write(&[b'x'; 4096]) {
            count.fetch_add(bytes, Ordering::Relaxed);
        }
    });
    while written.load(Ordering::Relaxed) < 60 * 1024 {
        std::thread::yield_now();
    }
    (writer, reader)
}

/// Whether the process has a handler for SIGTERM.
fn handles_sigterm(id: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << 14) != 0
}

/// The number of bytes that the process has read.
fn bytes_read(id: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{id}/io")).unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar:")).unwrap().trim().parse().unwrap()
}
