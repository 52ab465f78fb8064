//! HTTP: routes, extractors and responses. It calls the service and does not use the ORM.
//!
//! The routes are listed once, in `routes`; the OpenAPI document is collected from the same list. A request passes
//! through, from the outside in:
//!
//! 1. [`OneAtATime`]: the connection, which passes one pipelined request at a time to the parser. `refusal` creates the
//!    responses to requests that never reach a route.
//! 2. [`frame`]: the framing of responses to HTTP/1.0 clients and to upgrade requests (`framing`).
//! 3. [`RequestSpan`]: the span, the log line and the metrics of the request (`observe`, `metrics`), with a limit on the
//!    lines of refusals (`refusal_log_limit`).
//! 4. `observe::finish`: the delay of refusals of a busy pool (`refusal_throttle`), the request id, caching and security headers (`policy`), public URLs (`public_url`),
//!    `compression`.
//! 5. `limits`: accepted hosts (`host`), undecoded paths (`path`), the request timeout, panics, HEAD.
//! 6. `cors`: responses for pages of other origins, if there are such.
//! 7. `access`: who is calling, and whether the caller has the scope that the route requires. `route` registers no
//!    route without it.
//! 8. A handler in `users`, `history`, `bulk`, `export`, `changes`, `feed`, `keys`, `ops`, `pool_live`, `docs` or `pages`;
//!    `fallback` for any other path or method. `demo` has routes only in `users-api demo`.
//!
//! The extractors of the handlers refuse invalid input with a `Problem` (`problem`): `body` parses JSON, `query` query
//! strings, `conditions` and `etag` conditional requests, `idempotency` keys. The parameters and cursors of a query are
//! defined in [`exchange`](crate::exchange). `links` creates the `Link` header of a page, and `responses` documents the
//! problems of each route. `request_info` has the properties of a request that all of these share.

mod access;
mod body;
mod bulk;
mod changes;
mod client_address;
mod compression;
mod conditions;
mod cors;
mod demo;
mod docs;
mod etag;
mod export;
mod fallback;
mod feed;
mod feed_position;
mod feed_reader;
mod framing;
mod history;
mod host;
mod idempotency;
mod keys;
mod limits;
mod links;
mod live;
mod live_connection;
mod media_types;
mod messages;
mod metrics;
mod observe;
mod one_at_a_time;
mod ops;
mod origin;
mod pages;
mod path;
mod policy;
mod pool_live;
mod presence;
mod problem;
mod public_url;
mod query;
mod recheck;
mod refusal;
mod refusal_log_limit;
mod refusal_throttle;
mod request_info;
mod responses;
mod route;
mod shared_page;
mod tickets;
mod turn;
mod users;
mod websocket;

use std::{rc::Rc, sync::Arc, time::Duration};

use actix_http::Request;
use actix_web::{
    App, Error, HttpResponse,
    body::MessageBody,
    dev::{ServiceFactory, ServiceRequest, ServiceResponse},
    middleware::{Condition, from_fn},
    web,
};
use metrics_exporter_prometheus::PrometheusHandle;
use orm_pool::Pool;
use tracing_actix_web::TracingLogger;
use utoipa::{OpenApi as _, openapi::OpenApi};
use utoipa_actix_web::{AppExt, service_config::ServiceConfig};

use self::route::Routes;
pub use self::{framing::frame, host::Hosts, observe::RequestSpan, one_at_a_time::OneAtATime, public_url::PublicUrl};
use crate::{
    auth::Authenticator,
    demo::Lab,
    exchange::CursorSigner,
    feed::Feed,
    lifecycle::CurrentPhase,
    service::{Journal, KeyService, MessageService, PresenceStore, TicketStore, UserService},
};

/// The options of request handling.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// The maximum time until the response starts.
    pub request_timeout: Duration,
    /// Whether a change requires `If-Match`.
    pub require_if_match: bool,
    /// How long the response to a request with an `Idempotency-Key` is stored.
    pub idempotency_retention: Duration,
    /// The origins of web pages whose scripts may use the API.
    pub cors_origins: Arc<[String]>,
}

/// The parts of [`State`].
pub struct Parts {
    /// The connection pool.
    pub pool: Pool,
    /// The live feed, unless it is disabled.
    pub feed: Option<Feed>,
    /// Decides who is calling.
    pub authenticator: Arc<Authenticator>,
    /// Signs cursors.
    pub signer: CursorSigner,
    /// The options of request handling.
    pub options: HttpOptions,
    /// The hosts that requests may be for.
    pub hosts: Hosts,
    /// The URL at which clients reach the service.
    pub public_url: PublicUrl,
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    /// The lab of `users-api demo`.
    pub lab: Option<Lab>,
}

