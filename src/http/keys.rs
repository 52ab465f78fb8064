//! The routes of `/keys`: API keys, for callers with the scope `keys:admin`.

use actix_web::{FromRequest, HttpRequest, HttpResponse, dev::Payload, web};
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::{
    IntoParams, ToSchema,
    openapi::{
        RefOr, Required, Schema,
        path::{Parameter, ParameterBuilder, ParameterIn},
    },
};

use super::{
    access::{Allowed, KeysAdmin, scope_missing},
    body::{JsonBody, request_body},
    path,
    problem::{Kind, Problem},
    responses::{KeyBodyProblems, KeyIdProblems, KeyRotationProblems, ServerProblems},
};
use crate::{
    domain::{ApiKey, KeyId, KeyName, Overlap, Scope, Scopes, ValidationError},
    exchange::{TextValue, microseconds, optional_microseconds, text},
    service::{self, KeyRecord, KeyService, NewKey, clock},
};

/// An API key, without its secret.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ApiKey)]
pub(super) struct ApiKeyBody {
    /// The id: the 12 letters and digits between `uak_` and the next `_`.
    #[schema(example = "3mWv0cY2bQeR")]
    id: String,
    /// The purpose of the key.
    #[schema(example = "billing service")]
    name: String,
    /// The scopes, separated by spaces.
    #[schema(example = "users:read users:write")]
    scope: String,
    #[serde(serialize_with = "microseconds")]
    created_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_microseconds")]
    expires_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_microseconds")]
    revoked_at: Option<DateTime<Utc>>,
    /// The id of the key that replaces it, if it was rotated.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced_by: Option<String>,
    /// When it was last used, accurate to about a minute.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_microseconds")]
    last_used_at: Option<DateTime<Utc>>,
    /// The key itself. Returned only when it is created.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

impl ApiKeyBody {
    fn new(record: KeyRecord, key: Option<String>) -> Self {
        let KeyRecord { id, name, scopes, created_at, expires_at, revoked_at, replaced_by, last_used_at } = record;
        Self {
            id: id.to_string(),
            name: name.as_str().to_owned(),
            scope: scopes.to_string(),
            created_at,
            expires_at,
            revoked_at,
            replaced_by: replaced_by.map(|id| id.to_string()),
            last_used_at,
            key,
        }
    }
}

request_body! {
    /// A new API key.
    pub(super) struct ApiKeyDraft {
        /// The purpose of the key: one line.
        #[example("billing service")]
        name: KeyName,
        /// The scopes, separated by spaces. The caller must have all of them.
        #[example("users:read users:write")]
        scope: KeyScopes,
        /// When the key expires. Without it, it does not expire.
        #[example("2099-12-31T12:00:00Z")]
        expires_at: Option<Expiry>,
    }
}

request_body! {
    /// The rotation of an API key.
    pub(super) struct ApiKeyRotation {
        /// How long the old key still works.
        #[example("24h")]
        overlap: Option<Overlap>,
    }
}

/// Scopes that an API key can have.
struct KeyScopes(Scopes);

impl TextValue for KeyScopes {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        Scopes::parse_for_key(text).map(Self)
    }

    fn schema() -> RefOr<Schema> {
        let scopes: Vec<&str> = Scopes::ALL_OF_KEYS.iter().map(Scope::name).collect();
        let scopes = scopes.join("|");
        text().pattern(Some(format!("^({scopes})( ({scopes}))*$"))).into()
    }
}

/// When a key expires: in the future.
struct Expiry(DateTime<Utc>);

impl TextValue for Expiry {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        let time = <DateTime<Utc> as TextValue>::parse(text)?;
        if time > clock::now() { Ok(Self(time)) } else { Err(ValidationError::new("past", "must be in the future")) }
    }

    fn schema() -> RefOr<Schema> {
        <DateTime<Utc> as TextValue>::schema()
    }
}

impl TextValue for Overlap {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        text.parse()
    }

    fn schema() -> RefOr<Schema> {
        let description = format!("It is {}.", Self::form());
        text().description(Some(description)).default(Some(Self::DEFAULT.to_string().into())).into()
    }
}

/// The id in the path.
pub(super) struct PathKeyId(KeyId);

impl FromRequest for PathKeyId {
    type Error = Problem;
    type Future = std::future::Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let id = path::parameter(request, "id").parse();
        std::future::ready(id.map(Self).map_err(|_| {
            let length = KeyId::LENGTH;
            let detail =
                format!("The id of an API key is the {length} letters and digits between `uak_` and the next `_`.");
            Problem::new(Kind::InvalidId, detail)
        }))
    }
}

