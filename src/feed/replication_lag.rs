//! Distinguishes a server that lags behind another one of its cluster from a restored database: both have fewer events than
//! before.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// A server that lacks events for longer does not get them.
const MAX_LAG: Duration = Duration::from_secs(10);

/// For how long the database has lacked events.
pub(super) struct ReplicationLag {
    max: Duration,
    since: Mutex<Option<Instant>>,
}

impl ReplicationLag {
    /// An embedded database is not replicated, so it cannot lag.
    pub(super) fn new(is_embedded: bool) -> Self {
        Self { max: if is_embedded { Duration::ZERO } else { MAX_LAG }, since: Mutex::default() }
    }

    /// Returns how long a server may lag.
    pub(super) fn max(&self) -> Duration {
        self.max
    }

    /// Records that events are missing. Returns whether the server may still get them.
    pub(super) fn may_end(&self, now: Instant) -> bool {
        let mut since = self.since();
        if since.is_none() && !self.max.is_zero() {
            tracing::warn!(wait = ?self.max, "the database has fewer events than before; its server may lag");
        }
        now.saturating_duration_since(*since.get_or_insert(now)) < self.max
    }

    /// Records that no events are missing.
    pub(super) fn end(&self) {
        *self.since() = None;
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
