//! `/users`.

use actix_web::{
    FromRequest, HttpRequest, HttpResponse, HttpResponseBuilder, delete, dev::Payload, get, http::header, patch, post,
    put, web,
};

use super::{
    body::{FromMembers, Members, Valid},
    compression::compressible,
    conditions::{ChangeCondition, ListCondition, ReadCondition, etag},
    cursor::CursorSigner,
    documented::{
        ConditionParameters, DraftBody, IdParameter, KeyParameter, ListConditionParameters, ListParameters, PatchBody,
        SelectionParameters,
    },
    fallback::Paths,
    idempotency::{self, IdempotencyKey},
    list::ListQuery,
    path, policy,
    problem::{Kind, Problem},
    responses::{
        ChangeConditionProblems, ChangeProblems, CreateProblems, IdProblems, QueryProblems, ReadConditionProblems,
        RemoveProblems, ServerProblems,
    },
};
use crate::{
    domain::{Email, Name, Precondition, User, UserId},
    exchange::{Fields, Selected, UserBody},
    service::{self, Change, Draft, UserService},
};

const TOTAL_COUNT: &str = "x-total-count";
const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";

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
        // The names of other routes, which do not know this method.
        if let Some(allow) = request.app_data::<web::Data<Paths>>().and_then(|paths| paths.allow(request.path())) {
            return std::future::ready(Err(Problem::method_not_allowed(allow)));
        }
        let id = path::part(request, "id").parse();
        std::future::ready(id.map(Self).map_err(|_| {
            Problem::new(Kind::InvalidId, "A user id is a UUID such as 019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40.")
        }))
    }
}

/// List users
///
/// Oldest first, unless `sort` says otherwise. What is asked for by several parameters is true of each user that is given.
/// Follow `Link` with `rel="next"` until there is none. Users that come or go meanwhile make no page repeat or skip any
/// other. With `fields` the users of the answer have only these members.
#[utoipa::path(
    tag = "users",
    operation_id = "listUsers",
    params(SelectionParameters, ListParameters),
    responses(
        (status = 200, description = "A page of users", body = [UserBody], headers(
            ("Link" = String, description = "`first`, and `prev` and `next` where there are such pages (RFC 8288)"),
            ("X-Total-Count" = u64, description = "How many users there are in all pages together, if `count` asks for it"),
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
    let slice = service.list(&query.selection, query.position.clone(), query.limit).await?;
    let mut response = HttpResponse::Ok();
    response
        .insert_header((header::LINK, query.links(&slice, &signer)))
        .insert_header((header::CACHE_CONTROL, policy::REVALIDATED));
    if let Some(how) = query.count {
        let count = service.count(&query.selection.filter, how).await?;
        response.insert_header((TOTAL_COUNT, count));
    }
    let response = if query.fields == Fields::default() {
        response.json(slice.users.iter().map(UserBody::from).collect::<Vec<_>>())
    } else {
        let selected = |user| Selected { user, fields: query.fields, cursor: None };
        response.json(slice.users.iter().map(selected).collect::<Vec<_>>())
    };
    Ok(compressible(response))
}

/// Create a user
///
/// With an `Idempotency-Key` a request may be sent again until it is answered, and is done once.
#[utoipa::path(
    tag = "users",
    operation_id = "createUser",
    params(KeyParameter, ListConditionParameters),
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
    _condition: ListCondition,
    body: Valid<Draft>,
    service: web::Data<UserService>,
) -> Result<HttpResponse, Problem> {
    let draft = body.0;
    let Some(keyed) = key.keyed_request(&draft) else {
        return Ok(created(&service.create(draft).await?));
    };
    let seal = |user: &User| idempotency::seal(created(user));
    // Boxed, so that creations without a key have a smaller future.
    idempotency::open(&Box::pin(service.create_once(draft, keyed, seal)).await?)
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
        .insert_header((header::CACHE_CONTROL, policy::REVALIDATED));
    response
}
