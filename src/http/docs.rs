//! The OpenAPI document and the pages that show it.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use actix_web::{
    HttpRequest, HttpResponse, get,
    http::header::{self, HeaderValue},
    web,
};
use utoipa::{
    OpenApi,
    openapi::{self, HeaderBuilder, KnownFormat, ObjectBuilder, RefOr, SchemaFormat, Server, Type},
};
use utoipa_swagger_ui::Config;

use super::{
    bulk::{BulkLine, BulkSummary, NDJSON},
    documented::SortParameter,
    policy::Asset,
    problem::{Kind, Problem, ProblemBody, ProblemCode},
    public_url::PublicUrl,
    responses::HostProblems,
};
use crate::exchange::{ExportedBody, Field};

/// What the document says besides its routes; those are collected from the handlers.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "users-api",
        description = "Users over HTTP, on one shared, tuned connection pool.\n\nErrors are problem details (RFC 9457) \
                       with a stable `code`. Every answer carries `X-Request-Id`, the caller's own if it sent one. \
                       Every `GET` answers `HEAD` too.",
    ),
    // The lines of NDJSON bodies have schemas of their own: a body of many lines is a text.
    components(schemas(BulkLine, BulkSummary, ExportedBody, Field, ProblemBody, ProblemCode, SortParameter)),
    tags(
        (name = "users", description = "The users"),
        (name = "operations", description = "For operators and orchestrators"),
    ),
)]
pub(super) struct Base;

/// Adds what is true of every operation.
pub(super) fn complete(api: &mut openapi::OpenApi) {
    let request_id = || {
        let schema = ObjectBuilder::new().schema_type(Type::String);
        let description = "The request's id, which the log has too; the client's own if it sent one";
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
                // Generated clients would read other texts as JSON, by the name of their media type.
                if let Some(RefOr::T(lines)) = response.content.get_mut(NDJSON) {
                    lines.schema = Some(bytes());
                }
            }
        }
    }
    api.servers = Some(vec![Server::new("/")]);
}

/// The document as it is sent.
pub(super) struct Document {
    api: openapi::OpenApi,
    json: Asset,
}

impl Document {
    pub(super) fn new(api: openapi::OpenApi, public_url: &PublicUrl) -> Self {
        let json = public_url.configured().map_or_else(|| json(&api), |url| at(&api, url));
        Self { api, json }
    }
}

/// The document of a service that clients reach under this URL.
fn at(api: &openapi::OpenApi, url: &str) -> Asset {
    let mut api = api.clone();
    api.servers = Some(vec![Server::new(url)]);
    json(&api)
}

fn json(api: &openapi::OpenApi) -> Asset {
    Asset::new(serde_json::to_vec(api).unwrap_or_default().into(), HeaderValue::from_static("application/json"))
}

/// This document
#[utoipa::path(
    tag = "operations",
    operation_id = "openapi",
    responses(
        (status = 200, description = "OpenAPI 3.1", body = BTreeMap<String, Value>, content_type = "application/json"),
        HostProblems,
    ),
)]
#[get("/openapi.json")]
pub(super) async fn document(
    request: HttpRequest,
    document: web::Data<Document>,
    public_url: web::Data<PublicUrl>,
) -> HttpResponse {
    match public_url.forwarded(&request) {
        Some(url) => at(&document.api, &url).answer(&request),
        None => document.json.answer(&request),
    }
}

/// Swagger UI, from the binary: no part of it is fetched from elsewhere.
pub(super) struct SwaggerUi {
    config: Arc<Config<'static>>,
    /// What was requested before.
    parts: RwLock<BTreeMap<String, Arc<Asset>>>,
}

impl SwaggerUi {
    pub(super) fn new() -> Self {
        let page =
            Asset::new(include_str!("docs/swagger.html").into(), HeaderValue::from_static("text/html; charset=utf-8"));
        let script =
            Asset::new(include_str!("docs/swagger-initializer.js").into(), HeaderValue::from_static("text/javascript"));
        let own = [("", page), ("swagger-initializer.js", script)];
        let parts = own.into_iter().map(|(name, part)| (name.to_owned(), Arc::new(part))).collect();
        Self { config: Arc::default(), parts: RwLock::new(parts) }
    }

    fn part(&self, name: &str) -> Result<Arc<Asset>, Problem> {
        let name = if name == "index.html" { "" } else { name };
        if let Some(part) = self.parts.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(Arc::clone(part));
        }
        let served = utoipa_swagger_ui::serve(name, Arc::clone(&self.config));
        let file = served.map_err(|error| Problem::internal(error.to_string()))?;
        let file = file.ok_or_else(|| Problem::new(Kind::NotFound, "Swagger UI has no such part."))?;
        let content_type = HeaderValue::try_from(file.content_type).map_err(Problem::internal)?;
        let part = Arc::new(Asset::new(file.bytes.into_owned().into(), content_type));
        self.parts.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Arc::clone(&part));
        Ok(part)
    }
}

pub(super) async fn swagger(
    request: HttpRequest,
    file: web::Path<String>,
    pages: web::Data<SwaggerUi>,
) -> Result<HttpResponse, Problem> {
    Ok(pages.part(&file)?.answer(&request))
}

/// Redirects to the directory that the page loads its assets from. The target is relative, so that it works under any prefix.
pub(super) async fn to_swagger() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((header::LOCATION, "swagger/")).finish()
}

/// Until there is another page, people find the API's.
pub(super) async fn home() -> HttpResponse {
    HttpResponse::TemporaryRedirect().insert_header((header::LOCATION, "swagger/")).finish()
}

/// Browsers ask for one with every page.
pub(super) async fn no_icon() -> HttpResponse {
    HttpResponse::NoContent().insert_header((header::CACHE_CONTROL, "public, max-age=86400")).finish()
}
