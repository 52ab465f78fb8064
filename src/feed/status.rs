//! The state of the feed, for operators.

use std::sync::atomic::Ordering;

use super::{BrokerKind, Feed, Head, Position};

/// The state of the feed, for operators.
#[derive(Clone, Debug)]
pub struct Status {
    /// The feed state of this process; `None` until the database has been read.
    pub head: Option<Head>,
    /// The number of subscriptions of this process.
    pub subscribers: usize,
    /// The number of events in memory.
    pub ring_events: usize,
    /// Their size.
    pub ring_bytes: usize,
    /// The broker that carries the notifications of other processes.
    pub broker: BrokerKind,
    /// Whether this process receives their notifications now.
    pub is_listening: bool,
    /// How many it has received, including one for each connection to the broker.
    pub rings: u64,
    /// The export of this process; `None` without one.
    pub export: Option<ExportStatus>,
}

/// The state of an export.
#[derive(Clone, Debug)]
pub struct ExportStatus {
    /// The target to which events are copied, without credentials.
    pub target: String,
    /// Whether this process copies. If not, another one does, or the target cannot be reached.
    pub is_active: bool,
    /// The position of the last event that was copied; `None` until this process has copied one.
    pub position: Option<Position>,
    /// The number of events that are not copied yet.
    pub lag: u64,
}

impl Feed {
    /// Returns the state of the feed.
    #[must_use]
    pub fn status(&self) -> Status {
        let (ring_events, ring_bytes) = self.0.ring().size();
        Status {
            head: self.head(),
            subscribers: self.subscribers(),
            ring_events,
            ring_bytes,
            broker: self.0.doorbell.broker().kind(),
            is_listening: self.0.is_listening.load(Ordering::Relaxed),
            rings: self.0.rings.load(Ordering::Relaxed),
            export: self.0.export().clone(),
        }
    }

    /// Sets the state of the export of this process.
    #[cfg(feature = "kafka")]
    pub(super) fn set_export(&self, status: ExportStatus) {
        *self.0.export() = Some(status);
    }
}
