//! Gauges: the state of the pool at the moment at which metrics are read.

use std::sync::{Mutex, PoisonError};

use super::snapshot::{PoolState, Status};
use crate::{error_kind::DbErrorKind, options::PoolOptions};

const CONNECTIONS: &str = "db_client_connections";
const MAX: &str = "db_client_connection_max";
const IDLE_MIN: &str = "db_client_connection_idle_min";
const IDLE_MAX: &str = "db_client_connection_idle_max";
const PENDING: &str = "db_client_connection_pending_requests";
const STRANDED: &str = "db_client_connection_stranded";
const TASKS: &str = "db_client_runtime_tasks";
const STATE: &str = "db_client_pool_state";
const SHORTAGE: &str = "db_client_pool_shortage";
const IMPAIRMENT: &str = "db_client_pool_impairment";

const STATES: [(PoolState, &str); 5] = [
    (PoolState::Up, "up"),
    (PoolState::Recovering, "recovering"),
    (PoolState::Down, "down"),
    (PoolState::Draining, "draining"),
    (PoolState::Closed, "closed"),
];

/// The values of the gauges.
#[derive(Debug)]
pub(crate) struct Values<'a> {
    pub(crate) status: &'a Status,
    pub(crate) state: PoolState,
    pub(crate) shortage: Option<DbErrorKind>,
    pub(crate) impairment: Option<DbErrorKind>,
    pub(crate) options: &'a PoolOptions,
    /// Tasks on the pool's runtime.
    pub(crate) tasks: usize,
}

/// The gauges of a pool.
#[derive(Debug)]
pub(crate) struct Gauges {
    pool: String,
    /// The kinds of shortages and impairments that were shown, to reset them.
    shown: Mutex<Vec<(&'static str, DbErrorKind)>>,
}

impl Gauges {
    pub(crate) fn new(pool: &str) -> Self {
        metrics::describe_gauge!(CONNECTIONS, "Open connections by state");
        metrics::describe_gauge!(MAX, "Maximum number of connections");
        metrics::describe_gauge!(IDLE_MIN, "Minimum number of open connections");
        metrics::describe_gauge!(IDLE_MAX, "Maximum number of idle connections");
        metrics::describe_gauge!(PENDING, "Operations waiting for a connection");
        metrics::describe_gauge!(STRANDED, "Connections in use without a response from the database");
        metrics::describe_gauge!(TASKS, "Tasks on the pool's runtime");
        metrics::describe_gauge!(STATE, "1 for the current state of the pool, 0 for the others");
        metrics::describe_gauge!(SHORTAGE, "1 while no more connections can be opened although the open ones work");
        metrics::describe_gauge!(IMPAIRMENT, "1 while the database rejects some statements, usually writes");
        Self { pool: pool.to_owned(), shown: Mutex::default() }
    }

    pub(crate) fn update(&self, values: &Values<'_>) {
        let Values { status, options, .. } = values;
        let set = |name: &'static str, value: u32| metrics::gauge!(name, "pool_name" => self.pool.clone()).set(value);
        let labelled = |name: &'static str, label: &'static str, value: &str, number: u32| {
            metrics::gauge!(name, "pool_name" => self.pool.clone(), label => value.to_owned()).set(number);
        };
        labelled(CONNECTIONS, "state", "idle", status.idle);
        labelled(CONNECTIONS, "state", "used", status.in_use);
        set(MAX, options.max);
        set(IDLE_MIN, options.min);
        set(IDLE_MAX, options.max);
        set(PENDING, status.waiting);
        set(STRANDED, status.stranded);
        set(TASKS, u32::try_from(values.tasks).unwrap_or(u32::MAX));
        for (state, name) in STATES {
            labelled(STATE, "state", name, u32::from(state == values.state));
        }
        let shortage = values.shortage.map(|kind| (SHORTAGE, kind));
        let current: Vec<_> = shortage.into_iter().chain(values.impairment.map(|kind| (IMPAIRMENT, kind))).collect();
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let new = current.iter().filter(|kind| !shown.contains(kind)).copied().collect::<Vec<_>>();
        shown.extend(new);
        for problem in &*shown {
            labelled(problem.0, "kind", &name(problem.1), u32::from(current.contains(problem)));
        }
    }
}

/// Returns the name of a kind, as it is serialized.
fn name(kind: DbErrorKind) -> String {
    let name = serde_json::to_value(kind).ok();
    name.as_ref().and_then(|name| name.as_str()).unwrap_or_default().to_owned()
}
