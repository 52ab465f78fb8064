//! Events as CloudEvents 1.0 in JSON.

#[cfg(test)]
pub(super) mod tests;

use std::ops::Range;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Epoch, Position};
use crate::{
    domain::UserId,
    exchange::{format_time, microseconds},
    service::{Action, FeedEntry, JournalEntry},
};

const SOURCE: &str = "/users";
/// The text before the data of an event.
const DATA: &[u8] = b",\"data\":";

/// The type of an event: the kind of change of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum EventType {
    /// It was created.
    #[serde(rename = "user.created")]
    Created,
    /// It was changed.
    #[serde(rename = "user.updated")]
    Updated,
    /// It was deleted.
    #[serde(rename = "user.deleted")]
    Deleted,
}

impl EventType {
    /// Returns the name, such as `user.created`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "user.created",
            Self::Updated => "user.updated",
            Self::Deleted => "user.deleted",
        }
    }

    /// `None` for a message.
    fn of_action(action: &str) -> Option<Self> {
        match Action::change(action)? {
            Action::Created => Some(Self::Created),
            Action::Updated => Some(Self::Updated),
            Action::Deleted => Some(Self::Deleted),
            Action::Message => None,
        }
    }
}

/// An event, encoded: a change of a user, or a message to a user. A clone shares the text.
#[derive(Clone, Debug)]
pub struct Event {
    number: u64,
    user: UserId,
    /// `None` for a message.
    kind: Option<EventType>,
    /// `id: …\nevent: …\ndata: {…}\n\n`: a message of an event stream. Of a message to a user only the JSON; empty once
    /// the message has expired.
    text: Bytes,
    /// The range of the JSON in the text.
    json: Range<usize>,
    version: i64,
}

/// A message to a user, as a WebSocket delivers it.
#[derive(Serialize, ToSchema)]
#[schema(as = Message)]
pub struct MessageBody<'a> {
    #[serde(rename = "type")]
    #[schema(pattern = "^message$")]
    message_type: &'static str,
    /// The same for each delivery of the message.
    id: String,
    /// The sender of the message.
    #[schema(example = "key:3mWv0cY2bQeR")]
    from: &'a str,
    /// When it was sent: RFC 3339, UTC, microseconds.
    #[serde(serialize_with = "microseconds")]
    time: DateTime<Utc>,
    /// Any JSON, at most 4 KiB.
    #[schema(value_type = Value)]
    data: &'a RawValue,
    /// Its position in the feed.
    #[schema(value_type = Position)]
    position: String,
}

/// The attributes and the data of an event: CloudEvents 1.0 in JSON.
#[derive(Serialize, ToSchema)]
#[schema(as = UserEvent)]
pub struct EventBody<'a> {
    /// The version of CloudEvents.
    #[schema(example = "1.0")]
    specversion: &'static str,
    /// The same for each delivery of the event, and different for each event.
    #[schema(example = "019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40.2")]
    id: String,
    /// The collection.
    #[schema(example = "/users")]
    source: &'static str,
    /// The type of the event.
    #[serde(rename = "type")]
    event_type: EventType,
    /// The id of the user.
    #[schema(value_type = Uuid)]
    subject: Uuid,
    /// When it happened: RFC 3339, UTC, microseconds.
    #[serde(serialize_with = "microseconds")]
    time: DateTime<Utc>,
    /// The number of the position with leading zeros, so that it sorts as text.
    #[schema(example = "00000000000000000042", pattern = "^[0-9]{20}$")]
    sequence: String,
    /// The position of the event in the feed. A client that continues after it misses nothing.
    #[schema(value_type = Position)]
    position: String,
    /// The author of the change.
    #[schema(example = "key:3mWv0cY2bQeR")]
    actor: &'a str,
    /// The user after the change. After a deletion this event, and the earlier ones of the user, have id and version only.
    data: EventData<'a>,
}

/// The user after a change. Once the user has been deleted, it has `id` and `version` only.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = UserEventData)]
struct EventData<'a> {
    /// The id of the user.
    id: Uuid,
    /// The name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "Ann Example")]
    name: Option<&'a str>,
    /// The email address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "Ann@example.com")]
    email: Option<&'a str>,
    /// The version that the change created; for a deletion, the one after the last.
    #[schema(example = 1, minimum = 1)]
    version: i64,
    /// When the user was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<DateTime<Utc>>)]
    created_at: Option<String>,
    /// When the user was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<DateTime<Utc>>)]
    updated_at: Option<String>,
}

