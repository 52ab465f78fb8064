//! The phases of the process, from serving to closing the pool.

use std::sync::atomic::{AtomicU8, Ordering};

use serde::Serialize;
use utoipa::ToSchema;

/// The phase of the process. Phases follow one another in this order; none is repeated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Phase {
    /// Requests are served; no shutdown was requested.
    #[default]
    Serving,
    /// Readiness is false. Requests are still accepted, until load balancers have stopped sending them.
    NotReady,
    /// The listener is closed, and each response carries `Connection: close`. Not earlier: a client that reconnects
    /// must not reach a listener that is about to close.
    ClosingConnections,
    /// Operations that wait for a connection of the pool are refused; running ones are completed.
    Draining,
    /// All requests are completed; the pool is closing.
    Closing,
}

/// The current phase, shared with the request handlers.
#[derive(Debug, Default)]
pub struct CurrentPhase(AtomicU8);

impl CurrentPhase {
    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Release);
    }

    /// Returns the current phase.
    #[must_use]
    pub fn get(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Serving,
            1 => Phase::NotReady,
            2 => Phase::ClosingConnections,
            3 => Phase::Draining,
            _ => Phase::Closing,
        }
    }
}
