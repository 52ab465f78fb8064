//! The OpenAPI document, Swagger UI and the AsyncAPI document.

mod asyncapi;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{self, HeaderValue},
    web,
};
use serde::Serialize;
use utoipa::{
    OpenApi,
    openapi::{
        self, HeaderBuilder, KnownFormat, ObjectBuilder, RefOr, SchemaFormat, Server, Type,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_swagger_ui::Config;

pub(super) use self::asyncapi::{__path_asyncapi, asyncapi};
use super::{
    bulk::{BulkLine, BulkSummary},
    media_types::NDJSON,
    policy::Asset,
    pool_live::LivePool,
    problem::{Kind, Problem, ProblemBody, ProblemCode},
    public_url::PublicUrl,
    responses::HostProblems,
    route::SCHEME,
};
use crate::{
    domain::Scope,
    exchange::{ExportedUser, Field, UserSort},
};

/// The parts of the document other than the routes, which are collected from the handlers.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "users-api",
        description = "Users over HTTP, on one shared, tuned connection pool.\n\nErrors are problem details (RFC 9457) \
                       with a stable `code`. Every response has an `X-Request-Id`: the client's, or a generated one. \
                       Every `GET` route also supports `HEAD`.",
    ),
    // Includes the schemas of lines and messages, which no operation refers to: a stream is described as binary or text.
    components(schemas(BulkLine, BulkSummary, ExportedUser, Field, LivePool, ProblemBody, ProblemCode, UserSort)),
    tags(
        (name = "users", description = "Users"),
        (name = "keys", description = "API keys, for callers with the scope `keys:admin`"),
        (name = "operations", description = "Health, metrics and status, for operators and orchestrators"),
    ),
)]
pub(super) struct ApiDocument;

/// Completes the document with what all operations have in common.
pub(super) fn complete(api: &mut openapi::OpenApi) {
    let request_id = || {
        let schema = ObjectBuilder::new().schema_type(Type::String);
        let description = "The id of the request, also in the log: the client's, or a generated one";
        HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build()
    };
    let bytes = || {
        let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
        RefOr::T(ObjectBuilder::new().schema_type(Type::String).format(Some(format)).build().into())
    };
    for item in api.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            for response in operation.responses.responses.values_mut() {
                let RefOr::T(response) = response else { continue };
                response.headers.insert("X-Request-Id".to_owned(), request_id().into());
                // Binary: generated clients would parse a string of this media type as JSON.
                if let Some(RefOr::T(lines)) = response.content.get_mut(NDJSON) {
                    lines.schema = Some(bytes());
                }
            }
        }
    }
    api.servers = Some(vec![Server::new("/")]);
    let scopes: Vec<String> = Scope::ALL.iter().map(|scope| format!("* `{scope}`: {}", scope.description())).collect();
    let description = format!(
        "An API key, or an access token (JWT) of the identity provider, if the service requires them (`auth.mode`). \
         `X-API-Key` is accepted too. Each operation names the scope that the caller must have, or several of which one \
         is enough:\n\n{}",
        scopes.join("\n")
    );
    let scheme =
        HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("uak_… or JWT").description(Some(description));
    let components = api.components.get_or_insert_default();
    components.add_security_scheme(SCHEME, SecurityScheme::Http(scheme.build()));
}

/// The document, serialized once.
pub(super) struct Document {
    api: openapi::OpenApi,
    json: Asset,
}

impl Document {
    pub(super) fn new(api: openapi::OpenApi, public_url: &PublicUrl) -> Self {
        let json = public_url.configured().map_or_else(|| json(&api), |url| with_server(&api, url));
        Self { api, json }
    }
}

/// Returns the document of a service with this public URL.
fn with_server(api: &openapi::OpenApi, url: &str) -> Asset {
    let mut api = api.clone();
    api.servers = Some(vec![Server::new(url)]);
    json(&api)
}

fn json(document: &impl Serialize) -> Asset {
    Asset::new(serde_json::to_vec(document).unwrap_or_default().into(), HeaderValue::from_static("application/json"))
}

/// Get this document
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "operations",
    operation_id = "openapi",
    responses(
        (status = 200, description = "OpenAPI 3.1", body = BTreeMap<String, Value>, content_type = "application/json"),
        HostProblems,
    ),
)]
pub(super) async fn document(
    request: HttpRequest,
    document: web::Data<Document>,
    public_url: web::Data<PublicUrl>,
) -> HttpResponse {
    match public_url.forwarded(&request) {
        Some(url) => with_server(&document.api, &url).respond(&request),
        None => document.json.respond(&request),
    }
}

/// Swagger UI, embedded in the binary: it needs no network.
pub(super) struct SwaggerUi {
    config: Arc<Config<'static>>,
    /// The assets that have been requested so far.
    assets: RwLock<BTreeMap<String, Arc<Asset>>>,
}

impl SwaggerUi {
    pub(super) fn new() -> Self {
        let page =
            Asset::new(include_str!("docs/swagger.html").into(), HeaderValue::from_static("text/html; charset=utf-8"));
        let script =
            Asset::new(include_str!("docs/swagger-initializer.js").into(), HeaderValue::from_static("text/javascript"));
        let assets = [("", page), ("swagger-initializer.js", script)];
        let assets = assets.into_iter().map(|(name, asset)| (name.to_owned(), Arc::new(asset))).collect();
        Self { config: Arc::default(), assets: RwLock::new(assets) }
    }

    fn asset(&self, name: &str) -> Result<Arc<Asset>, Problem> {
        let name = if name == "index.html" { "" } else { name };
        if let Some(asset) = self.assets.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(Arc::clone(asset));
        }
        let served = utoipa_swagger_ui::serve(name, Arc::clone(&self.config));
        let file = served.map_err(|error| Problem::internal(error.to_string()))?;
        let file = file.ok_or_else(|| Problem::new(Kind::NotFound, "Swagger UI has no such file."))?;
        let content_type = HeaderValue::try_from(file.content_type).map_err(Problem::internal)?;
        let asset = Arc::new(Asset::new(file.bytes.into_owned().into(), content_type));
        self.assets.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Arc::clone(&asset));
        Ok(asset)
    }
}

pub(super) async fn swagger(
    request: HttpRequest,
    file: web::Path<String>,
    swagger: web::Data<SwaggerUi>,
) -> Result<HttpResponse, Problem> {
    Ok(swagger.asset(&file)?.respond(&request))
}

/// Redirects to the directory of Swagger UI. The target is relative, so that it works under any prefix.
pub(super) async fn to_swagger() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((header::LOCATION, "swagger/")).finish()
}

/// Browsers request an icon with every page.
pub(super) async fn no_icon() -> HttpResponse {
    HttpResponse::NoContent().insert_header((header::CACHE_CONTROL, "public, max-age=86400")).finish()
}
