//! The state of the pool at one moment, with each of its connections.

use std::sync::Arc;

use serde::Serialize;

use super::{snapshot::Snapshot, time_histogram::TimeHistograms};

/// The pool with each of its connections, for a live picture of it. Times are in milliseconds. Its parts are read one after
/// another, so that no operation waits: they may differ by what happens in between.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = DetailedPool))]
#[non_exhaustive]
pub struct DetailedSnapshot {
    /// The pool.
    #[serde(flatten)]
    pub snapshot: Snapshot,
    /// Open connections that are being closed.
    #[cfg_attr(feature = "utoipa", schema(example = 0))]
    pub closing: u32,
    /// Open connections that are being pinged, or prepared for their first operation.
    #[cfg_attr(feature = "utoipa", schema(example = 0))]
    pub validating: u32,
    /// The idle connections and those in use, by ascending id; at most 200.
    pub connections: Vec<ConnectionInfo>,
    /// Wait and hold times since the start.
    pub histograms: TimeHistograms,
}

/// A connection that is idle or in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolConnection))]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// Identifies the connection in this pool. Ids ascend in the order in which connections were opened.
    #[cfg_attr(feature = "utoipa", schema(example = 7))]
    pub id: u64,
    /// Its state.
    pub state: ConnectionState,
    /// The operation that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "utoipa", schema(value_type = Option<String>, example = "users.find"))]
    pub operation: Option<&'static str>,
    /// The request that the operation belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "utoipa", schema(value_type = Option<String>))]
    pub request: Option<Arc<str>>,
    /// How long it has been in use, or idle.
    #[cfg_attr(feature = "utoipa", schema(example = 3))]
    pub for_ms: u64,
}

/// The state of an open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolConnectionState))]
#[non_exhaustive]
pub enum ConnectionState {
    /// It is not in use.
    Idle,
    /// An operation holds it.
    InUse,
    /// An operation holds it, and the database does not respond.
    Stranded,
}