/// The state of the handlers, shared by all workers.
#[derive(Clone)]
pub struct State {
    set: RouteSet,
    service: web::Data<UserService>,
    journal: web::Data<Journal>,
    feed: Option<FeedState>,
    keys: web::Data<KeyService>,
    authenticator: web::Data<Authenticator>,
    pool: web::Data<Pool>,
    pool_stream: web::Data<pool_live::PoolStream>,
    demo: Option<web::Data<demo::Demo>>,
    signer: web::Data<CursorSigner>,
    phase: web::Data<CurrentPhase>,
    options: HttpOptions,
    hosts: web::Data<Hosts>,
    metrics: web::Data<PrometheusHandle>,
    public_url: web::Data<PublicUrl>,
    document: web::Data<docs::Document>,
    paths: web::Data<fallback::Paths>,
    swagger: web::Data<docs::SwaggerUi>,
}

/// The parts of [`State`] that exist only with a feed.
#[derive(Clone)]
struct FeedState {
    feed: web::Data<Feed>,
    messages: web::Data<MessageService>,
    presence: web::Data<PresenceStore>,
    tickets: web::Data<TicketStore>,
}

impl FeedState {
    fn new(feed: Feed, pool: &Pool) -> Self {
        Self {
            messages: web::Data::new(MessageService::new(pool.clone(), feed.change_signal())),
            presence: web::Data::new(PresenceStore::new(pool.clone())),
            tickets: web::Data::new(TicketStore::new(pool.clone())),
            feed: web::Data::new(feed),
        }
    }
}

impl State {
    /// Returns the state of a listener with all routes.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { pool, feed, authenticator, signer, options, hosts, public_url, metrics, lab } = parts;
        self::metrics::describe();
        let document = document(RouteSet::All);
        let phase = Arc::new(CurrentPhase::default());
        let pool_stream = pool_live::PoolStream::new(pool.clone(), feed.clone(), Arc::clone(&phase), lab.is_some());
        Self {
            set: RouteSet::All,
            service: web::Data::new(UserService::new(pool.clone(), feed.as_ref().map(Feed::change_signal))),
            journal: web::Data::new(Journal::new(pool.clone())),
            feed: feed.map(|feed| FeedState::new(feed, &pool)),
            keys: web::Data::new(KeyService::new(pool.clone())),
            authenticator: web::Data::from(authenticator),
            pool: web::Data::new(pool),
            pool_stream: web::Data::new(pool_stream),
            demo: lab.map(|lab| web::Data::new(demo::Demo::new(lab))),
            signer: web::Data::new(signer),
            phase: web::Data::from(phase),
            options,
            hosts: web::Data::new(hosts),
            metrics: web::Data::new(metrics),
            paths: web::Data::new(fallback::Paths::of(&document)),
            document: web::Data::new(docs::Document::new(document, &public_url)),
            public_url: web::Data::new(public_url),
            swagger: web::Data::new(docs::SwaggerUi::new()),
        }
    }

    /// Returns the state of another listener, with a set of routes.
    #[must_use]
    pub fn with_routes(&self, set: RouteSet, hosts: Hosts) -> Self {
        let document = document(set);
        Self {
            set,
            hosts: web::Data::new(hosts),
            paths: web::Data::new(fallback::Paths::of(&document)),
            document: web::Data::new(docs::Document::new(document, &self.public_url)),
            ..self.clone()
        }
    }

    /// Handles `Expect: 100-continue`: accepts the body, or refuses it.
    ///
    /// # Errors
    ///
    /// The response to a body whose media type the route does not support.
    pub fn before_body(&self, request: Request) -> Result<Request, Box<HttpResponse>> {
        refusal::before_body(request, &self.paths)
    }

    /// Returns the lab of a demonstration.
    #[must_use]
    pub fn lab(&self) -> Option<Lab> {
        self.demo.as_ref().map(|demo| demo.lab())
    }

    /// The phase of the service, which decides readiness.
    #[must_use]
    pub fn phase(&self) -> &CurrentPhase {
        &self.phase
    }
}

/// The routes that a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteSet {
    /// All routes.
    All,
    /// Those of clients. The others are not found.
    Clients,
    /// Those of operators.
    Operators,
}

