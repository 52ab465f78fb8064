//! `/users`.

use actix_web::{
    FromRequest, HttpRequest, HttpResponse, HttpResponseBuilder, delete,
    dev::Payload,
    get,
    http::header::{self, CacheDirective},
    patch, post, put, web,
};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    body::{FromMembers, Members, Valid},
    conditions::{ChangeCondition, ReadCondition, etag},
    idempotency::{self, IdempotencyKey},
    page::{CursorSigner, ListQuery},
    problem::{Kind, Problem},
    responses::{
        ChangeConditionProblems, ChangeProblems, CreateProblems, IdProblems, QueryProblems, ReadConditionProblems,
        RemoveProblems, ServerProblems,
    },
};
use crate::{
    domain::{Email, Name, Precondition, User, UserId},
    service::{self, Change, Draft, UserService},
};

const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";

/// A user.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = User)]
pub(super) struct UserBody<'a> {
    /// UUIDv7: ids sort by time of creation.
    #[schema(example = "019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40")]
    id: Uuid,
    /// 1 to 200 characters, trimmed, in NFC.
    #[schema(example = "Ann Example", min_length = 1, max_length = 200)]
    name: &'a str,
    /// As it was typed.
    #[schema(example = "Ann@example.com", max_length = 254)]
    email: &'a str,
    /// 1 at creation, one more with each change.
    #[schema(example = 1, minimum = 1)]
    version: i64,
    /// When the user was created: RFC 3339, UTC, microseconds.
    #[schema(example = "2026-11-21T10:15:30.123456Z")]
    #[serde(serialize_with = "microseconds")]
    created_at: DateTime<Utc>,
    /// When the user was last changed: RFC 3339, UTC, microseconds.
    #[schema(example = "2026-11-21T10:15:30.123456Z")]
    #[serde(serialize_with = "microseconds")]
    updated_at: DateTime<Utc>,
}

fn microseconds<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
}

impl<'a> From<&'a User> for UserBody<'a> {
    fn from(user: &'a User) -> Self {
        Self {
            id: user.id.as_uuid(),
            name: &user.name,
            email: &user.email,
            version: user.version,
            created_at: user.created_at,
            updated_at: user.updated_at,
        }
    }
}

/// A user to create, or what replaces one.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = UserDraft)]
#[expect(dead_code, reason = "documents what `FromMembers` reads")]
pub(super) struct DraftBody {
    /// 1 to 200 characters after trimming; no control characters.
    #[schema(example = "Ann Example", min_length = 1, max_length = 200, pattern = r"^(?=.*\S)[^\x00-\x1f\x7f-\x9f]+$")]
    name: String,
    /// Unique regardless of case and of how its domain is written; at most 254 octets.
    #[schema(example = "Ann@example.com", format = "email", max_length = 254)]
    email: String,
}

/// What to change of a user (RFC 7396). What is left out stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = UserPatch)]
#[expect(dead_code, reason = "documents what `FromMembers` reads")]
pub(super) struct PatchBody {
    /// 1 to 200 characters after trimming; no control characters.
    #[schema(example = "Ann Other", min_length = 1, max_length = 200, value_type = String, required = false, pattern = r"^(?=.*\S)[^\x00-\x1f\x7f-\x9f]+$")]
    name: Option<String>,
    /// Unique regardless of case and of how its domain is written; at most 254 octets.
    #[schema(example = "ann.other@example.com", format = "email", max_length = 254, value_type = String, required = false)]
    email: Option<String>,
}

impl FromMembers for Draft {
    const MEDIA_TYPES: &'static [&'static str] = &[JSON];

    fn take(members: &mut Members) -> Option<Self> {
        let name = members.required("name", Name::parse);
        let email = members.required("email", Email::parse);
        Some(Self { name: name?, email: email? })
    }
}

impl FromMembers for Change {
    const MEDIA_TYPES: &'static [&'static str] = &[MERGE_PATCH, JSON];

    fn take(members: &mut Members) -> Option<Self> {
        let name = members.optional("name", Name::parse);
        let email = members.optional("email", Email::parse);
        Some(Self { name, email })
    }
}

/// The id in the path.
pub(super) struct PathId(UserId);

impl FromRequest for PathId {
    type Error = Problem;
    type Future = std::future::Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let id = request.match_info().get("id").unwrap_or_default().parse();
        std::future::ready(id.map(Self).map_err(|_| {
            Problem::new(Kind::InvalidId, "A user id is a UUID such as 019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40.")
        }))
    }
}

