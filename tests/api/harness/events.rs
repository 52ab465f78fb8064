use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use tokio::time::timeout;

use super::App;

/// A message of an event stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub id: String,
    /// Empty without an `event` field: the message only moves the position.
    pub event: String,
    pub data: String,
}

impl Message {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Reads an event stream as a browser does.
pub struct EventStream {
    response: Response,
    received: String,
}

impl EventStream {
    /// Connects, after a position if it is not empty, and returns the stream and its first message.
    pub async fn open(app: &App, query: &str, last_event_id: &str) -> (Self, Message) {
        let mut request = app.request(Method::GET, &format!("/users/changes{query}"));
        if !last_event_id.is_empty() {
            request = request.header("last-event-id", last_event_id);
        }
        let mut stream = Self::of(request).await.unwrap();
        let first = stream.next().await.expect("a first message");
        (stream, first)
    }

    pub async fn of(request: RequestBuilder) -> Result<Self, StatusCode> {
        let response =
            request.header("accept", "text/event-stream").send().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
        if response.status() != 200 {
            return Err(response.status());
        }
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Ok(Self { response, received: String::new() })
    }

    /// Returns the next message; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(end) = self.received.find("\n\n") {
                let block: String = self.received.drain(..end + 2).collect();
                match parse(block.trim_end()) {
                    Some(message) => return Some(message),
                    None => continue,
                }
            }
            let chunk = timeout(Duration::from_secs(40), self.response.chunk()).await.expect("the stream is silent");
            self.received += std::str::from_utf8(&chunk.ok()??).unwrap();
        }
    }

    /// Returns the next event.
    pub async fn event(&mut self) -> Value {
        loop {
            let message = self.next().await.expect("the stream ended");
            if message.event.starts_with("user.") {
                assert_eq!(message.json()["position"], message.id.as_str());
                assert_eq!(message.json()["type"], message.event.as_str());
                return message.json();
            }
        }
    }
}

/// Parses the fields of a message; `None` for a comment.
fn parse(block: &str) -> Option<Message> {
    let mut message = Message::default();
    let mut is_comment = true;
    for line in block.lines().filter(|line| !line.starts_with(':')) {
        is_comment = false;
        let (field, value) = line.split_once(": ").unwrap_or((line, ""));
        match field {
            "id" => value.clone_into(&mut message.id),
            "event" => value.clone_into(&mut message.event),
            "data" => value.clone_into(&mut message.data),
            "retry" => assert!(value.parse::<u32>().is_ok(), "{block}"),
            _ => panic!("{block}"),
        }
    }
    (!is_comment).then_some(message)
}
