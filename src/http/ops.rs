//! What operators and orchestrators ask: is it alive, is it ready, how is it doing.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use actix_web::{HttpResponse, get, web};
use metrics_exporter_prometheus::PrometheusHandle;
use orm_pool::Pool;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    problem::{Kind, Problem},
    responses::ServerProblems,
};

/// How long the database may take to give a sign of life.
const PING_LIMIT: Duration = Duration::from_secs(2);

/// How far the service is on its way out.
#[derive(Debug, Default)]
pub struct Draining(AtomicU8);

const NOT_READY: u8 = 1;
const FAREWELL: u8 = 2;

impl Draining {
    /// From now on the service is not ready.
    pub fn begin(&self) {
        self.0.store(NOT_READY, Ordering::Release);
    }

    /// From now on each answer asks its client to close the connection. To be said once nobody listens any more: a
    /// client that comes back too early would find a door that is just being shut.
    pub fn say_farewell(&self) {
        self.0.store(FAREWELL, Ordering::Release);
    }

    fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire) < NOT_READY
    }

    pub(super) fn is_farewell(&self) -> bool {
        self.0.load(Ordering::Acquire) >= FAREWELL
    }
}

/// How the service is.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `live` or `ready`.
    #[schema(example = "ready")]
    status: &'static str,
}

/// The pool at this moment.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PoolSnapshot {
    /// Most connections that there may be.
    #[schema(example = 10)]
    max: u32,
    /// Open connections.
    #[schema(example = 4)]
    total: u32,
    /// Open connections that nobody uses.
    #[schema(example = 3)]
    idle: u32,
    /// Operations that hold a connection.
    #[schema(example = 1)]
    in_use: u32,
    /// Operations that wait for a connection.
    #[schema(example = 0)]
    waiting: usize,
}

/// Is the process alive?
///
/// Asks nobody: a database that is away is no reason to restart this process.
#[utoipa::path(
    tag = "operations",
    operation_id = "live",
    responses((status = 200, description = "It is", body = Health)),
)]
#[get("/health/live")]
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().json(Health { status: "live" })
}

/// Can requests be served?
///
/// Asks the database. False from the first moment of a shutdown on.
#[utoipa::path(
    tag = "operations",
    operation_id = "ready",
    responses((status = 200, description = "They can", body = Health), ServerProblems),
)]
#[get("/health/ready")]
pub(super) async fn ready(pool: web::Data<Pool>, draining: web::Data<Draining>) -> Result<HttpResponse, Problem> {
    if !draining.is_ready() {
        return Err(Problem::new(Kind::ShuttingDown, "This instance takes no new work."));
    }
    pool.ping(PING_LIMIT).await.map_err(crate::service::Error::from)?;
    Ok(HttpResponse::Ok().json(Health { status: "ready" }))
}

/// The connection pool
#[utoipa::path(
    tag = "operations",
    operation_id = "pool",
    responses((status = 200, description = "The pool at this moment", body = PoolSnapshot)),
)]
#[get("/pool")]
pub(super) async fn snapshot(pool: web::Data<Pool>) -> HttpResponse {
    let status = pool.status();
    HttpResponse::Ok().json(PoolSnapshot {
        max: status.max,
        total: status.size,
        idle: status.idle,
        in_use: status.in_use,
        waiting: status.waiting,
    })
}

/// Metrics for Prometheus
#[utoipa::path(
    tag = "operations",
    operation_id = "metrics",
    responses((status = 200, description = "All metrics", body = String, content_type = "text/plain")),
)]
#[get("/metrics")]
pub(super) async fn scrape(pool: web::Data<Pool>, recorder: web::Data<PrometheusHandle>) -> HttpResponse {
    let status = pool.status();
    let gauge = |name: &'static str, value: f64| metrics::gauge!(name, "pool_name" => "users").set(value);
    let count = |state: &'static str, value: u32| {
        metrics::gauge!("db_client_connection_count", "pool_name" => "users", "state" => state).set(value);
    };
    count("idle", status.idle);
    count("used", status.size - status.idle);
    gauge("db_client_connection_max", status.max.into());
    #[expect(clippy::cast_precision_loss, reason = "a queue of 2^52 does not fit into memory")]
    gauge("db_client_connection_pending_requests", status.waiting as f64);
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(recorder.render())
}
