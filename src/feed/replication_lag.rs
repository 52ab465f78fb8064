//! Distinguishes a server that lags behind another one of its cluster from a restored database: both have fewer events than
//! before.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How long a lagging server may take to catch up. After that, the database counts as restored.
const MAX_LAG: Duration = Duration::from_secs(10);

/// How long the database has lacked events that this process knows.
pub(super) struct ReplicationLag {
    max: Duration,
    since: Mutex<Option<Instant>>,
}

impl ReplicationLag {
    /// Creates the tracker. An embedded database has no replicas, so its maximum lag is zero.
    pub(super) fn new(is_embedded: bool) -> Self {
        Self { max: if is_embedded { Duration::ZERO } else { MAX_LAG }, since: Mutex::default() }
    }

    /// Returns how long a server may lag.
    pub(super) fn max(&self) -> Duration {
        self.max
    }

    /// Records that events are missing. Returns whether the server may still catch up.
    pub(super) fn may_catch_up(&self, now: Instant) -> bool {
        let mut since = self.since();
        if since.is_none() && !self.max.is_zero() {
            tracing::warn!(wait = ?self.max, "the database has fewer events than before; waiting for replication");
        }
        now.saturating_duration_since(*since.get_or_insert(now)) < self.max
    }

    /// Records that no events are missing.
    pub(super) fn caught_up(&self) {
        *self.since() = None;
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
