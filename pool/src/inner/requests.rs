//! What the pool's own tasks are asked for, and what they have to tell.

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

/// What the task that opens connections is asked for, and what it has to tell.
pub(super) struct ConnectDemand {
    pub(super) wake: Notify,
    /// Whether one is to be opened whatever the counts say, to see whether the database answers.
    pub(super) probe: AtomicBool,
    /// `None` once nothing opens connections any more.
    pub(super) aside: Mutex<Option<Vec<Aside>>>,
    /// Whether the database has answered, so that the pause after failures is over.
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

/// A connection beside those of the pool.
pub(super) struct Aside {
    /// What opens it, if not the pool's own.
    pub(super) connector: Option<Connector>,
    pub(super) reply: oneshot::Sender<Result<DriverConnection, ConnectFailure>>,
}

/// What has become of attempts to open a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectProgress {
    /// Attempts that have begun, and that have ended.
    pub(super) begun: u64,
    pub(crate) ended: u64,
    /// Since when the attempt that began last is under way.
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
