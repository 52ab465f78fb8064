//! Requests to the pool's background tasks, and their progress.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU32},
};

use tokio::{
    sync::{Notify, oneshot, watch},
    time::Instant,
};

use crate::connect::{
    connector::{ConnectFailure, Connector},
    driver::DriverConnection,
};

/// Requests to the connector task, and its progress.
pub(super) struct ConnectDemand {
    pub(super) wake: Notify,
    /// Whether to open a connection regardless of the counts, as a probe.
    pub(super) probe: AtomicBool,
    /// Requests for detached connections; `None` once the connector task has ended.
    pub(super) detached: Mutex<Option<Vec<DetachedRequest>>>,
    /// Whether to end the pause that follows failures.
    pub(super) resume: AtomicBool,
    pub(super) progress: watch::Sender<ConnectProgress>,
    /// The current maximum number of concurrent attempts.
    pub(super) ramp: AtomicU32,
    pub(super) has_started: AtomicBool,
}

impl Default for ConnectDemand {
    fn default() -> Self {
        Self {
            wake: Notify::new(),
            probe: AtomicBool::new(false),
            detached: Mutex::new(Some(Vec::new())),
            resume: AtomicBool::new(false),
            progress: watch::Sender::default(),
            ramp: AtomicU32::new(0),
            has_started: AtomicBool::new(false),
        }
    }
}

/// A request for a detached connection, which does not belong to the pool.
pub(super) struct DetachedRequest {
    /// The connector to use instead of the pool's.
    pub(super) connector: Option<Connector>,
    pub(super) reply: oneshot::Sender<Result<DriverConnection, ConnectFailure>>,
}

/// Progress of connection attempts.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectProgress {
    /// The number of attempts that have begun, and that have ended.
    pub(super) begun: u64,
    pub(crate) ended: u64,
    /// When the latest attempt began.
    pub(crate) began: Option<Instant>,
    /// Why the last attempt failed; `None` if it succeeded.
    pub(crate) failure: Option<ConnectFailure>,
}

impl ConnectProgress {
    pub(crate) fn is_in_flight(&self) -> bool {
        self.begun > self.ended
    }
}

/// Probes of the database: one at a time.
#[derive(Default)]
pub(crate) struct Probes {
    /// Whether a caller has requested a probe.
    pub(super) requested: AtomicBool,
    pub(super) is_running: AtomicBool,
    /// The number of probes that have ended.
    pub(super) ended: watch::Sender<u64>,
}