/// The routes of a set, in the order of the document. `utoipa::path` derives the type `__path_list` from the handler
/// `list`.
fn routes(config: &mut ServiceConfig, set: RouteSet) {
    let mut routes = Routes(config);
    if set != RouteSet::Operators {
        routes
            .protected(users::__path_list, users::list)
            .protected(users::__path_create, users::create)
            // Before the routes of a single user, because `{id}` matches any text.
            .protected(bulk::__path_write, bulk::write)
            .protected(export::__path_export, export::export)
            .protected(changes::__path_changes, changes::changes)
            .protected(websocket::__path_open, websocket::open)
            .protected(tickets::__path_create, tickets::create)
            .protected(users::__path_find, users::find)
            .protected(users::__path_replace, users::replace)
            .protected(users::__path_patch, users::patch)
            .protected(users::__path_delete, users::delete)
            // Last, because each pattern costs a request that follows it a regular expression.
            .protected(messages::__path_send, messages::send)
            .protected(presence::__path_find, presence::find)
            .protected(history::__path_history, history::history);
    }
    routes.public(ops::__path_live, ops::live).public(ops::__path_ready, ops::ready);
    if set != RouteSet::Clients {
        routes
            .protected(ops::__path_snapshot, ops::snapshot)
            .protected(pool_live::__path_live, pool_live::live)
            .protected(ops::__path_scrape, ops::scrape)
            .protected(feed::__path_status, feed::status)
            .protected(keys::__path_list, keys::list)
            .protected(keys::__path_create, keys::create)
            .protected(keys::__path_rotate, keys::rotate)
            .protected(keys::__path_revoke, keys::revoke);
    }
    routes.public(docs::__path_document, docs::document).public(docs::__path_asyncapi, docs::asyncapi);
}

/// Returns the OpenAPI document of a set of routes.
#[must_use]
pub fn document(set: RouteSet) -> OpenApi {
    let base = docs::ApiDocument::openapi();
    let configure = |config: &mut ServiceConfig| routes(config, set);
    let (_, mut document) = App::new().into_utoipa_app().openapi(base).configure(configure).split_for_parts();
    docs::complete(&mut document);
    document
}

/// Adds the paths that browsers and platforms request by default.
fn default_paths(config: &mut web::ServiceConfig, set: RouteSet) {
    config
        .route("/favicon.ico", web::get().to(docs::no_icon))
        .route("/healthz", web::get().to(ops::is_live))
        .route("/livez", web::get().to(ops::is_live))
        .route("/readyz", web::get().to(ops::is_ready));
    if set != RouteSet::Clients {
        config
            .route("/", web::get().to(pages::home))
            .route("/dashboard", web::get().to(pages::dashboard))
            .route("/assets/{file}", web::get().to(pages::file))
            .route("/docs/{file}", web::get().to(pages::docs))
            .route("/swagger", web::get().to(docs::to_swagger))
            .route("/swagger/{file}*", web::get().to(docs::swagger));
    }
}

/// Returns the application of a worker.
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
    let (set, cors_origins) = (state.set, Arc::clone(&state.options.cors_origins));
    let limits = Rc::new(limits::Limits { timeout: state.options.request_timeout, paths: state.paths.clone() });
    App::new()
        .app_data(limits)
        .app_data(state.options)
        .app_data(state.hosts)
        .app_data(state.service)
        .app_data(state.journal)
        .app_data(state.keys)
        .app_data(state.authenticator)
        .app_data(state.pool)
        .app_data(state.pool_stream)
        .app_data(state.signer)
        .app_data(state.phase)
        .app_data(state.metrics)
        .app_data(state.public_url)
        .app_data(state.document)
        .app_data(state.paths)
        .app_data(state.swagger)
        .configure(|config| {
            if let Some(FeedState { feed, messages, presence, tickets }) = state.feed {
                config.app_data(feed).app_data(messages).app_data(presence).app_data(tickets);
            }
        })
        .configure(|config| routes(&mut ServiceConfig::new(config), set))
        .configure(|config| default_paths(config, set))
        .configure(|config| {
            if let Some(demo) = state.demo {
                config.app_data(demo).configure(demo::routes);
            }
        })
        .default_service(web::to(fallback::fallback))
        .wrap(Condition::new(!cors_origins.is_empty(), cors::cors(&cors_origins)))
        .wrap(from_fn(observe::finish))
        .wrap(TracingLogger::<RequestSpan>::new())
}
