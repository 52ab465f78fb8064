//! A log whose reader stalls stops neither requests nor signals.

use std::process::Stdio;

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::{
    cases,
    harness::{Context, Service, binary, client, read_message},
};

cases![
    a_stalled_reader_stops_neither_requests_nor_signals,
    a_second_signal_acts_while_the_reader_stalls,
    dropped_lines_are_counted_and_reported,
    a_failed_start_ends_though_no_one_reads_its_errors,
];

/// More than a pipe and the buffer of the log hold.
const REQUESTS: usize = 6000;

/// Requests with ids of the greatest length, each of which is logged.
async fn request(service: &Service, count: usize) {
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    let request = format!("GET /health/live HTTP/1.1\r\nhost: localhost\r\nx-request-id: {}\r\n\r\n", "x".repeat(128));
    for number in 0..count {
        stream.write_all(request.as_bytes()).await.unwrap();
        let (head, _) = read_message(&mut stream).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "request {number}: {head}");
    }
}

async fn a_stalled_reader_stops_neither_requests_nor_signals(context: Context) {
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
    crate::harness::eventually("not ready any more", draining).await;
    service.signal("TERM").await;
    assert_eq!(service.ended().await.code(), Some(143));
}

async fn dropped_lines_are_counted_and_reported(context: Context) {
    let (mut service, output) = Service::start_unread(context.folder(), &[]).await;
    request(&service, REQUESTS).await;
    let metrics = service.get(&client(), "/metrics").send().await.unwrap().text().await.unwrap();
    let counted = metrics.lines().find_map(|line| line.strip_prefix("log_lines_dropped_total ")).unwrap();
    assert!(counted.parse::<u64>().unwrap() > 0, "{counted} lines dropped");
    // The reader comes back, and the service ends with a word.
    let reading = tokio::spawn(async move {
        let mut output = BufReader::new(output).lines();
        let mut lines = Vec::new();
        while let Some(line) = output.next_line().await.unwrap() {
            lines.push(serde_json::from_str::<Value>(&line).unwrap());
        }
        lines
    });
    service.signal("TERM").await;
    assert_eq!(service.ended().await.code(), Some(0));
    let lines = reading.await.unwrap();
    let requests = lines.iter().filter(|line| line["message"] == "request" && line["route"] == "/health/live").count();
    let reports: Vec<&Value> = lines.iter().filter(|line| line["message"] == "log lines dropped").collect();
    let dropped: u64 = reports.iter().map(|line| line["count"].as_u64().unwrap()).sum();
    assert_eq!(reports[0]["level"], "WARN");
    let missing = (REQUESTS - requests) as u64;
    // The request for the metrics has a line, too.
    assert!(dropped == missing || dropped == missing + 1, "{dropped} reported, {missing} missing");
    assert_eq!(lines.last().unwrap()["message"], "stopped");
}

async fn a_failed_start_ends_though_no_one_reads_its_errors(context: Context) {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut full = writer.try_clone().unwrap();
    // As much as a pipe takes.
    let filling = std::thread::spawn(move || while std::io::Write::write(&mut full, &[b'x'; 4096]).is_ok() {});
    let mut command = binary(context.folder(), &[("DATABASE_URL", "sqlite:///nowhere/at/all.db")]);
    let mut child = command.stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    let status = tokio::time::timeout(std::time::Duration::from_secs(60), child.wait()).await.expect("it did not end");
    assert_eq!(status.unwrap().code(), Some(1));
    drop(reader);
    filling.join().unwrap();
}
