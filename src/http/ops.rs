//! What operators and orchestrators ask: is it alive, is it ready, how is it doing.

use std::sync::atomic::{AtomicU8, Ordering};

use actix_web::{
    HttpRequest, HttpResponse, get,
    http::header::{self, Accept, Header, Quality},
    web,
};
use metrics_exporter_prometheus::PrometheusHandle;
use orm_pool::{AcquireError, DbErrorKind, Pool, Snapshot};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    compression::compressible,
    problem::{Kind, Problem},
    responses::{HostProblems, ServerProblems},
};
use crate::{connections::OpenConnection, telemetry};

/// How far the service is on its way out. Phases follow one another in this order, and none comes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Phase {
    /// Requests are served, and no end is in sight.
    #[default]
    Serving,
    /// Readiness is false; requests are still taken, until load balancers have noticed.
    NotReady,
    /// Nobody listens any more, and each answer asks its client to close the connection. Not before: a client that comes
    /// back too early would find a door that is just being shut.
    ClosingConnections,
    /// What waits for a connection of the pool is refused; what runs is finished.
    Draining,
    /// All is answered; the pool is being closed.
    Closing,
}

/// The phase that the service is in, for all to see.
#[derive(Debug, Default)]
pub struct Draining(AtomicU8);

impl Draining {
    /// Goes on to a phase.
    pub fn enter(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Release);
    }

    pub(super) fn phase(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Serving,
            1 => Phase::NotReady,
            2 => Phase::ClosingConnections,
            3 => Phase::Draining,
            _ => Phase::Closing,
        }
    }
}

/// The service's phase and the pool at this moment.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PoolReport)]
pub(super) struct Report {
    /// How far the service is on its way out.
    phase: Phase,
    #[serde(flatten)]
    pool: Snapshot,
}

/// How the service is.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `live` or `ready`.
    #[schema(example = "ready")]
    status: &'static str,
    /// What keeps the database from taking writes, while it answers reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "the database's disk is full")]
    impairment: Option<&'static str>,
}

/// Is the process alive?
///
/// Asks nobody: a database that is away is no reason to restart this process.
#[utoipa::path(
    tag = "operations",
    operation_id = "live",
    responses((status = 200, description = "It is", body = Health), HostProblems),
)]
#[get("/health/live")]
pub(super) async fn live() -> HttpResponse {
    is_live().await
}

/// The same for other paths.
pub(super) async fn is_live() -> HttpResponse {
    HttpResponse::Ok().json(Health { status: "live", impairment: None })
}

/// Can requests be served?
///
/// Asks the pool, which keeps an eye on the database; never queues behind requests. False from the first moment of a
/// shutdown on. While the database is down, the detail tells why.
#[utoipa::path(
    tag = "operations",
    operation_id = "ready",
    responses((status = 200, description = "They can", body = Health), ServerProblems),
)]
#[get("/health/ready")]
pub(super) async fn ready(pool: web::Data<Pool>, draining: web::Data<Draining>) -> Result<HttpResponse, Problem> {
    is_ready(pool, draining).await
}

/// The same for other paths.
pub(super) async fn is_ready(pool: web::Data<Pool>, draining: web::Data<Draining>) -> Result<HttpResponse, Problem> {
    if draining.phase() >= Phase::NotReady {
        return Err(Problem::new(Kind::ShuttingDown, "This instance takes no new work."));
    }
    pool.ping().await.map_err(not_ready)?;
    Ok(HttpResponse::Ok().json(Health { status: "ready", impairment: pool.impairment().map(DbErrorKind::describe) }))
}

/// The cause is told here and not to users: whoever asks for readiness has to mend it.
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

/// The connection pool
///
/// Its state and the cause of an outage, its limits, who waits and who holds a connection, what happened since the
/// start, how long waits and holds took lately, and what size would suit.
#[utoipa::path(
    tag = "operations",
    operation_id = "pool",
    responses((status = 200, description = "The pool at this moment", body = Report), HostProblems),
)]
#[get("/pool")]
pub(super) async fn snapshot(pool: web::Data<Pool>, draining: web::Data<Draining>) -> HttpResponse {
    HttpResponse::Ok().json(Report { phase: draining.phase(), pool: pool.snapshot() })
}

/// Metrics for Prometheus
///
/// In Prometheus' text format, or in OpenMetrics if `Accept` prefers it.
#[utoipa::path(
    tag = "operations",
    operation_id = "metrics",
    responses((status = 200, description = "All metrics", content(
        (String = "text/plain"),
        (String = "application/openmetrics-text"),
    )), HostProblems),
)]
#[get("/metrics")]
pub(super) async fn scrape(
    request: HttpRequest,
    pool: web::Data<Pool>,
    recorder: web::Data<PrometheusHandle>,
) -> HttpResponse {
    pool.update_gauges();
    telemetry::update_process_metrics();
    if let Some(connection) = request.conn_data::<OpenConnection>() {
        connection.publish();
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
