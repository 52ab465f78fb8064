//! `GET /users/{id}/presence`: whether a user has a WebSocket.

use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    access::{Allowed, UsersRead},
    changes::disabled,
    problem::Problem,
    responses::{FeedDisabledProblems, IdProblems, ServerProblems},
    users::PathId,
};
use crate::{
    exchange::optional_microseconds,
    service::{PresenceStore, UserService},
};

/// Whether a user is connected.
#[derive(Serialize, ToSchema)]
#[schema(as = UserPresence)]
struct Body {
    /// Whether the user has a WebSocket that was opened with a ticket of this user, on any process.
    online: bool,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_microseconds")]
    #[schema(nullable = false)]
    since: Option<DateTime<Utc>>,
}

/// Get the presence of a user
///
/// Returns whether the user has a WebSocket that was opened with a ticket of this user. A process that is killed counts as
/// connected for up to 15 seconds.
#[utoipa::path(
    get,
    path = "/users/{id}/presence",
    tag = "users",
    operation_id = "getUserPresence",
    params(PathId),
    responses(
        (status = 200, description = "Whether the user is connected", body = Body),
        IdProblems,
        FeedDisabledProblems,
        ServerProblems,
    ),
)]
pub(super) async fn find(
    _: Allowed<UsersRead>,
    id: PathId,
    request: HttpRequest,
    users: web::Data<UserService>,
) -> Result<HttpResponse, Problem> {
    let store = request.app_data::<web::Data<PresenceStore>>().ok_or_else(disabled)?;
    users.find(id.0).await?;
    let since = store.since(id.0).await?;
    Ok(HttpResponse::Ok().json(Body { online: since.is_some(), since }))
}
