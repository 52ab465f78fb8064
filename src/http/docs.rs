//! The OpenAPI document and the pages that show it.

use actix_web::{HttpResponse, get, http::header, web};
use utoipa::{OpenApi, openapi};
use utoipa_swagger_ui::Config;

use super::problem::{Kind, Problem, ProblemBody};

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
#[derive(Clone)]
pub(super) struct DocumentJson(web::Bytes);

impl DocumentJson {
    pub(super) fn new(openapi: &openapi::OpenApi) -> Self {
        Self(serde_json::to_vec(openapi).unwrap_or_default().into())
    }
}

/// This document
#[utoipa::path(
    tag = "operations",
    operation_id = "openapi",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")),
)]
#[get("/openapi.json")]
pub(super) async fn document(json: web::Data<DocumentJson>) -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(json.0.clone())
}

/// What Swagger UI is told to show.
pub(super) type SwaggerConfig = Config<'static>;

pub(super) fn swagger_config() -> SwaggerConfig {
    Config::from("/openapi.json")
        // Else the page asks a validator on the internet to look at the document.
        .validator_url("none")
        .try_it_out_enabled(true)
        .display_request_duration(true)
}

/// Swagger UI, from the binary: no part of it is fetched from elsewhere.
pub(super) async fn swagger(
    file: web::Path<String>,
    config: web::Data<SwaggerConfig>,
) -> Result<HttpResponse, Problem> {
    let served = utoipa_swagger_ui::serve(&file, config.into_inner());
    let file = served.map_err(|error| Problem::internal(error.to_string()))?;
    let file = file.ok_or_else(|| Problem::new(Kind::NotFound, "Swagger UI has no such part."))?;
    Ok(HttpResponse::Ok().content_type(file.content_type).body(file.bytes.into_owned()))
}

/// The page lives in a folder, so that its own parts are found.
pub(super) async fn to_swagger() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((header::LOCATION, "/swagger/")).finish()
}
