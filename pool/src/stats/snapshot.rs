//! The state of the pool at one moment.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

pub use super::{advice::Advice, quantiles::Quantiles};
use crate::{connect::pooler::Pooler, error_kind::DbErrorKind};

/// The pool at one moment. Times are in milliseconds unless a name says otherwise.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = Pool))]
#[non_exhaustive]
pub struct Snapshot {
    /// The pool's name in metrics.
    #[cfg_attr(feature = "utoipa", schema(example = "users-api"))]
    pub name: String,
    /// Health of the database, as far as the pool can tell.
    pub state: PoolState,
    /// Why the database is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Why no more connections can be opened while the open ones work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shortage: Option<Cause>,
    /// Why the database rejects some statements, usually writes, while it serves others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impairment: Option<Cause>,
    /// How a connection pooler in front of the database assigns server connections, if one that shares them was
    /// detected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooler: Option<Pooler>,
    /// The hosts of the database URL, if it has several, in its order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "utoipa", schema(required = false))]
    pub hosts: Vec<HostStatus>,
    /// The limits in force.
    pub limits: Limits,
    /// Connections and waiting operations.
    #[serde(flatten)]
    pub counts: Status,
    /// Bulk operations, which have separate permits.
    #[cfg(feature = "bulk")]
    pub bulk: BulkUsage,
    /// Operations that have waited longest for a connection.
    pub longest_waiters: Vec<OperationInfo>,
    /// Operations that have held a connection longest.
    pub longest_holders: Vec<OperationInfo>,
    /// Counters since the start.
    pub counters: Counters,
    /// Time that operations waited for a connection, over the last one to two minutes.
    pub wait: Quantiles,
    /// Time that operations held a connection, over the last one to two minutes.
    #[serde(rename = "use")]
    pub hold: Quantiles,
    /// Advice on the size of the pool.
    pub advice: Advice,
}

/// The state of one host of the database URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolHost))]
#[non_exhaustive]
pub struct HostStatus {
    /// Host and port, or the path of a socket.
    #[cfg_attr(feature = "utoipa", schema(example = "db-1.internal:5432"))]
    pub host: String,
    /// Its state after the latest connection attempt, ping or statement.
    pub state: HostState,
    /// Why it is not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Open connections to it. A count, no unit.
    #[cfg_attr(feature = "utoipa", schema(example = 4))]
    pub connections: u32,
}

/// The state of a host after the latest connection attempt, ping or statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolHostState))]
#[non_exhaustive]
pub enum HostState {
    /// None was made: hosts before it work.
    Untried,
    /// It accepts connections.
    Up,
    /// It accepts connections, but is a replica or read-only for another reason.
    ReadOnly,
    /// It does not respond or accepts no connections.
    Down,
}

/// Bulk operations at one moment. Counts, no units.
#[cfg(feature = "bulk")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolBulk))]
#[non_exhaustive]
pub struct BulkUsage {
    /// Bulk operations that may hold a connection at the same time.
    #[cfg_attr(feature = "utoipa", schema(example = 1))]
    pub places: u32,
    /// Permits in use. A permit may be returned after a pause, so that other operations are served.
    #[cfg_attr(feature = "utoipa", schema(example = 0))]
    pub taken: u32,
    /// Operations that wait for a permit, at most `queueLimit`.
    #[cfg_attr(feature = "utoipa", schema(example = 0))]
    pub waiting: u32,
}

/// Connections and operations at one moment. Counts, no units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolCounts))]
#[non_exhaustive]
pub struct Status {
    /// Open connections.
    #[cfg_attr(feature = "utoipa", schema(example = 4))]
    pub total: u32,
    /// Open connections that are not in use.
    #[cfg_attr(feature = "utoipa", schema(example = 3))]
    pub idle: u32,
    /// Operations that hold a connection.
    #[cfg_attr(feature = "utoipa", schema(example = 1))]
    pub in_use: u32,
    /// Connections that are being opened.
    #[cfg_attr(feature = "utoipa", schema(example = 0))]
    pub opening: u32,
    /// Connections in use without a response from the database. Their operations are aborted after a while.
    #[cfg_attr(feature = "utoipa", schema(example = 0))]
    pub stranded: u32,
    /// Operations that wait for a connection.
    #[cfg_attr(feature = "utoipa", schema(example = 0))]
    pub waiting: u32,
}

/// Health of the database, as far as the pool can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolState))]
#[non_exhaustive]
pub enum PoolState {
    /// The database responds.
    Up,
    /// The database responds again; connections are being restored.
    Recovering,
    /// The database does not respond or accepts no connections. Operations are refused immediately.
    Down,
    /// The pool accepts no new operations; running ones are completed.
    Draining,
    /// The pool is closed.
    Closed,
}

