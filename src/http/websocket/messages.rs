//! The messages of the protocol `users-api.v1`: JSON with a `type`. The types are also the schemas of the AsyncAPI document.

use actix_web::web::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::AdditionalProperties},
};
use uuid::Uuid;

use crate::{
    domain::UserId,
    exchange::{MAX_IDS, TextValue, list, reference, text},
    feed::{After, Event, EventBody, EventType, EventTypes, Filter, Position, ResyncReason},
    http::feed_reader::MAX_EVENTS,
};

/// A message of a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ClientMessage {
    /// Starts the subscription.
    Subscribe(After, Filter),
    /// Another ticket, because the grant of the first one expires.
    Renew(String),
}

/// The JSON of a [`ClientMessage`]. `null` means the same as a missing member.
#[derive(Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum ClientMessageJson {
    /// Starts the subscription: once in a connection.
    Subscribe {
        #[schema(value_type = After, required = false)]
        after: Option<String>,
        #[schema(schema_with = ids, required = false)]
        ids: Option<Vec<Uuid>>,
        #[schema(schema_with = types, required = false)]
        types: Option<Vec<EventType>>,
    },
    /// Another ticket of the same caller for the same user.
    Renew {
        /// A ticket of `POST /ws/tickets`.
        ticket: String,
    },
}

fn ids() -> RefOr<Schema> {
    let description = "Only events of these users. Default: all users, or the user of the ticket.";
    list(UserId::schema()).max_items(Some(MAX_IDS)).description(Some(description)).into()
}

fn types() -> RefOr<Schema> {
    let description = "Only events of these types. Messages are sent regardless. Default: all types.";
    list(reference::<EventType>()).description(Some(description)).into()
}

/// A message of the service, other than those with events.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum ServerMessage<'a> {
    /// The position where the subscription begins. Every event after it follows.
    Hello {
        #[schema(value_type = Position)]
        position: &'a Position,
        /// The mean interval of pings in milliseconds.
        #[serde(rename = "heartbeatMs")]
        #[schema(value_type = u64, minimum = 1)]
        heartbeat_ms: u128,
    },
    /// All matching events up to and including this position have been sent.
    Bookmark {
        #[schema(value_type = Position)]
        position: &'a Position,
    },
    /// Events up to and including this position may be missing: the client reads the users again. Later events follow.
    Resync {
        reason: ResyncReason,
        #[schema(value_type = Position)]
        position: &'a Position,
    },
    /// A message was refused.
    Error {
        code: ErrorCode,
        /// The reason, for developers. It can change.
        detail: &'a str,
    },
}

/// The code of a refused message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::http) enum ErrorCode {
    /// The message is not JSON. The connection is closed with 1007.
    MalformedJson,
    /// The message is not as the AsyncAPI document describes it.
    InvalidMessage,
    /// A connection has one subscription.
    SubscribedAlready,
}

/// A refused message: the code and the reason.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MessageError {
    pub(super) code: ErrorCode,
    pub(super) detail: String,
}

impl MessageError {
    pub(super) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidMessage, detail)
    }
}

impl ServerMessage<'_> {
    pub(super) fn to_json(&self) -> String {
        // Strings and numbers always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl<'a> From<&'a MessageError> for ServerMessage<'a> {
    fn from(MessageError { code, detail }: &'a MessageError) -> Self {
        Self::Error { code: *code, detail }
    }
}

impl ClientMessage {
    pub(super) fn parse(text: &str) -> Result<Self, MessageError> {
        let value: Value = serde_json::from_str(text)
            .map_err(|error| MessageError::new(ErrorCode::MalformedJson, error.to_string()))?;
        if !value.is_object() {
            return Err(MessageError::invalid("the message must be a JSON object"));
        }
        let (after, ids, types) = match ClientMessageJson::deserialize(value) {
            Ok(ClientMessageJson::Subscribe { after, ids, types }) => (after, ids, types),
            Ok(ClientMessageJson::Renew { ticket }) => return Ok(Self::Renew(ticket)),
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

/// Returns the schema of [`events`].
fn events_schema() -> RefOr<Schema> {
    ObjectBuilder::new()
        .description(Some("Events in the order of their positions."))
        .property("type", text().enum_values(Some(["events"])))
        .property("events", list(reference::<EventBody<'_>>()).max_items(Some(MAX_EVENTS)))
        .property("position", reference::<Position>())
        .required("type")
        .required("events")
        .required("position")
        .into()
}

/// Returns the schema of each type of message.
pub(in crate::http) fn schemas() -> Vec<RefOr<Schema>> {
    let mut of_client = variants(ClientMessageJson::schema());
    for schema in &mut of_client {
        if let RefOr::T(Schema::Object(message)) = schema {
            // `deny_unknown_fields` of an enum is not part of the derived schemas.
            message.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        }
    }
    let of_server = variants(<ServerMessage<'_> as PartialSchema>::schema());
    of_client.into_iter().chain(of_server).chain([events_schema()]).collect()
}

fn variants(messages: RefOr<Schema>) -> Vec<RefOr<Schema>> {
    match messages {
        RefOr::T(Schema::OneOf(variants)) => variants.items,
        other => vec![other],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn refused(text: &str) -> ErrorCode {
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
            assert_eq!(refused(text), ErrorCode::MalformedJson, "{text}");
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
            assert_eq!(refused(text), ErrorCode::InvalidMessage, "{text}");
        }
    }

    #[test]
    fn messages_have_the_members_of_their_schemas() {
        let position: Position = "a.1".parse().unwrap();
        let error = MessageError::invalid("x");
        let messages = [
            ServerMessage::Hello { position: &position, heartbeat_ms: 1 }.to_json(),
            ServerMessage::Bookmark { position: &position }.to_json(),
            ServerMessage::Resync { reason: ResyncReason::Epoch, position: &position }.to_json(),
            ServerMessage::from(&error).to_json(),
            String::from_utf8(events(&[], &position).to_vec()).unwrap(),
        ];
        let schemas: Vec<Value> = schemas().iter().map(|schema| serde_json::to_value(schema).unwrap()).collect();
        for message in messages.map(|message| serde_json::from_str::<Value>(&message).unwrap()) {
            let schema = schemas.iter().find(|it| it["properties"]["type"]["enum"][0] == message["type"]).unwrap();
            let names = |members: &Value| members.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
            assert_eq!(names(&message), names(&schema["properties"]), "{message}");
        }
    }
}
