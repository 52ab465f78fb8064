//! `POST /users/{id}/messages`: messages to a user, which reach its WebSockets.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::{
    ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::SchemaType},
};

use super::{
    access::{Allowed, MessagesSend},
    body::{JsonBody, MemberValue, request_body},
    changes::disabled,
    problem::Problem,
    responses::{MessageProblems, ServerProblems},
    users::PathId,
};
use crate::{domain::ValidationError, feed::Feed, service::MessageService};

/// Maximum length of the data as JSON, in bytes.
const MAX_DATA: usize = 4096;

request_body! {
    /// A message to a user.
    pub(super) struct MessageDraft {
        /// Any JSON, at most 4 KiB.
        #[example(json!({"text": "Hello"}))]
        data: Data,
    }
}

/// The data of a message: JSON.
struct Data(String);

impl MemberValue for Data {
    fn parse(value: Value) -> Result<Self, ValidationError> {
        let data = value.to_string();
        if data.len() > MAX_DATA {
            return Err(ValidationError::new("too-long", format!("must be at most {MAX_DATA} bytes of JSON")));
        }
        Ok(Self(data))
    }

    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(SchemaType::AnyValue).into()
    }
}

/// A message that was sent.
#[derive(Serialize, ToSchema)]
struct SentMessage {
    /// The same for each delivery of the message.
    #[schema(example = "019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40.-3689348814741910528")]
    id: String,
    /// Its position in the feed. It is missing if the database could not be read after the message was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "5b1c9f0e7a2d4e63.42")]
    position: Option<String>,
}

/// Send a message to a user
///
/// Stores the message and delivers it to each WebSocket that was opened with a ticket of this user, on every process.
/// Clients that connect within 24 hours receive it too. Messages and events have one order.
#[utoipa::path(
    post,
    path = "/users/{id}/messages",
    tag = "users",
    operation_id = "sendMessage",
    params(PathId),
    request_body = MessageDraft,
    responses(
        (status = 202, description = "The message is stored, and will be delivered", body = SentMessage),
        MessageProblems,
        ServerProblems,
    ),
)]
pub(super) async fn send(
    caller: Allowed<MessagesSend>,
    id: PathId,
    draft: JsonBody<MessageDraft>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let service = request.app_data::<web::Data<MessageService>>().ok_or_else(disabled)?;
    let feed = request.app_data::<web::Data<Feed>>().ok_or_else(disabled)?;
    let before = feed.head();
    let sent = service.send(id.0, draft.0.data.0, caller.into_author(&request)).await?;
    let position = feed.locate(sent.journal_id, before).await.map(|position| position.to_string());
    Ok(HttpResponse::Accepted().json(SentMessage { id: sent.id, position }))
}
