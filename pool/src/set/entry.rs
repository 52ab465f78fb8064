//! An open connection and its metadata.

use std::time::Duration;

use tokio::time::Instant;

/// An open connection.
#[derive(Debug)]
pub(crate) struct PoolEntry<T> {
    pub(crate) id: u64,
    pub(crate) connection: T,
    /// When its last operation ended, or when it was opened.
    pub(crate) last_used: Instant,
    /// When the server last responded on it.
    pub(crate) last_response: Instant,
    opened: Instant,
    /// Jitter: the fraction of the max lifetime that it gets, 0.9 to 1, so that connections that were opened together
    /// are not replaced together.
    lifetime_share: f64,
    /// The generation of the connector that opened it: a connection with older credentials is not reused.
    pub(crate) generation: u32,
}

impl<T> PoolEntry<T> {
    pub(super) fn new(id: u64, connection: T, generation: u32) -> Self {
        let now = Instant::now();
        let lifetime_share = 1.0 - 0.1 * fastrand::f64();
        Self { id, connection, last_used: now, last_response: now, opened: now, lifetime_share, generation }
    }

    /// Whether it has reached its max lifetime; zero is no limit.
    pub(crate) fn is_too_old(&self, lifetime: Duration) -> bool {
        !lifetime.is_zero() && self.opened.elapsed() >= lifetime.mul_f64(self.lifetime_share)
    }
}

/// The reason why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    Idle,
    Lifetime,
    /// Credentials, limits or the schema were changed.
    Replaced,
    /// The connection was lost, or is no longer trusted.
    Broken,
    /// Its operation was aborted because the server did not respond.
    Stranded,
    /// An operation changed its session, so that the next one would run with other settings or inside an open
    /// transaction.
    SessionChanged,
    /// The pool is being closed.
    PoolClosed,
}

impl CloseReason {
    /// All reasons except the end of the pool, which is not counted.
    pub(crate) const COUNTED: [Self; 6] =
        [Self::Idle, Self::Lifetime, Self::Replaced, Self::Broken, Self::Stranded, Self::SessionChanged];

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
