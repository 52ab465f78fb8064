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
use utoipa::{OpenApi, openapi};
use utoipa_swagger_ui::Config;

use super::{
    policy::Asset,
    problem::{Kind, Problem, ProblemBody},
};

/// What the document says besides its routes; those are collected from the handlers.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "users-api",
        description = "Users over HTTP, on one shared, tuned connection pool.\n\nErrors are problem details (RFC 9457) \
                       with a stable `code`. Every answer carries `X-Request-Id`, the caller's own if it sent one. \
                       Every `GET` answers `HEAD` too.",
    ),
    components(schemas(ProblemBody)),
    tags(
        (name = "users", description = "The users"),
        (name = "operations", description = "For operators and orchestrators"),
    ),
)]
pub(super) struct Base;

/// The document as it is sent, made once.
pub(super) type DocumentJson = Asset;

pub(super) fn document_json(openapi: &openapi::OpenApi) -> DocumentJson {
    let json = serde_json::to_vec(openapi).unwrap_or_default();
    Asset::new(json.into(), HeaderValue::from_static("application/json"))
}

/// This document
#[utoipa::path(
    tag = "operations",
    operation_id = "openapi",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")),
)]
#[get("/openapi.json")]
pub(super) async fn document(request: HttpRequest, json: web::Data<DocumentJson>) -> HttpResponse {
    json.answer(&request)
}

/// Swagger UI, from the binary: no part of it is fetched from elsewhere.
pub(super) struct SwaggerUi {
    config: Arc<Config<'static>>,
    /// What was asked for before.
    parts: RwLock<BTreeMap<String, Arc<Asset>>>,
}

impl SwaggerUi {
    pub(super) fn new() -> Self {
        let config = Config::from("/openapi.json")
            // Else the page asks a validator on the internet to look at the document.
            .validator_url("none")
            .try_it_out_enabled(true)
            .display_request_duration(true);
        Self { config: Arc::new(config), parts: RwLock::default() }
    }

    fn part(&self, name: &str) -> Result<Arc<Asset>, Problem> {
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

/// The page lives in a folder, so that its own parts are found.
pub(super) async fn to_swagger() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((header::LOCATION, "/swagger/")).finish()
}

/// Until there is another page, people find the API's.
pub(super) async fn home() -> HttpResponse {
    HttpResponse::TemporaryRedirect().insert_header((header::LOCATION, "/swagger/")).finish()
}

/// Browsers ask for one with every page.
pub(super) async fn no_icon() -> HttpResponse {
    HttpResponse::NoContent().insert_header((header::CACHE_CONTROL, "public, max-age=86400")).finish()
}
