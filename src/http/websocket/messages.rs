//! The messages of the protocol `users-api.v1`: JSON with a `type`.

use actix_web::web::{BufMut, BytesMut};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::feed::{After, Event, EventType, EventTypes, Filter, Position, ResyncReason};

const MAX_IDS: usize = 100;

/// A message of a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ClientMessage {
    /// What to read.
    Subscribe(After, Filter),
    /// Another ticket, because what permitted the first one expires.
    Renew(String),
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum Raw {
    Subscribe { after: Option<String>, ids: Option<Vec<Uuid>>, types: Option<Vec<EventType>> },
    Renew { ticket: String },
}

/// Why a message is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MessageError {
    pub(super) code: &'static str,
    pub(super) detail: String,
}

impl MessageError {
    pub(super) fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new("invalid-message", detail)
    }
}

impl ClientMessage {
    pub(super) fn parse(text: &str) -> Result<Self, MessageError> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| MessageError::new("malformed-json", error.to_string()))?;
        if !value.is_object() {
            return Err(MessageError::invalid("a message is a JSON object"));
        }
        // `null` means the same as a missing member.
        let (after, ids, types) = match Raw::deserialize(value) {
            Ok(Raw::Subscribe { after, ids, types }) => (after, ids, types),
            Ok(Raw::Renew { ticket }) => return Ok(Self::Renew(ticket)),
            Err(error) => return Err(MessageError::invalid(error.to_string())),
        };
        let after = after.map_or(Ok(After::Now), |after| after.parse());
        let after = after.map_err(|error| MessageError::invalid(format!("after {}", error.message)))?;
        if ids.as_ref().is_some_and(|ids| !(1..=MAX_IDS).contains(&ids.len())) {
            return Err(MessageError::invalid(format!("ids must have 1 to {MAX_IDS} ids")));
        }
        if types.as_ref().is_some_and(Vec::is_empty) {
            return Err(MessageError::invalid("types must have at least one type"));
        }
        let users = ids.map(|ids| ids.into_iter().map(Into::into).collect());
        Ok(Self::Subscribe(after, Filter { users, types: types.map(EventTypes), receiver: None }))
    }
}

/// Events are sent from here on.
pub(super) fn hello(position: &Position, heartbeat_ms: u128) -> String {
    json!({"type": "hello", "position": position.to_string(), "heartbeatMs": heartbeat_ms}).to_string()
}

/// The events before this position have been sent, or are not wanted.
pub(super) fn bookmark(position: &Position) -> String {
    json!({"type": "bookmark", "position": position.to_string()}).to_string()
}

/// Events may be missing before this position.
pub(super) fn resync(reason: ResyncReason, position: &Position) -> String {
    json!({"type": "resync", "reason": reason, "position": position.to_string()}).to_string()
}

/// A message was refused, or the connection is closed.
pub(super) fn error(error: &MessageError) -> String {
    json!({"type": "error", "code": error.code, "detail": error.detail}).to_string()
}

/// Events of changes. They are encoded already.
pub(super) fn events(events: &[Event], position: &Position) -> BytesMut {
    const OVERHEAD: usize = 128;
    let length: usize = events.iter().map(|event| event.json().len() + 1).sum();
    let mut message = BytesMut::with_capacity(length + OVERHEAD);
    message.put_slice(b"{\"type\":\"events\",\"events\":[");
    for (index, event) in events.iter().enumerate() {
        if index > 0 {
            message.put_u8(b',');
        }
        message.put_slice(&event.json());
    }
    message.put_slice(format!("],\"position\":\"{position}\"}}").as_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> &'static str {
        ClientMessage::parse(text).unwrap_err().code
    }

    #[test]
    fn subscriptions_are_parsed() {
        assert_eq!(
            ClientMessage::parse(r#"{"type":"subscribe"}"#),
            Ok(ClientMessage::Subscribe(After::Now, Filter::default()))
        );
        let full = r#"{"ids":["01a22863-a669-7ba5-9206-c026b54b322d"],"types":["user.deleted"],"after":"earliest","type":"subscribe"}"#;
        let Ok(ClientMessage::Subscribe(after, filter)) = ClientMessage::parse(full) else { panic!("{full}") };
        assert_eq!((after, filter.types), (After::Earliest, Some(EventTypes(vec![EventType::Deleted]))));
        assert_eq!(filter.users.unwrap().len(), 1);
        let null = r#"{"type":"subscribe","after":null,"ids":null,"types":null}"#;
        assert_eq!(ClientMessage::parse(null), ClientMessage::parse(r#"{"type":"subscribe"}"#));
    }

    #[test]
    fn other_messages_are_refused() {
        for text in ["", "{", "subscribe", "{\"type\":\"subscribe\"} x"] {
            assert_eq!(refused(text), "malformed-json", "{text}");
        }
        for text in [
            "[]",
            r#"["subscribe",null,null,null]"#,
            "{}",
            r#"{"type":"Subscribe"}"#,
            r#"{"type":"subscribe","since":1}"#,
            r#"{"type":"subscribe","after":"yesterday"}"#,
            r#"{"type":"subscribe","ids":[]}"#,
            r#"{"type":"subscribe","ids":["x"]}"#,
            r#"{"type":"subscribe","types":[]}"#,
            r#"{"type":"subscribe","types":["user.gone"]}"#,
            r#"{"type":"renew"}"#,
            r#"{"type":"renew","ticket":1}"#,
        ] {
            assert_eq!(refused(text), "invalid-message", "{text}");
        }
    }
}