impl IntoParams for PathKeyId {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let id = text().pattern(Some(format!("^[0-9A-Za-z]{{{}}}$", KeyId::LENGTH)));
        let parameter = ParameterBuilder::new().name("id").parameter_in(ParameterIn::Path).required(Required::True);
        vec![parameter.description(Some("The key's id. `GET /keys` lists them.")).schema(Some(id)).build()]
    }
}

/// List API keys
///
/// Returns all keys, oldest first, without their secrets, including revoked and expired ones.
#[utoipa::path(
    get,
    path = "/keys",
    tag = "keys",
    operation_id = "listKeys",
    responses((status = 200, description = "All keys", body = [ApiKeyBody]), ServerProblems),
)]
pub(super) async fn list(_: Allowed<KeysAdmin>, service: web::Data<KeyService>) -> Result<HttpResponse, Problem> {
    let keys = service.list().await?;
    Ok(HttpResponse::Ok().json(keys.into_iter().map(|key| ApiKeyBody::new(key, None)).collect::<Vec<_>>()))
}

/// Create an API key
///
/// Only this response contains the key: it cannot be read again. Every process accepts it within `auth.refresh`.
#[utoipa::path(
    post,
    path = "/keys",
    tag = "keys",
    operation_id = "createKey",
    request_body = ApiKeyDraft,
    responses((status = 201, description = "The key was created", body = ApiKeyBody), KeyBodyProblems, ServerProblems),
)]
pub(super) async fn create(
    caller: Allowed<KeysAdmin>,
    body: JsonBody<ApiKeyDraft>,
    service: web::Data<KeyService>,
) -> Result<HttpResponse, Problem> {
    let ApiKeyDraft { name, scope: KeyScopes(scopes), expires_at } = body.0;
    if let Some(scope) = scopes.iter().find(|scope| !caller.scopes().contain(*scope)) {
        return Err(scope_missing(scope));
    }
    let (key, text) = generate()?;
    let record = service.create(NewKey { key, name, scopes, expires_at: expires_at.map(|expiry| expiry.0) }).await?;
    tracing::info!(key = %record.id, scopes = %record.scopes, by = %caller.actor(), "API key created");
    Ok(HttpResponse::Created().json(ApiKeyBody::new(record, Some(text))))
}

/// Rotate an API key
///
/// Creates a key with the same name, scopes and expiry. The old key works for `overlap`, so that clients can
/// switch. Only this response contains the new key.
#[utoipa::path(
    post,
    path = "/keys/{id}/rotate",
    tag = "keys",
    operation_id = "rotateKey",
    params(PathKeyId),
    request_body = ApiKeyRotation,
    responses(
        (status = 201, description = "The new key was created", body = ApiKeyBody),
        KeyBodyProblems,
        KeyIdProblems,
        KeyRotationProblems,
        ServerProblems,
    ),
)]
pub(super) async fn rotate(
    caller: Allowed<KeysAdmin>,
    id: PathKeyId,
    body: JsonBody<ApiKeyRotation>,
    service: web::Data<KeyService>,
) -> Result<HttpResponse, Problem> {
    let (key, text) = generate()?;
    let overlap = body.0.overlap.unwrap_or_default();
    let record = match service.rotate(id.0, key, overlap, caller.scopes()).await {
        Err(service::Error::ScopesExceeded(scope)) => return Err(scope_missing(scope)),
        rotated => rotated?,
    };
    tracing::info!(key = %record.id, replaces = %id.0, by = %caller.actor(), "API key rotated");
    Ok(HttpResponse::Created().json(ApiKeyBody::new(record, Some(text))))
}

/// Revoke an API key
///
/// Every process refuses it within `auth.refresh`. A revoked key stays in the list.
#[utoipa::path(
    delete,
    path = "/keys/{id}",
    tag = "keys",
    operation_id = "revokeKey",
    params(PathKeyId),
    responses((status = 204, description = "The key is revoked"), KeyIdProblems, ServerProblems),
)]
pub(super) async fn revoke(
    caller: Allowed<KeysAdmin>,
    id: PathKeyId,
    service: web::Data<KeyService>,
) -> Result<HttpResponse, Problem> {
    let record = service.revoke(id.0).await?;
    tracing::info!(key = %record.id, by = %caller.actor(), "API key revoked");
    Ok(HttpResponse::NoContent().finish())
}

fn generate() -> Result<(ApiKey, String), Problem> {
    ApiKey::generate().map_err(|error| Problem::internal(error.to_string()))
}
