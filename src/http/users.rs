//! The routes of `/users` and `/users/{id}`.

use actix_web::{
    FromRequest, HttpRequest, HttpResponse, HttpResponseBuilder,
    dev::Payload,
    http::header::{self, ContentType, HeaderName},
    web,
};
use utoipa::{
    IntoParams,
    openapi::{
        Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
    },
};

use super::{
    access::{Allowed, AllowedOrSelf, UsersDelete, UsersRead, UsersWrite},
    body::{JsonBody, MergePatch, request_body},
    compression::compressible,
    conditions::{ChangeCondition, ListCondition, ReadCondition},
    etag::etag,
    fallback::Paths,
    feed_position::FeedPosition,
    idempotency::{self, IdempotencyKey},
    links::links,
    path, policy,
    problem::{Kind, Problem},
    query::SignedQuery,
    responses::{
        ChangeConditionProblems, ChangeProblems, CreateProblems, DeleteProblems, IdProblems, QueryProblems,
        ReadConditionProblems, ServerProblems,
    },
    shared_page,
};
use crate::{
    auth::RateLimits,
    domain::{Email, Name, Precondition, User, UserId},
    exchange::{CursorSigner, Fields, ListParameters, ListQuery, Selected, SelectionParameters, TextValue, UserBody},
    service::{self, Change, CountMode, Draft, UserService},
};

pub(super) const TOTAL_COUNT: HeaderName = HeaderName::from_static("x-total-count");
request_body! {
    /// A new user, or the replacement of a user.
    pub(super) struct UserDraft {
        /// 1 to 200 characters after trimming, at least one of them visible; no control characters, and none that embed,
        /// override or isolate a direction of writing.
        #[example("Ann Example")]
        name: Name,
        /// Unique regardless of case and of whether its domain is written in Unicode or ASCII; at most 254 bytes, no
        /// invisible characters.
        #[example("Ann@example.com")]
        email: Email,
    }
}

request_body! {
    /// Changes of a user (RFC 7396). Missing members are not changed.
    pub(super) struct UserPatch {
        /// As in a new user.
        #[example("Ann Other")]
        name: Option<Name>,
        /// As in a new user.
        #[example("ann.other@example.com")]
        email: Option<Email>,
    }
}

impl From<UserDraft> for Draft {
    fn from(UserDraft { name, email }: UserDraft) -> Self {
        Self { name, email }
    }
}

impl From<UserPatch> for Change {
    fn from(UserPatch { name, email }: UserPatch) -> Self {
        Self { name, email }
    }
}

/// The id in the path.
pub(super) struct PathId(pub(super) UserId);

impl FromRequest for PathId {
    type Error = Problem;
    type Future = std::future::Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        // `/users/{id}` also matches e.g. `/users/bulk` when that route lacks the method: answer 405 instead of
        // "invalid id".
        if let Some(allow) = request.app_data::<web::Data<Paths>>().and_then(|paths| paths.allow(request.path())) {
            return std::future::ready(Err(Problem::method_not_allowed(allow)));
        }
        let id = path::parameter(request, "id").parse();
        std::future::ready(id.map(Self).map_err(|_| {
            Problem::new(Kind::InvalidId, "A user id is a UUID such as 019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40.")
        }))
    }
}

impl IntoParams for PathId {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let description = "The user's id, such as `019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40`. `GET /users` lists them.";
        let parameter = ParameterBuilder::new().name("id").parameter_in(ParameterIn::Path).required(Required::True);
        vec![parameter.description(Some(description)).schema(Some(UserId::schema())).build()]
    }
}

/// List users
///
/// Returns a page of the users that match all filters, oldest first unless `sort` says otherwise. Follow the `Link`
/// with `rel="next"` until there is none. Users that are created or deleted in the meantime cause no duplicates and no
/// gaps. With `fields`, each user has only these members.
#[utoipa::path(
    get,
    path = "/users",
    tag = "users",
    operation_id = "listUsers",
    params(SelectionParameters, ListParameters),
    responses(
        (status = 200, description = "A page of users", body = [UserBody], headers(
            ("Link" = String, description = "`first`, and `prev` and `next` if these pages exist (RFC 8288)"),
            ("X-Total-Count" = u64, description = "The number of users on all pages, if `count` is given"),
            ("Feed-Position" = String, description = "The feed has every change after this position"),
        )),
        QueryProblems,
        ServerProblems,
    ),
)]
pub(super) async fn list(
    caller: Allowed<UsersRead>,
    query: SignedQuery<ListQuery>,
    position: FeedPosition,
    request: HttpRequest,
    signer: web::Data<CursorSigner>,
    service: web::Data<UserService>,
) -> Result<HttpResponse, Problem> {
    let SignedQuery(query) = query;
    if query.count == Some(CountMode::Exact) {
        caller.charge(&request, RateLimits::EXACT_COUNT)?;
    }
    let page = service.list(&query.selection, query.position.clone(), query.limit).await?;
    let mut response = HttpResponse::Ok();
    response
        .insert_header((header::LINK, links(&query, &page, &signer)))
        .insert_header((header::CACHE_CONTROL, policy::REVALIDATED));
    position.insert(&mut response);
    if let Some(how) = query.count {
        let count = service.count(&query.selection.filter, how).await?;
        response.insert_header((TOTAL_COUNT, count));
    }
    let response = if query.fields == Fields::default() {
        response.content_type(ContentType::json()).body(shared_page::to_json(&page)?)
    } else {
        let selected = |user| Selected { user, fields: query.fields, cursor: None };
        response.json(page.users.iter().map(selected).collect::<Vec<_>>())
    };
    Ok(compressible(response))
}

