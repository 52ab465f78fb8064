//! The AsyncAPI document: the messages of the live feed. `asyncapi.json` has the servers, channels, operations and texts; the
//! schemas, query parameters and limits come from the code.

use std::{sync::LazyLock, time::Duration};

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Map, Value};
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use crate::{
    feed::{After, EventBody, EventType, MAX_BYTES, MessageBody, Position, ResyncReason},
    http::{
        access::TicketParameters,
        changes::{ChangesParameters, RECONNECT_MS, Resync},
        feed_reader::{HEARTBEAT, MAX_EVENTS},
        policy::Asset,
        responses::HostProblems,
        websocket,
    },
};

static DOCUMENT: LazyLock<Asset> = LazyLock::new(|| super::json(&document()));

/// Get the description of the live feed
///
/// An AsyncAPI document: the messages of the WebSocket and of the event stream.
#[utoipa::path(
    get,
    path = "/asyncapi.json",
    tag = "operations",
    operation_id = "asyncapi",
    responses(
        (status = 200, description = "AsyncAPI 3.0", body = BTreeMap<String, Value>, content_type = "application/json"),
        HostProblems,
    ),
)]
pub(in crate::http) async fn asyncapi(request: HttpRequest) -> HttpResponse {
    DOCUMENT.respond(&request)
}

fn document() -> Value {
    let limits = limits().into_iter();
    let text = limits.fold(include_str!("asyncapi.json").to_owned(), |text, (name, limit)| {
        text.replace(&format!("${{{name}}}"), &limit)
    });
    // A syntax error would yield an almost empty document; a test requests it.
    let mut document: Value = serde_json::from_str(&text).unwrap_or_default();
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    document["components"]["schemas"] = schemas().into();
    document["channels"]["ws"]["bindings"]["ws"]["query"] = query::<TicketParameters>();
    document["operations"]["sendChanges"]["bindings"]["http"]["query"] = query::<ChangesParameters>();
    let retry = &mut document["components"]["messages"]["position"]["headers"]["properties"]["retry"];
    retry["minimum"] = RECONNECT_MS.start.into();
    retry["maximum"] = (RECONNECT_MS.end - 1).into();
    document
}

/// Returns the limits that the texts name.
fn limits() -> Vec<(&'static str, String)> {
    let seconds = |duration: Duration| format!("{} s", duration.as_secs());
    let kib = |bytes: usize| format!("{} KiB", bytes >> 10);
    vec![
        ("HEARTBEAT", seconds(HEARTBEAT)),
        ("MAX_EVENTS", MAX_EVENTS.to_string()),
        ("MAX_BYTES", kib(MAX_BYTES)),
        ("SUBSCRIBE_TIMEOUT", seconds(websocket::SUBSCRIBE_TIMEOUT)),
        ("PING_INTERVAL", seconds(websocket::PING_INTERVAL)),
        ("SILENCE_TIMEOUT", seconds(websocket::SILENCE_TIMEOUT)),
        ("MAX_MESSAGE", kib(websocket::MAX_MESSAGE)),
        ("MAX_FRAMES", websocket::MAX_FRAMES.to_string()),
        ("FRAMES_PERIOD", seconds(websocket::FRAMES_PERIOD)),
    ]
}

/// Returns the schema of a query string.
fn query<T: IntoParams>() -> Value {
    let properties = T::into_params(|| None).into_iter().map(|parameter| {
        let mut schema = parameter.schema.as_ref().map(json).unwrap_or_default();
        schema["description"] = parameter.description.into();
        (parameter.name, schema)
    });
    serde_json::json!({"type": "object", "properties": properties.collect::<Map<_, _>>()})
}

fn schemas() -> Map<String, Value> {
    let mut schemas = Vec::new();
    add::<After>(&mut schemas);
    add::<Position>(&mut schemas);
    add::<EventType>(&mut schemas);
    add::<ResyncReason>(&mut schemas);
    add::<EventBody<'_>>(&mut schemas);
    add::<MessageBody<'_>>(&mut schemas);
    add::<Resync<'_>>(&mut schemas);
    add::<websocket::ErrorCode>(&mut schemas);
    let schemas = schemas.into_iter().map(|(name, schema)| (name, json(&schema)));
    let messages = websocket::schemas().iter().map(json).map(|schema| (name(&schema), schema)).collect::<Vec<_>>();
    schemas.chain(messages).collect()
}

/// Adds the schema of a type, and those that it refers to.
fn add<T: ToSchema + PartialSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((T::name().into_owned(), <T as PartialSchema>::schema()));
    T::schemas(schemas);
}

fn json(schema: &RefOr<Schema>) -> Value {
    let mut schema = serde_json::to_value(schema).unwrap_or_default();
    rename_examples(&mut schema);
    schema
}

/// Returns the name of the schema of a message: its type, with a capital.
fn name(schema: &Value) -> String {
    let message_type = schema["properties"]["type"]["enum"][0].as_str().unwrap_or_default();
    let (initial, rest) = message_type.split_at_checked(1).unwrap_or_default();
    initial.to_ascii_uppercase() + rest
}

/// Replaces `example`, which OpenAPI has and AsyncAPI does not, by `examples`.
fn rename_examples(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if let Some(example) = members.remove("example") {
                members.insert("examples".to_owned(), vec![example].into());
            }
            members.values_mut().for_each(rename_examples);
        }
        Value::Array(items) => items.iter_mut().for_each(rename_examples),
        _ => {}
    }
}