impl<'a> EventData<'a> {
    fn of(entry: &'a JournalEntry) -> Self {
        let (id, version) = (entry.user_id.as_uuid(), entry.version);
        match (&entry.name, &entry.email) {
            (Some(name), Some(email)) => Self {
                id,
                name: Some(name),
                email: Some(email),
                version,
                created_at: Some(format_time(entry.created_at)),
                updated_at: Some(format_time(entry.changed_at)),
            },
            _ => Self::erased(id, version),
        }
    }

    fn erased(id: Uuid, version: i64) -> Self {
        Self { id, name: None, email: None, version, created_at: None, updated_at: None }
    }
}

impl Event {
    /// Encodes a change or a message.
    pub(super) fn new(epoch: &Epoch, FeedEntry { number, entry, message }: &FeedEntry) -> Self {
        let number = number.cast_unsigned();
        let position = Position { epoch: epoch.clone(), number }.to_string();
        let kind = EventType::of_action(&entry.action);
        let (text, json) = if let Some(event_type) = kind {
            change(number, position, event_type, entry)
        } else {
            let text = message.as_ref().and_then(|data| message_body(position, entry, data)).unwrap_or_default();
            let length = text.len();
            (text, 0..length)
        };
        Self { number, user: entry.user_id, kind, text: text.into(), json, version: entry.version }
    }

    /// Returns the event without the values of the user, because the user has been deleted.
    pub(super) fn erased(&self) -> Self {
        if self.kind.is_none() {
            return Self { text: Bytes::new(), json: 0..0, ..self.clone() };
        }
        let message = &self.text[self.json.clone()];
        // The data is the last member, and a quotation mark within a text is escaped.
        let data = memchr::memmem::find(message, DATA).map_or(message.len(), |at| at + DATA.len());
        let mut erased = self.text[..self.json.start + data].to_vec();
        let user = EventData::erased(self.user.as_uuid(), self.version);
        let _ = serde_json::to_writer(&mut erased, &user);
        erased.push(b'}');
        let json = self.json.start..erased.len();
        erased.extend_from_slice(b"\n\n");
        Self { text: erased.into(), json, ..self.clone() }
    }

    /// Returns the number of the position.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns whether this is the event of an entry, whose data may have been erased since.
    pub(super) fn is_of(&self, FeedEntry { number, entry, .. }: &FeedEntry) -> bool {
        (self.number, self.user, self.version) == (number.cast_unsigned(), entry.user_id, entry.version)
    }

    /// Returns the user that was changed, or the receiver of the message.
    #[must_use]
    pub fn user(&self) -> UserId {
        self.user
    }

    /// Returns what happened; `None` for a message.
    #[must_use]
    pub fn event_type(&self) -> Option<EventType> {
        self.kind
    }

    /// Returns whether there is nothing to deliver: a message that has expired.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Returns the event as JSON on one line.
    #[must_use]
    pub fn json(&self) -> Bytes {
        self.text.slice(self.json.clone())
    }

    /// Returns the event as JSON with a line break. Not of messages.
    #[must_use]
    pub fn json_line(&self) -> Bytes {
        self.text.slice(self.json.start..self.text.len().min(self.json.end + 1))
    }

    /// Returns the event as a message of an event stream. Not of messages to users.
    #[must_use]
    pub fn message(&self) -> Bytes {
        self.text.clone()
    }

    pub(super) fn size(&self) -> usize {
        size_of::<Self>() + self.text.len()
    }
}

/// Encodes a change. Returns also where the JSON is.
fn change(number: u64, position: String, event_type: EventType, entry: &JournalEntry) -> (Vec<u8>, Range<usize>) {
    let id = entry.user_id.as_uuid();
    let mut message = format!("id: {position}\nevent: {}\ndata: ", event_type.name()).into_bytes();
    let begin = message.len();
    let body = EventBody {
        specversion: "1.0",
        id: format!("{id}.{}", entry.version),
        source: SOURCE,
        event_type,
        subject: id,
        time: entry.changed_at,
        sequence: format!("{number:020}"),
        position,
        actor: &entry.actor,
        data: EventData::of(entry),
    };
    // Serializing strings and numbers into memory does not fail.
    let _ = serde_json::to_writer(&mut message, &body);
    let json = begin..message.len();
    message.extend_from_slice(b"\n\n");
    (message, json)
}

/// Encodes a message. `None` if its data is not JSON, which is checked when it is sent.
fn message_body(position: String, entry: &JournalEntry, data: &str) -> Option<Vec<u8>> {
    let data = serde_json::from_str(data).ok()?;
    let body = MessageBody {
        message_type: "message",
        id: format!("{}.{}", entry.user_id, entry.version),
        from: &entry.actor,
        time: entry.changed_at,
        data,
        position,
    };
    serde_json::to_vec(&body).ok()
}