/// Query of a list; documents what [`ListQuery`] reads.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents what `ListQuery` reads")]
struct ListParameters {
    /// How many users at most.
    #[param(minimum = 1, maximum = 100, default = 20, example = 20)]
    limit: Option<u64>,
    /// From the `Link` header of an earlier answer.
    #[param(pattern = "^[A-Za-z0-9_-]{44}$", min_length = 44, max_length = 44)]
    cursor: Option<String>,
    /// The user with this email, however it is written: one or none. Goes with no cursor.
    #[param(format = "email", max_length = 254)]
    email: Option<String>,
}

/// Path of one user.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documents what [`PathId`] reads")]
struct IdParameter {
    /// The user's id.
    #[param(example = "019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40")]
    id: Uuid,
}

/// Conditions of a request (RFC 9110, section 13).
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents what `conditions` reads")]
struct ConditionParameters {
    /// Entity tags, or `*`: only if the user is at one of these versions.
    #[param(rename = "If-Match", example = "\"1\"")]
    if_match: Option<String>,
    /// Entity tags, or `*`: only if the user is at none of these versions.
    #[param(rename = "If-None-Match", example = "\"1\"")]
    if_none_match: Option<String>,
}

/// Header of a request that may be sent again.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents what [`IdempotencyKey`] reads")]
struct KeyParameter {
    /// A key of the client's own making, best a UUID in double quotes. The answer is kept under it, for a day unless the
    /// operator says otherwise.
    #[param(
        rename = "Idempotency-Key",
        example = "\"8e03978e-40d5-43e8-bc93-6894a57f9324\"",
        pattern = r#"^("([ !#-\[\]-~]|\\["\\]){1,255}"|[!#-+\--:<-\[\]-~]{1,255})$"#
    )]
    idempotency_key: Option<String>,
}

/// List users
///
/// Oldest first. Follow `Link` with `rel="next"` until there is none. Users that come or go meanwhile make no page
/// repeat or skip any other.
#[utoipa::path(
    tag = "users",
    operation_id = "listUsers",
    params(ListParameters),
    responses(
        (status = 200, description = "A page of users", body = [UserBody], headers(
            ("Link" = String, description = "`first`, and `prev` and `next` where there are such pages (RFC 8288)"),
        )),
        QueryProblems,
        ServerProblems,
    ),
)]
#[get("/users")]
pub(super) async fn list(
    query: ListQuery,
    signer: web::Data<CursorSigner>,
    service: web::Data<UserService>,
) -> Result<HttpResponse, Problem> {
    let page = match query {
        ListQuery::Page(page) => page,
        ListQuery::Email(email) => {
            let found = service.find_by_email(email).await?;
            return Ok(HttpResponse::Ok().json(found.as_slice().iter().map(UserBody::from).collect::<Vec<_>>()));
        }
    };
    let slice = service.list(page.position, page.limit).await?;
    let links = page.links(&slice, &signer);
    let body: Vec<UserBody> = slice.users.iter().map(UserBody::from).collect();
    Ok(HttpResponse::Ok().insert_header((header::LINK, links)).json(body))
}

/// Create a user
///
/// With an `Idempotency-Key` a request may be sent again until it is answered, and is done once.
#[utoipa::path(
    tag = "users",
    operation_id = "createUser",
    params(KeyParameter),
    request_body = DraftBody,
    responses(
        (status = 201, description = "The user was created", body = UserBody, headers(
            ("Location" = String, description = "Path of the user"),
            ("ETag" = String, description = "The user's version, as an entity tag"),
            ("Idempotency-Replayed" = String, description = "`true` if this answer was given before"),
        ), links(
            ("user" = (operation_id = "getUser", parameters(("id" = "$response.body#/id")))),
            ("replace" = (operation_id = "replaceUser", parameters(("id" = "$response.body#/id")))),
            ("patch" = (operation_id = "patchUser", parameters(("id" = "$response.body#/id")))),
            ("delete" = (operation_id = "deleteUser", parameters(("id" = "$response.body#/id")))),
        )),
        CreateProblems,
        ServerProblems,
    ),
)]
#[post("/users")]
pub(super) async fn create(
    key: IdempotencyKey,
    body: Valid<Draft>,
    request: HttpRequest,
    service: web::Data<UserService>,
) -> Result<HttpResponse, Problem> {
    let draft = body.0;
    let Some(once) = key.once(&draft) else {
        return Ok(created(&service.create(draft).await?));
    };
    let seal = |outcome: Result<&User, service::Error>| {
        idempotency::seal(match outcome {
            Ok(user) => created(user),
            Err(error) => Problem::from(error).answer_to(&request),
        })
    };
    idempotency::open(&service.create_once(draft, once, seal).await?)
}

