//! The state of the pool at one moment.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

pub use super::{advice::Advice, quantiles::Quantiles};
use crate::{connect::pooler::Pooler, error_kind::DbErrorKind};

/// The pool at one moment. Times are milliseconds unless a name says otherwise.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = Pool))]
#[non_exhaustive]
pub struct Snapshot {
    /// The pool's name in metrics.
    #[cfg_attr(feature = "utoipa", schema(example = "users-api"))]
    pub name: String,
    /// How the database is, as far as the pool can tell.
    pub state: PoolState,
    /// Why the database is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Why no further connection can be opened, while those that are open work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shortage: Option<Cause>,
    /// Why the database refuses statements while it answers others: no writes as a rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impairment: Option<Cause>,
    /// How a connection pooler in front of the database hands out its connections, if it was found to share them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooler: Option<Pooler>,
    /// The limits in force.
    pub limits: Limits,
    /// What is there and who waits.
    #[serde(flatten)]
    pub counts: Status,
    /// Bulk work, which has separate permits.
    #[cfg(feature = "bulk")]
    pub bulk: BulkUsage,
    /// Who has waited longest.
    pub longest_waiters: Vec<OperationInfo>,
    /// Who has held a connection longest.
    pub longest_holders: Vec<OperationInfo>,
    /// What has happened since the start.
    pub counters: Counters,
    /// Time until operations had their connections, over the last one to two minutes.
    pub wait: Quantiles,
    /// Time that operations held their connections, over the last one to two minutes.
    #[serde(rename = "use")]
    pub hold: Quantiles,
    /// What size would suit.
    pub advice: Advice,
}

/// Work in bulk at one moment. Counts, no units.
#[cfg(feature = "bulk")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolBulk))]
#[non_exhaustive]
pub struct BulkUsage {
    /// Operations in bulk that may hold a connection at once.
    #[cfg_attr(feature = "utoipa", schema(example = 1))]
    pub places: u32,
    /// Places that are taken. One may be kept empty for a time, so that others are served.
    #[cfg_attr(feature = "utoipa", schema(example = 0))]
    pub taken: u32,
    /// Operations that wait for a place, `queueLimit` at the most.
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
    /// Connections in use on which a silent peer owes an answer. They are given up after a while.
    #[cfg_attr(feature = "utoipa", schema(example = 0))]
    pub stranded: u32,
    /// Operations that wait for a connection.
    #[cfg_attr(feature = "utoipa", schema(example = 0))]
    pub waiting: u32,
}

/// How the database is, as far as the pool can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolState))]
#[non_exhaustive]
pub enum PoolState {
    /// It answers.
    Up,
    /// It answers again; connections are being restored.
    Recovering,
    /// It does not answer. Operations are refused at once.
    Down,
    /// The pool takes no new operations; those that run are finished.
    Draining,
    /// The pool is closed.
    Closed,
}

/// Something that is the matter with the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolCause))]
#[non_exhaustive]
pub struct Cause {
    /// The kind, as a word for programs.
    #[cfg_attr(feature = "utoipa", schema(value_type = String, example = "authentication"))]
    pub kind: DbErrorKind,
    /// What the driver or the server says.
    #[cfg_attr(feature = "utoipa", schema(value_type = String, example = "password authentication failed for user \"app\""))]
    pub detail: Arc<str>,
    /// For how long.
    #[cfg_attr(feature = "utoipa", schema(example = 1250))]
    pub for_ms: u64,
}

/// The limits in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolLimits))]
#[non_exhaustive]
pub struct Limits {
    /// Most connections.
    #[cfg_attr(feature = "utoipa", schema(example = 10))]
    pub max: u32,
    /// Connections kept open when nothing happens.
    #[cfg_attr(feature = "utoipa", schema(example = 2))]
    pub min: u32,
    /// Most operations that may wait; 0 = no limit.
    #[cfg_attr(feature = "utoipa", schema(example = 1000))]
    pub queue_limit: usize,
    /// Whether operations wait at all.
    #[cfg_attr(feature = "utoipa", schema(example = true))]
    pub wait: bool,
    /// Whether operations that ask alike share statements.
    #[cfg_attr(feature = "utoipa", schema(example = true))]
    #[cfg(feature = "batch")]
    pub batch: bool,
    /// Most operations that share one.
    #[cfg_attr(feature = "utoipa", schema(example = 128))]
    #[cfg(feature = "batch")]
    pub batch_max: usize,
    /// The share of work in bulk, in per cent: of `max`, and of the time while others are being served.
    #[cfg_attr(feature = "utoipa", schema(example = 10))]
    #[cfg(feature = "bulk")]
    pub bulk_share: u32,
    /// Longest wait for a connection.
    #[cfg_attr(feature = "utoipa", schema(example = 5000))]
    pub acquire_ms: u64,
    /// A connection above `min` that was unused for so long is closed; 0 = never.
    #[cfg_attr(feature = "utoipa", schema(example = 600_000))]
    pub idle_ms: u64,
    /// A connection is replaced after about so long; 0 = never.
    #[cfg_attr(feature = "utoipa", schema(example = 1_800_000))]
    pub lifetime_ms: u64,
    /// The server ends a statement that runs for longer, as found on the first connection; 0 = it does not. 0 on SQLite.
    #[cfg_attr(feature = "utoipa", schema(example = 30_000))]
    pub statement_timeout_ms: u64,
}

/// An operation that waits for a connection or holds one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolOperation))]
#[non_exhaustive]
pub struct OperationInfo {
    /// Its name.
    #[cfg_attr(feature = "utoipa", schema(example = "users.find"))]
    pub operation: &'static str,
    /// The request behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "utoipa", schema(value_type = Option<String>, example = "0197b5f0-3c4a-7def-8123-456789abcdef"))]
    pub request: Option<Arc<str>>,
    /// For how long.
    #[cfg_attr(feature = "utoipa", schema(example = 12))]
    pub for_ms: u64,
}

/// What has happened since the start. Counts, no units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolCounters))]
#[non_exhaustive]
pub struct Counters {
    /// Operations that ended.
    pub operations: u64,
    /// Those among them that gave an error.
    pub failed: u64,
    /// Statements, or transactions, that served several operations at once.
    pub batches: u64,
    /// Operations that were served so.
    pub batched: u64,
    /// Operations refused on arrival, as there was no connection for them in time.
    pub refused_busy: u64,
    /// Operations refused because the database is down.
    pub refused_down: u64,
    /// Operations refused because the pool was being closed.
    pub refused_closing: u64,
    /// Operations that waited for a connection in vain.
    pub timed_out: u64,
    /// Attempts that were repeated after a deadlock or a serialization failure.
    pub retried_conflicts: u64,
    /// Reads that were repeated because their connection died.
    pub retried_reads: u64,
    /// Transactions that were repeated because their connection died before the commit was sent.
    pub retried_transactions: u64,
    /// Connections opened.
    pub opened: u64,
    /// Attempts to open one that failed.
    pub dials_failed: u64,
    /// Connections closed after `idle`.
    pub closed_idle: u64,
    /// Connections closed after `lifetime`.
    pub closed_lifetime: u64,
    /// Connections closed because settings were changed.
    pub closed_replaced: u64,
    /// Connections that died, or could not be trusted any more.
    pub closed_broken: u64,
    /// Connections closed because an operation had changed their session, by a raw `BEGIN` or `SET` for example.
    pub closed_session_changed: u64,
    /// Connections that a silent peer has swallowed, and that were given up.
    pub stranded: u64,
    /// Holds that were warned of.
    pub slow_holds: u64,
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
