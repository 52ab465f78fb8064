//! The pace of connection attempts: when the next one may start, and how many may be in flight.

use std::time::Duration;

use tokio::time::Instant;

use crate::{connect::url::Engine, error_kind::DbErrorKind};

/// Maximum number of concurrent attempts.
pub(super) const MAX_CONCURRENT_CONNECTS: u32 = 16;
/// The pause after the first failed attempt. It doubles with each further failure, up to the maximum. Up to half of each
/// pause is deducted at random.
const INITIAL_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_millis(500);
/// The maximum pause after attempts that timed out.
const MAX_PAUSE_AFTER_TIMEOUT: Duration = Duration::from_secs(2);
/// The same on MySQL and MariaDB, which block a host after 100 abandoned handshakes (`max_connect_errors`): with this
/// pause that takes more than an hour.
const MAX_PAUSE_AFTER_TIMEOUT_MYSQL: Duration = Duration::from_mins(1);
/// The pause after the server has rejected the credentials or the database: servers lock accounts that fail too often.
const PAUSE_AFTER_REJECTION: Duration = Duration::from_secs(2);

/// Back-off and concurrency of connection attempts.
pub(super) struct Pace {
    ramp: u32,
    /// Failed rounds of concurrent attempts, and those among them that timed out.
    failures: u32,
    timeouts: u32,
    failed_at: Option<Instant>,
    last: Option<DbErrorKind>,
    not_before: Option<Instant>,
}

impl Pace {
    /// The first connection is opened alone; those that warm the pool after it are opened at full speed.
    pub(super) const INITIAL: Self =
        Self { ramp: MAX_CONCURRENT_CONNECTS, failures: 0, timeouts: 0, failed_at: None, last: None, not_before: None };

    /// Returns how many attempts may be in flight.
    pub(super) fn ramp(&self) -> u32 {
        self.ramp
    }

    fn is_pausing(&self) -> bool {
        self.not_before.is_some_and(|not_before| Instant::now() < not_before)
    }

    pub(super) fn after_success(&mut self) {
        *self = Self { ramp: (self.ramp * 2).min(MAX_CONCURRENT_CONNECTS), ..Self::INITIAL };
    }

    /// Ends the pause, because the database has responded.
    pub(super) fn resume(&mut self) {
        *self = Self { ramp: self.ramp, ..Self::INITIAL };
    }

    pub(super) fn after_failure(&mut self, kind: DbErrorKind, engine: Engine, began: Instant) {
        self.ramp = 1;
        self.last = Some(kind);
        // Concurrent attempts that fail together count as one failure.
        if self.failed_at.is_none_or(|failed_at| began >= failed_at) {
            self.failures += 1;
            self.timeouts += u32::from(kind == DbErrorKind::Silent);
            self.failed_at = Some(Instant::now());
        }
        let (count, longest) = match (kind, engine) {
            (DbErrorKind::Silent, Engine::MySql) => (self.timeouts, MAX_PAUSE_AFTER_TIMEOUT_MYSQL),
            (DbErrorKind::Silent, _) => (self.timeouts, MAX_PAUSE_AFTER_TIMEOUT),
            _ => (self.failures, MAX_PAUSE),
        };
        let pause = if kind.is_final() {
            PAUSE_AFTER_REJECTION
        } else {
            INITIAL_PAUSE.saturating_mul(1 << count.saturating_sub(1).min(20)).min(longest)
        };
        // Jitter: instances that lost the database together should not reconnect together.
        self.not_before = Some(Instant::now() + pause.mul_f64(0.5 + 0.5 * fastrand::f64()));
    }

    /// Returns the end of the current pause, if any. A probe ignores the pause after a timeout, since it has to detect
    /// recovery.
    pub(super) fn pause(&self, is_probe: bool) -> Option<Instant> {
        let ignores_pause = is_probe && self.last == Some(DbErrorKind::Silent);
        self.not_before.filter(|_| self.is_pausing() && !ignores_pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concurrent_failures_count_as_one() {
        let mut pace = Pace::INITIAL;
        let began = Instant::now();
        for _ in 0..10 {
            pace.after_failure(DbErrorKind::Silent, Engine::MySql, began);
        }
        assert!(pace.not_before.unwrap() <= Instant::now() + Duration::from_millis(100));
        for _ in 0..10 {
            pace.after_failure(DbErrorKind::Refused, Engine::MySql, Instant::now());
        }
        pace.after_failure(DbErrorKind::Silent, Engine::MySql, Instant::now());
        let latest = Instant::now() + Duration::from_millis(200);
        assert!(pace.not_before.unwrap() <= latest, "refused attempts are not timeouts");
        for _ in 0..20 {
            pace.after_failure(DbErrorKind::Silent, Engine::MySql, Instant::now());
        }
        assert!(pace.not_before.unwrap() >= Instant::now() + MAX_PAUSE_AFTER_TIMEOUT_MYSQL / 3);
        pace.resume();
        assert!(!pace.is_pausing());
    }
}
