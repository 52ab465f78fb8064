//! One open connection, with what the pool knows of it.

use std::time::Duration;

use tokio::time::Instant;

/// An open connection.
#[derive(Debug)]
pub(crate) struct PoolEntry<T> {
    pub(crate) id: u64,
    pub(crate) connection: T,
    /// When its last operation ended, or it was opened.
    pub(crate) last_used: Instant,
    /// When the server last answered on it.
    pub(crate) last_response: Instant,
    opened: Instant,
    /// Which part of the lifetime it gets, 0.9 to 1: drawn once, so that connections that were opened together are not
    /// replaced together.
    lifetime_share: f64,
    /// Which connector opened it: one with older credentials is not used again.
    pub(crate) generation: u32,
}

impl<T> PoolEntry<T> {
    pub(super) fn new(id: u64, connection: T, generation: u32) -> Self {
        let now = Instant::now();
        let lifetime_share = 1.0 - 0.1 * fastrand::f64();
        Self { id, connection, last_used: now, last_response: now, opened: now, lifetime_share, generation }
    }

    /// Whether it has reached its lifetime; zero is no limit.
    pub(crate) fn is_too_old(&self, lifetime: Duration) -> bool {
        !lifetime.is_zero() && self.opened.elapsed() >= lifetime.mul_f64(self.lifetime_share)
    }
}

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    Idle,
    Lifetime,
    /// Credentials, limits or the schema were changed.
    Replaced,
    /// It died, or cannot be trusted any more.
    Broken,
    /// Its operation was ended because the server had gone silent.
    Stranded,
    /// An operation has changed its session, so that the next one would meet other settings or an open transaction.
    SessionChanged,
    /// The pool is being closed.
    PoolClosed,
}

impl CloseReason {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Lifetime => "lifetime",
            Self::Replaced => "replaced",
            Self::Broken => "broken",
            Self::Stranded => "stranded",
            Self::SessionChanged => "session-changed",
            Self::PoolClosed => "ending",
        }
    }
}
