//! `POST /ws/tickets`: tickets, with which browsers open a WebSocket.

use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    access::{AllowedOrSubject, FeedRead},
    body::{JsonBody, request_body},
    changes::disabled,
    problem::Problem,
    responses::{ServerProblems, TicketProblems},
};
use crate::{
    auth::Basis,
    domain::{TicketDigest, UserId},
    exchange::microseconds,
    service::{TicketGrant, TicketStore},
};

request_body! {
    /// A request for a ticket.
    pub(super) struct TicketDraft {
        /// The user whose events and messages are read. Without it, the events of all users are read, and no messages.
        user_id: Option<UserId>,
    }
}

/// A ticket.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Ticket {
    /// The value of the parameter `ticket` of `GET /ws`. It can be used once.
    #[schema(example = "uwt_0aZ3456789bcdefghijklmnopqrstuvwxyzABCDEFGH")]
    ticket: String,
    /// When it expires: after 30 seconds.
    #[serde(serialize_with = "microseconds")]
    expires_at: DateTime<Utc>,
}

/// Create a ticket for a WebSocket
///
/// Browsers cannot send credentials when they open a WebSocket, so a script requests a ticket before. A caller with
/// `feed:read` may request tickets for all users together or for any user; a caller with `users:self` for itself, which is
/// also its default.
#[utoipa::path(
    post,
    path = "/ws/tickets",
    tag = "users",
    operation_id = "createWebSocketTicket",
    request_body = TicketDraft,
    responses(
        (status = 201, description = "The ticket", body = Ticket),
        TicketProblems,
        ServerProblems,
    ),
)]
pub(super) async fn create(
    caller: AllowedOrSubject<FeedRead>,
    draft: JsonBody<TicketDraft>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let store = request.app_data::<web::Data<TicketStore>>().ok_or_else(disabled)?;
    let scope = caller.scope_for(draft.0.user_id)?;
    let (digest, ticket) = TicketDigest::generate().map_err(Problem::internal)?;
    let (key, valid_until) = match caller.caller().basis() {
        Basis::Key(key) => (Some(key), None),
        Basis::Until(end) => (None, Some(end)),
        Basis::Anyone => (None, None),
    };
    let user = draft.0.user_id.or_else(|| caller.subject());
    let grant = TicketGrant { user, actor: caller.caller().actor.to_string(), key, valid_until, scope };
    let expires_at = store.create(digest, grant).await?;
    Ok(HttpResponse::Created().json(Ticket { ticket, expires_at }))
}
