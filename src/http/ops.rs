//! Liveness, readiness, pool status and metrics, for operators and orchestrators.

use std::rc::Rc;

use actix_web::{
    HttpMessage, HttpRequest, HttpResponse,
    http::header::{self, Accept, Header, Quality},
    web,
};
use metrics_exporter_prometheus::PrometheusHandle;
use orm_pool::{AcquireError, DbErrorKind, Pool, Snapshot};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    access::{Allowed, OpsRead},
    compression::compressible,
    problem::{Kind, Problem},
    responses::{HostProblems, ServerProblems},
};
use crate::{
    connections::OpenConnection,
    lifecycle::{CurrentPhase, Phase},
    telemetry,
};

/// The phase of the service, and the state of the pool.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PoolReport)]
pub(super) struct Report {
    /// The phase of the service: `serving`, or a phase of the shutdown.
    phase: Phase,
    #[serde(flatten)]
    pool: Snapshot,
}

/// The health of the service.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `live` or `ready`.
    #[schema(example = "ready")]
    status: &'static str,
    /// Why the database rejects writes while it serves reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "the database's disk is full")]
    impairment: Option<&'static str>,
}

/// Check liveness
///
/// Does not check the database: a database outage must not cause a restart of this process.
#[utoipa::path(
    get,
    path = "/health/live",
    tag = "operations",
    operation_id = "live",
    responses((status = 200, description = "The process is alive", body = Health), HostProblems),
)]
pub(super) async fn live() -> HttpResponse {
    is_live().await
}

/// The same, for the aliases of the path.
pub(super) async fn is_live() -> HttpResponse {
    HttpResponse::Ok().json(Health { status: "live", impairment: None })
}

/// Check readiness
///
/// Checks the pool, which monitors the database, without waiting behind other requests. Fails as soon as a shutdown
/// starts. While the database is down, `detail` states the cause.
#[utoipa::path(
    get,
    path = "/health/ready",
    tag = "operations",
    operation_id = "ready",
    responses((status = 200, description = "The service can process requests", body = Health), ServerProblems),
)]
pub(super) async fn ready(pool: web::Data<Pool>, phase: web::Data<CurrentPhase>) -> Result<HttpResponse, Problem> {
    is_ready(pool, phase).await
}

/// The same, for the aliases of the path.
pub(super) async fn is_ready(pool: web::Data<Pool>, phase: web::Data<CurrentPhase>) -> Result<HttpResponse, Problem> {
    if phase.get() >= Phase::NotReady {
        return Err(Problem::new(Kind::ShuttingDown, "This instance is shutting down."));
    }
    pool.ping().await.map_err(not_ready)?;
    Ok(HttpResponse::Ok().json(Health { status: "ready", impairment: pool.impairment().map(DbErrorKind::describe) }))
}

/// Adds the cause of an outage, which only readiness reports: its clients are the operators who can fix it.
fn not_ready(error: orm_pool::Error) -> Problem {
    let cause = match &error {
        orm_pool::Error::Refused { reason: AcquireError::Down { kind, .. }, .. } => Some(kind.describe()),
        _ => None,
    };
    let problem = Problem::from(crate::service::Error::from(error));
    match cause {
        Some(cause) => problem.with_detail(format!("Not ready: {cause}.")),
        None => problem,
    }
}

/// Get the state of the connection pool
///
/// Returns its state and the cause of an outage, its limits, the waiters and the holders of connections, counters since
/// the start, recent wait and hold times, and sizing advice.
#[utoipa::path(
    get,
    path = "/pool",
    tag = "operations",
    operation_id = "pool",
    responses((status = 200, description = "The state of the pool", body = Report), HostProblems),
)]
pub(super) async fn snapshot(
    _: Allowed<OpsRead>,
    pool: web::Data<Pool>,
    phase: web::Data<CurrentPhase>,
) -> HttpResponse {
    HttpResponse::Ok().json(Report { phase: phase.get(), pool: pool.snapshot() })
}

/// Get the metrics
///
/// Returns the text format of Prometheus, or OpenMetrics if `Accept` prefers it.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operations",
    operation_id = "metrics",
    responses((status = 200, description = "All metrics", content(
        (String = "text/plain"),
        (String = "application/openmetrics-text"),
    )), HostProblems),
)]
pub(super) async fn scrape(
    _: Allowed<OpsRead>,
    request: HttpRequest,
    pool: web::Data<Pool>,
    recorder: web::Data<PrometheusHandle>,
) -> HttpResponse {
    pool.update_gauges();
    telemetry::update_process_metrics();
    // The connection of HTTP/2 is a property of each of its requests.
    let of_request = request.extensions().get::<Rc<OpenConnection>>().cloned();
    if let Some(connection) = request.conn_data::<OpenConnection>().or(of_request.as_deref()) {
        connection.update_gauges();
    }
    let mut response = HttpResponse::Ok();
    response.insert_header((header::VARY, "Accept"));
    let text = recorder.render();
    compressible(if prefers_open_metrics(&request) {
        response
            .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
            .body(telemetry::open_metrics(&text))
    } else {
        response.content_type("text/plain; version=0.0.4; charset=utf-8").body(text)
    })
}

fn prefers_open_metrics(request: &HttpRequest) -> bool {
    let Ok(ranges) = Accept::parse(request) else { return false };
    let quality = |name: &str| ranges.iter().filter(|it| it.item.essence_str() == name).map(|it| it.quality).max();
    quality("application/openmetrics-text").is_some_and(|it| it > Quality::ZERO && Some(it) > quality("text/plain"))
}
