//! `GET /users/{id}/history`: the changes of a user, from the journal.

use actix_web::{HttpResponse, http::header, web};
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::{
    ToSchema,
    openapi::{RefOr, Schema},
};

use super::{
    access::{Allowed, OpsRead},
    compression::compressible,
    policy,
    problem::Problem,
    query::Query,
    responses::{IdProblems, QueryProblems, ServerProblems},
    users::PathId,
};
use crate::{
    domain::{Scope, UserId, Version},
    exchange::{Limit, described, microseconds, query_parameters, text},
    service::{Action, Journal, JournalEntry, UserService},
};

query_parameters! {
    /// The page of a history.
    pub(super) struct HistoryParameters {
        /// Maximum number of changes on the page.
        limit: Option<Limit>,
        /// Changes before this version.
        before: Option<Version>,
    }
}

/// A change of a user.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = UserChange)]
struct ChangeBody {
    /// The version that the change created; for a deletion, the one after the last.
    #[schema(example = 2, minimum = 1)]
    version: i64,
    #[schema(schema_with = action)]
    action: String,
    /// The members that an update changed.
    changed: Vec<String>,
    /// The author of the change: `key:<id>` for an API key, `<subject>@<issuer>` for an access token, `cli:<user>` for a
    /// user of the operating system on the command line, or `anyone` if callers are not authenticated.
    #[schema(example = "key:3mWv0cY2bQeR")]
    actor: String,
    /// The id of the request that made the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    /// When the change was made.
    #[serde(serialize_with = "microseconds")]
    changed_at: DateTime<Utc>,
    /// The name after the change. Only for callers who have `users:read`, and until the user is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// The email address after the change. Only for callers who have `users:read`, and until the user is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
}

fn action() -> RefOr<Schema> {
    let [created, updated, deleted] = Action::CHANGES.map(Action::name);
    let description = format!("The kind of change: `{created}`, `{updated}` or `{deleted}`.");
    let pattern = format!("^({created}|{updated}|{deleted})$");
    described(text().pattern(Some(pattern)).into(), description, Some(updated.into()))
}

impl ChangeBody {
    fn new(entry: JournalEntry, may_read_users: bool) -> Self {
        let JournalEntry { version, action, changed, actor, request_id, changed_at, name, email, .. } = entry;
        let (name, email) = if may_read_users { (name, email) } else { (None, None) };
        Self { version, action, changed, actor, request_id, changed_at, name, email }
    }
}

/// Get the history of a user
///
/// Returns the changes of a user, newest first, and who made each. Changes are kept for `journal.keep`, also those of a
/// deleted user, but without its name and email address. Follow the `Link` with `rel="next"` to the last page.
#[utoipa::path(
    get,
    path = "/users/{id}/history",
    tag = "users",
    operation_id = "getUserHistory",
    params(PathId, HistoryParameters),
    responses(
        (status = 200, description = "The changes, newest first", body = [ChangeBody], headers(
            ("Link" = String, description = "`next`, if there are older changes (RFC 8288)"),
        )),
        IdProblems,
        QueryProblems,
        ServerProblems,
    ),
)]
pub(super) async fn history(
    caller: Allowed<OpsRead>,
    id: PathId,
    query: Query<HistoryParameters>,
    journal: web::Data<Journal>,
    service: web::Data<UserService>,
) -> Result<HttpResponse, Problem> {
    let (id, Query(HistoryParameters { limit, before })) = (id.0, query);
    let limit = limit.unwrap_or_default().get();
    // One more shows whether there is another page.
    let mut entries = journal.history(id, before, limit + 1).await?;
    if entries.is_empty() && (before.is_none() || journal.history(id, None, 1).await?.is_empty()) {
        // The user may be older than its journal.
        service.find(id).await?;
    }
    let has_more = entries.len() as u64 > limit;
    if has_more {
        entries.pop();
    }
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CACHE_CONTROL, policy::REVALIDATED));
    if let Some(last) = entries.last().filter(|_| has_more) {
        response.insert_header((header::LINK, next(id, limit, last.version)));
    }
    let may_read_users = caller.scopes().contain(Scope::UsersRead);
    let changes: Vec<ChangeBody> = entries.into_iter().map(|entry| ChangeBody::new(entry, may_read_users)).collect();
    Ok(compressible(response.json(changes)))
}

fn next(id: UserId, limit: u64, before: i64) -> String {
    format!("</users/{id}/history?limit={limit}&before={before}>; rel=\"next\"")
}