/// Get a user
#[utoipa::path(
    tag = "users",
    operation_id = "getUser",
    params(IdParameter, ConditionParameters),
    responses(
        (status = 200, description = "The user", body = UserBody, headers(
            ("ETag" = String, description = "The user's version, as an entity tag"),
        )),
        (status = 304, description = "The user is at a version that `If-None-Match` names", headers(
            ("ETag" = String, description = "The user's version, as an entity tag"),
        )),
        IdProblems,
        ReadConditionProblems,
        ServerProblems,
    ),
)]
#[get("/users/{id}")]
pub(super) async fn find(
    id: PathId,
    condition: ReadCondition,
    service: web::Data<UserService>,
) -> Result<HttpResponse, Problem> {
    let user = service.find(id.0).await?;
    let Precondition { is, is_not } = condition.0;
    if is.is_some_and(|versions| !versions.contain(user.version)) {
        return Err(service::Error::PreconditionFailed { current: user.version }.into());
    }
    if is_not.is_some_and(|versions| versions.contain(user.version)) {
        return Ok(about(HttpResponse::NotModified(), &user).finish());
    }
    Ok(ok(&user))
}

/// Replace a user
#[utoipa::path(
    tag = "users",
    operation_id = "replaceUser",
    params(IdParameter, ConditionParameters),
    request_body = DraftBody,
    responses(
        (status = 200, description = "The user as it is now", body = UserBody, headers(
            ("ETag" = String, description = "The user's version, as an entity tag"),
        )),
        ChangeProblems,
        ChangeConditionProblems,
        ServerProblems,
    ),
)]
#[put("/users/{id}")]
pub(super) async fn replace(
    id: PathId,
    condition: ChangeCondition,
    body: Valid<Draft>,
    service: web::Data<UserService>,
) -> Result<HttpResponse, Problem> {
    Ok(ok(&service.replace(id.0, condition.0, body.0).await?))
}

/// Change a part of a user
///
/// JSON Merge Patch (RFC 7396). A patch that changes nothing leaves the version as it is.
#[utoipa::path(
    tag = "users",
    operation_id = "patchUser",
    params(IdParameter, ConditionParameters),
    request_body(content((PatchBody = "application/merge-patch+json"), (PatchBody = "application/json"))),
    responses(
        (status = 200, description = "The user as it is now", body = UserBody, headers(
            ("ETag" = String, description = "The user's version, as an entity tag"),
        )),
        ChangeProblems,
        ChangeConditionProblems,
        ServerProblems,
    ),
)]
#[patch("/users/{id}")]
pub(super) async fn patch(
    id: PathId,
    condition: ChangeCondition,
    body: Valid<Change>,
    service: web::Data<UserService>,
) -> Result<HttpResponse, Problem> {
    Ok(ok(&service.patch(id.0, condition.0, body.0).await?))
}

/// Delete a user
#[utoipa::path(
    tag = "users",
    operation_id = "deleteUser",
    params(IdParameter, ConditionParameters),
    responses(
        (status = 204, description = "The user is gone"),
        RemoveProblems,
        ChangeConditionProblems,
        ServerProblems,
    ),
)]
#[delete("/users/{id}")]
pub(super) async fn remove(
    id: PathId,
    condition: ChangeCondition,
    service: web::Data<UserService>,
) -> Result<HttpResponse, Problem> {
    service.delete(id.0, condition.0).await?;
    Ok(HttpResponse::NoContent().finish())
}

fn created(user: &User) -> HttpResponse {
    let location = format!("/users/{}", user.id);
    HttpResponse::Created()
        .insert_header((header::LOCATION, location))
        .insert_header(etag(user.version))
        .json(UserBody::from(user))
}

fn ok(user: &User) -> HttpResponse {
    about(HttpResponse::Ok(), user).json(UserBody::from(user))
}

/// What is told of a user in headers.
fn about(mut response: HttpResponseBuilder, user: &User) -> HttpResponseBuilder {
    response
        .insert_header(etag(user.version))
        // Another client may change the user at any time.
        .insert_header(header::CacheControl(vec![CacheDirective::NoCache]));
    response
}