/// Create a user
///
/// With an `Idempotency-Key` the request can be retried and is executed once.
#[utoipa::path(
    post,
    path = "/users",
    tag = "users",
    operation_id = "createUser",
    params(IdempotencyKey, ListCondition),
    request_body = UserDraft,
    responses(
        (status = 201, description = "The user was created", body = UserBody, headers(
            ("Location" = String, description = "The URL of the user"),
            ("ETag" = String, description = "The user's version, as an entity tag"),
            ("Idempotency-Replayed" = String, description = "`true` if this is a stored response"),
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
pub(super) async fn create(
    caller: Allowed<UsersWrite>,
    key: IdempotencyKey,
    // Refuses `If-None-Match: *`, and any `If-Match` except `*`: a list has no version.
    _condition: ListCondition,
    body: JsonBody<UserDraft>,
    request: HttpRequest,
    service: web::Data<UserService>,
) -> Result<HttpResponse, Problem> {
    let (draft, author) = (Draft::from(body.0), caller.into_author(&request));
    let Some(keyed) = key.keyed_request(&draft) else {
        return Ok(created(&service.create(draft, author).await?));
    };
    let serialize = |user: &User| idempotency::serialize(created(user));
    // Boxed, to keep the future of creations without a key small.
    idempotency::deserialize(&Box::pin(service.create_once(draft, author, keyed, serialize)).await?)
}

/// Get a user
#[utoipa::path(
    get,
    path = "/users/{id}",
    tag = "users",
    operation_id = "getUser",
    params(PathId, ReadCondition),
    responses(
        (status = 200, description = "The user", body = UserBody, headers(
            ("ETag" = String, description = "The user's version, as an entity tag"),
            ("Feed-Position" = String, description = "The feed has every change after this position"),
        )),
        (status = 304, description = "The user is at a version in `If-None-Match`", headers(
            ("ETag" = String, description = "The user's version, as an entity tag"),
        )),
        IdProblems,
        ReadConditionProblems,
        ServerProblems,
    ),
)]
pub(super) async fn find(
    _: AllowedOrSelf<UsersRead>,
    id: PathId,
    condition: ReadCondition,
    position: FeedPosition,
    service: web::Data<UserService>,
) -> Result<HttpResponse, Problem> {
    let user = service.find(id.0).await?;
    let Precondition { is, is_not } = condition.0;
    if is.is_some_and(|versions| !versions.contain(user.version)) {
        return Err(service::Error::PreconditionFailed { current: user.version }.into());
    }
    if is_not.is_some_and(|versions| versions.contain(user.version)) {
        return Ok(with_headers(HttpResponse::NotModified(), &user).finish());
    }
    let mut response = with_headers(HttpResponse::Ok(), &user);
    position.insert(&mut response);
    Ok(response.json(UserBody::from(&user)))
}

/// Replace a user
#[utoipa::path(
    put,
    path = "/users/{id}",
    tag = "users",
    operation_id = "replaceUser",
    params(PathId, ChangeCondition),
    request_body = UserDraft,
    responses(
        (status = 200, description = "The updated user", body = UserBody, headers(
            ("ETag" = String, description = "The user's version, as an entity tag"),
        )),
        ChangeProblems,
        ChangeConditionProblems,
        ServerProblems,
    ),
)]
pub(super) async fn replace(
    caller: Allowed<UsersWrite>,
    id: PathId,
    condition: ChangeCondition,
    body: JsonBody<UserDraft>,
    request: HttpRequest,
    service: web::Data<UserService>,
) -> Result<HttpResponse, Problem> {
    Ok(ok(&service.replace(id.0, condition.0, body.0.into(), caller.into_author(&request)).await?))
}

/// Update a user
///
/// Applies a JSON Merge Patch (RFC 7396). A patch that changes nothing does not change the version.
#[utoipa::path(
    patch,
    path = "/users/{id}",
    tag = "users",
    operation_id = "patchUser",
    params(PathId, ChangeCondition),
    request_body(content((UserPatch = "application/merge-patch+json"), (UserPatch = "application/json"))),
    responses(
        (status = 200, description = "The updated user", body = UserBody, headers(
            ("ETag" = String, description = "The user's version, as an entity tag"),
        )),
        ChangeProblems,
        ChangeConditionProblems,
        ServerProblems,
    ),
)]
pub(super) async fn patch(
    caller: AllowedOrSelf<UsersWrite>,
    id: PathId,
    condition: ChangeCondition,
    body: MergePatch<UserPatch>,
    request: HttpRequest,
    service: web::Data<UserService>,
) -> Result<HttpResponse, Problem> {
    Ok(ok(&service.patch(id.0, condition.0, body.0.into(), caller.into_author(&request)).await?))
}

/// Delete a user
#[utoipa::path(
    delete,
    path = "/users/{id}",
    tag = "users",
    operation_id = "deleteUser",
    params(PathId, ChangeCondition),
    responses(
        (status = 204, description = "The user was deleted"),
        DeleteProblems,
        ChangeConditionProblems,
        ServerProblems,
    ),
)]
pub(super) async fn delete(
    caller: Allowed<UsersDelete>,
    id: PathId,
    condition: ChangeCondition,
    request: HttpRequest,
    service: web::Data<UserService>,
) -> Result<HttpResponse, Problem> {
    service.delete(id.0, condition.0, caller.into_author(&request)).await?;
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
    with_headers(HttpResponse::Ok(), user).json(UserBody::from(user))
}

/// Adds the headers of a user.
fn with_headers(mut response: HttpResponseBuilder, user: &User) -> HttpResponseBuilder {
    response
        .insert_header(etag(user.version))
        // Another client may change the user at any time.
        .insert_header((header::CACHE_CONTROL, policy::REVALIDATED));
    response
}