/// A problem of the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolCause))]
#[non_exhaustive]
pub struct Cause {
    /// The kind, machine-readable.
    #[cfg_attr(feature = "utoipa", schema(value_type = String, example = "authentication"))]
    pub kind: DbErrorKind,
    /// The message of the driver or the server.
    #[cfg_attr(feature = "utoipa", schema(value_type = String, example = "password authentication failed for user \"app\""))]
    pub detail: Arc<str>,
    /// How long it has lasted.
    #[cfg_attr(feature = "utoipa", schema(example = 1250))]
    pub for_ms: u64,
}

/// The limits in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolLimits))]
#[non_exhaustive]
pub struct Limits {
    /// Maximum number of connections.
    #[cfg_attr(feature = "utoipa", schema(example = 10))]
    pub max: u32,
    /// Minimum number of open connections.
    #[cfg_attr(feature = "utoipa", schema(example = 2))]
    pub min: u32,
    /// Maximum number of waiting operations; 0 = no limit.
    #[cfg_attr(feature = "utoipa", schema(example = 1000))]
    pub queue_limit: usize,
    /// Whether operations wait for a connection.
    #[cfg_attr(feature = "utoipa", schema(example = true))]
    pub wait: bool,
    /// Whether operations of the same kind share statements.
    #[cfg_attr(feature = "utoipa", schema(example = true))]
    #[cfg(feature = "batch")]
    pub batch: bool,
    /// Maximum number of operations in a batch.
    #[cfg_attr(feature = "utoipa", schema(example = 128))]
    #[cfg(feature = "batch")]
    pub batch_max: usize,
    /// Share of bulk operations in percent: of `max`, and of the time while other operations are served.
    #[cfg_attr(feature = "utoipa", schema(example = 10))]
    #[cfg(feature = "bulk")]
    pub bulk_share: u32,
    /// Acquire timeout: the longest wait for a connection.
    #[cfg_attr(feature = "utoipa", schema(example = 5000))]
    pub acquire_ms: u64,
    /// Idle timeout of connections above `min`; 0 = never.
    #[cfg_attr(feature = "utoipa", schema(example = 600_000))]
    pub idle_ms: u64,
    /// Max lifetime of a connection; 0 = unlimited.
    #[cfg_attr(feature = "utoipa", schema(example = 1_800_000))]
    pub lifetime_ms: u64,
    /// Statement timeout in force, as found on the first connection; 0 = none. 0 on SQLite.
    #[cfg_attr(feature = "utoipa", schema(example = 30_000))]
    pub statement_timeout_ms: u64,
}

/// An operation that waits for a connection or holds one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolOperation))]
#[non_exhaustive]
pub struct OperationInfo {
    /// Name of the operation.
    #[cfg_attr(feature = "utoipa", schema(example = "users.find"))]
    pub operation: &'static str,
    /// The request that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "utoipa", schema(value_type = Option<String>, example = "0197b5f0-3c4a-7def-8123-456789abcdef"))]
    pub request: Option<Arc<str>>,
    /// How long it has lasted.
    #[cfg_attr(feature = "utoipa", schema(example = 12))]
    pub for_ms: u64,
}

/// Counters since the start. No units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolCounters))]
#[non_exhaustive]
pub struct Counters {
    /// Operations that ended.
    pub operations: u64,
    /// Operations that ended with an error.
    pub failed: u64,
    /// Batches: statements or transactions that served several operations.
    pub batches: u64,
    /// Operations served in a batch.
    pub batched: u64,
    /// Operations refused on arrival because no connection was available in time.
    pub refused_busy: u64,
    /// Operations refused because the database is down.
    pub refused_down: u64,
    /// Operations refused because the pool was being closed.
    pub refused_closing: u64,
    /// Operations that timed out waiting for a connection.
    pub timed_out: u64,
    /// Retries after a deadlock, a serialization failure or another conflict.
    pub retried_conflicts: u64,
    /// Reads retried because their connection was lost.
    pub retried_reads: u64,
    /// Transactions retried because their connection was lost before the commit was sent.
    pub retried_transactions: u64,
    /// Connections opened.
    pub opened: u64,
    /// Connection attempts that failed.
    pub dials_failed: u64,
    /// Connections closed by the idle timeout.
    pub closed_idle: u64,
    /// Connections closed by the max lifetime.
    pub closed_lifetime: u64,
    /// Connections closed because credentials, limits or the schema changed.
    pub closed_replaced: u64,
    /// Connections that were lost, or are no longer trusted.
    pub closed_broken: u64,
    /// Connections closed because an operation changed their session, for example with a raw `BEGIN` or `SET`.
    pub closed_session_changed: u64,
    /// Connections closed because their operation was aborted: the database did not respond.
    pub stranded: u64,
    /// Operations logged for exceeding `slow_hold`.
    pub slow_holds: u64,
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
