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
    /// Whether a connection is to be opened regardless of the counts, as a probe.
    pub(super) probe: AtomicBool,
    /// `None` once the connector task has ended.
    pub(super) aside: Mutex<Option<Vec<Aside>>>,
    /// Whether to end the pause after failures.
    pub(super) resume: AtomicBool,
    pub(super) progress: watch::Sender<ConnectProgress>,
    /// How many connections may be opened at the same time.
    pub(super) ramp: AtomicU32,
    pub(super) has_started: AtomicBool,
}

impl Default for ConnectDemand {
    fn default() -> Self {
        Self {
            wake: Notify::new(),
            probe: AtomicBool::new(false),
            aside: Mutex::new(Some(Vec::new())),
            resume: AtomicBool::new(false),
            progress: watch::Sender::default(),
            ramp: AtomicU32::new(0),
            has_started: AtomicBool::new(false),
        }
    }
}

/// A request for a connection outside of the pool.
pub(super) struct Aside {
    /// A connector other than the pool's.
    pub(super) connector: Option<Connector>,
    pub(super) reply: oneshot::Sender<Result<DriverConnection, ConnectFailure>>,
}

/// Progress of attempts to connect.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectProgress {
    /// Attempts that have begun, and that have ended.
    pub(super) begun: u64,
    pub(crate) ended: u64,
    /// When the latest attempt began.
    pub(crate) began: Option<Instant>,
    /// Why the last one failed, unless it succeeded.
    pub(crate) failure: Option<ConnectFailure>,
}

impl ConnectProgress {
    pub(crate) fn is_under_way(&self) -> bool {
        self.begun > self.ended
    }
}

/// Probes of the database: one at a time.
#[derive(Default)]
pub(crate) struct Probes {
    /// Whether a caller waits for a probe.
    pub(super) wanted: AtomicBool,
    pub(super) is_running: AtomicBool,
    /// How many have ended.
    pub(super) ended: watch::Sender<u64>,
}
