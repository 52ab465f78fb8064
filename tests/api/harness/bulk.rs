//! Bulk requests and their result lines.

use std::fmt::Write as _;

use reqwest::Method;
use serde_json::Value;

use super::{App, Reply};

pub const NDJSON: &str = "application/x-ndjson";

pub async fn bulk(app: &App, query: &str, media_type: &str, key: Option<&str>, body: impl Into<String>) -> Reply {
    let mut request = app.request(Method::POST, &format!("/users/bulk{query}")).header("content-type", media_type);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    Reply::of(request.body(body.into())).await
}

pub fn rows(numbers: std::ops::Range<usize>) -> String {
    let mut text = String::new();
    for number in numbers {
        writeln!(text, r#"{{"name":"User {number}","email":"user{number}@example.com"}}"#).unwrap();
    }
    text
}

pub fn lines(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.header("content-type"), NDJSON, "{}", reply.text);
    reply.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the number, the outcome and the problem code, if any, of each result line.
pub fn outcomes(reply: &Reply) -> Vec<String> {
    lines(reply).iter().map(outcome_of).collect()
}

pub fn outcome_of(line: &Value) -> String {
    let code = line["problem"]["code"].as_str().map_or(String::new(), |code| format!(" {code}"));
    format!("{} {}{code}", line["line"], line["outcome"].as_str().unwrap())
}

pub async fn count(app: &App) -> u64 {
    app.get("/users?limit=1&count=exact").await.header("x-total-count").parse().unwrap()
}
