//! HTTP: from bytes to a use case and back. Knows the service, and no ORM.
//!
//! The routes are listed here, once; the OpenAPI document is collected from the same list. Each handler is wrapped, from the
//! outside in, by [`OneAtATime`] (one request of a connection at a time; `refusal`), [`frame`] (framing for HTTP/1.0 and
//! upgrades), [`RequestSpan`] (span, log line, metrics) and `finish` (request id, path of a problem, `policy`: caching headers,
//! `public_url`, `compression`), which calls `limits` (unknown hosts: `host`; time-out, panics, HEAD, undecoded paths: `path`).
//!
//! To read on: `users`, `bulk`, `export` and `ops` are the routes. What they ask of a request is read by `body`, `list`,
//! `parameters`, `cursor`, `conditions` and `idempotency`, each of which refuses with a problem (`problem`; `responses`
//! tells the document of them). `info` is what is known of a request from its first moment on, and `observe`, `metrics` and
//! `limits` work with it. `docs` and `fallback` live on the document; `documented` describes parameters in it.

mod body;
mod bulk;
mod compression;
mod conditions;
mod cursor;
mod docs;
mod documented;
mod export;
mod fallback;
mod framing;
mod host;
mod idempotency;
mod limits;
mod list;
mod metrics;
mod observe;
mod one_at_a_time;
mod ops;
mod parameters;
mod path;
mod policy;
mod problem;
mod public_url;
mod refusal;
mod request_info;
mod responses;
mod users;

use std::{rc::Rc, time::Duration};

use actix_http::Request;
use actix_web::{
    App, Error, HttpResponse,
    body::MessageBody,
    dev::{ServiceFactory, ServiceRequest, ServiceResponse},
    middleware::from_fn,
    web,
};
use metrics_exporter_prometheus::PrometheusHandle;
use orm_pool::Pool;
use tracing_actix_web::TracingLogger;
use utoipa::{OpenApi as _, openapi::OpenApi};
use utoipa_actix_web::{AppExt, service_config::ServiceConfig};

pub use self::{
    cursor::CursorSigner,
    export::ExportQuery,
    framing::frame,
    host::Hosts,
    observe::RequestSpan,
    one_at_a_time::OneAtATime,
    ops::{Draining, Phase},
    public_url::PublicUrl,
};
use crate::service::UserService;

/// How requests are treated.
#[derive(Clone, Copy, Debug)]
pub struct HttpOptions {
    /// Longest time to an answer.
    pub request_timeout: Duration,
    /// Whether a change has to say by `If-Match` what it changes.
    pub require_if_match: bool,
    /// How long the answer to a request with an `Idempotency-Key` is kept.
    pub keep_answers: Duration,
}

/// What the handlers work with, shared by all workers.
#[derive(Clone)]
pub struct State {
    service: web::Data<UserService>,
    pool: web::Data<Pool>,
    signer: web::Data<CursorSigner>,
    draining: web::Data<Draining>,
    rules: HttpOptions,
    hosts: web::Data<Hosts>,
    metrics: web::Data<PrometheusHandle>,
    public_url: web::Data<PublicUrl>,
    document: web::Data<docs::Document>,
    paths: web::Data<fallback::Paths>,
    swagger: web::Data<docs::SwaggerUi>,
}

impl State {
    /// Gathers what the handlers need.
    #[must_use]
    pub fn new(
        pool: Pool,
        signer: CursorSigner,
        rules: HttpOptions,
        hosts: Hosts,
        public_url: PublicUrl,
        metrics: PrometheusHandle,
    ) -> Self {
        let document = document();
        Self {
            service: web::Data::new(UserService::new(pool.clone())),
            pool: web::Data::new(pool),
            signer: web::Data::new(signer),
            draining: web::Data::new(Draining::default()),
            rules,
            hosts: web::Data::new(hosts),
            metrics: web::Data::new(metrics),
            paths: web::Data::new(fallback::Paths::of(&document)),
            document: web::Data::new(docs::Document::new(document, &public_url)),
            public_url: web::Data::new(public_url),
            swagger: web::Data::new(docs::SwaggerUi::new()),
        }
    }

    /// Answers `Expect: 100-continue`: lets the body come, or refuses it.
    ///
    /// # Errors
    ///
    /// The answer to a body that its route does not take.
    pub fn before_body(&self, request: Request) -> Result<Request, Box<HttpResponse>> {
        refusal::before_body(request, &self.paths)
    }

    /// The switch that turns readiness off.
    #[must_use]
    pub fn draining(&self) -> &Draining {
        &self.draining
    }
}

/// Every route, in the order in which the document shows them.
fn routes(config: &mut ServiceConfig) {
    config
        .service(users::list)
        .service(users::create)
        // Before the routes of a single user, whose id could be anything.
        .service(bulk::write)
        .service(export::export)
        .service(users::find)
        .service(users::replace)
        .service(users::patch)
        .service(users::remove)
        .service(ops::live)
        .service(ops::ready)
        .service(ops::snapshot)
        .service(ops::scrape)
        .service(docs::document);
}

/// The OpenAPI document of all routes.
#[must_use]
pub fn document() -> OpenApi {
    let base = docs::Base::openapi();
    let (_, mut document) = App::new().into_utoipa_app().openapi(base).configure(routes).split_for_parts();
    docs::complete(&mut document);
    document
}

/// The application that each worker runs.
pub fn app(
    state: State,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody>,
        Error = Error,
        InitError = (),
    >,
> {
    let bounds = Rc::new(limits::Bounds { timeout: state.rules.request_timeout, paths: state.paths.clone() });
    App::new()
        .app_data(bounds)
        .app_data(state.rules)
        .app_data(state.hosts)
        .app_data(state.service)
        .app_data(state.pool)
        .app_data(state.signer)
        .app_data(state.draining)
        .app_data(state.metrics)
        .app_data(state.public_url)
        .app_data(state.document)
        .app_data(state.paths)
        .app_data(state.swagger)
        .configure(|config| routes(&mut ServiceConfig::new(config)))
        // What people and platforms try first.
        .route("/", web::get().to(docs::home))
        .route("/favicon.ico", web::get().to(docs::no_icon))
        .route("/healthz", web::get().to(ops::is_live))
        .route("/livez", web::get().to(ops::is_live))
        .route("/readyz", web::get().to(ops::is_ready))
        .route("/swagger", web::get().to(docs::to_swagger))
        .route("/swagger/{file}*", web::get().to(docs::swagger))
        .default_service(web::to(fallback::fallback))
        .wrap(from_fn(observe::finish))
        .wrap(TracingLogger::<RequestSpan>::new())
}
