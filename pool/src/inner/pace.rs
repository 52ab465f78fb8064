//! When the next attempt to connect may begin, and how many may be in flight.

use std::time::Duration;

use tokio::time::Instant;

use crate::{connect::url::Engine, error_kind::DbErrorKind};

/// Attempts that may be in flight at the same time.
pub(super) const MAX_CONCURRENT_CONNECTS: u32 = 16;
/// The pause after a failed attempt. It doubles with each further failure, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause after attempts that timed out.
const LONGEST_PAUSE_AFTER_SILENCE: Duration = Duration::from_secs(2);
/// The same on MySQL and MariaDB, which block a host after 100 abandoned handshakes (`max_connect_errors`): with this pause
/// that takes more than an hour.
const LONGEST_PAUSE_OF_MYSQL: Duration = Duration::from_mins(1);
/// The pause while the server rejects the settings: servers lock accounts that fail too often.
const PAUSE_WHILE_REFUSED: Duration = Duration::from_secs(2);

/// Back-off and concurrency of attempts to connect.
pub(super) struct Pace {
    ramp: u32,
    /// Rounds of attempts that failed, and those of them that got no answer.
    failures: u32,
    silences: u32,
    failed_at: Option<Instant>,
    last: Option<DbErrorKind>,
    not_before: Option<Instant>,
}

impl Pace {
    /// The first connection is opened alone; those that warm the pool after it are opened at full speed.
    pub(super) const START: Self =
        Self { ramp: MAX_CONCURRENT_CONNECTS, failures: 0, silences: 0, failed_at: None, last: None, not_before: None };

    /// How many attempts may be in flight.
    pub(super) fn ramp(&self) -> u32 {
        self.ramp
    }

    fn is_pausing(&self) -> bool {
        self.not_before.is_some_and(|not_before| Instant::now() < not_before)
    }

    pub(super) fn after_success(&mut self) {
        *self = Self { ramp: (self.ramp * 2).min(MAX_CONCURRENT_CONNECTS), ..Self::START };
    }

    /// Ends the pause: the database has answered.
    pub(super) fn resume(&mut self) {
        *self = Self { ramp: self.ramp, ..Self::START };
    }

    pub(super) fn after_failure(&mut self, kind: DbErrorKind, engine: Engine, began: Instant) {
        self.ramp = 1;
        self.last = Some(kind);
        // Concurrent attempts that fail together count as one failure.
        if self.failed_at.is_none_or(|failed_at| began >= failed_at) {
            self.failures += 1;
            self.silences += u32::from(kind == DbErrorKind::Silent);
            self.failed_at = Some(Instant::now());
        }
        let (count, longest) = match (kind, engine) {
            (DbErrorKind::Silent, Engine::MySql) => (self.silences, LONGEST_PAUSE_OF_MYSQL),
            (DbErrorKind::Silent, _) => (self.silences, LONGEST_PAUSE_AFTER_SILENCE),
            _ => (self.failures, LONGEST_PAUSE),
        };
        let pause = if kind.is_final() {
            PAUSE_WHILE_REFUSED
        } else {
            FIRST_PAUSE.saturating_mul(1 << count.min(20)).min(longest)
        };
        // Jitter: instances that lost the database together should not reconnect together.
        self.not_before = Some(Instant::now() + pause.mul_f64(0.5 + 0.5 * fastrand::f64()));
    }

    /// Returns when the current pause ends, if there is one. A probe ignores the pause after a timeout, since it has to detect
    /// recovery.
    pub(super) fn pause(&self, is_probe: bool) -> Option<Instant> {
        let is_over = is_probe && self.last == Some(DbErrorKind::Silent);
        self.not_before.filter(|_| self.is_pausing() && !is_over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_that_fail_together_are_one_failure() {
        let mut pace = Pace::START;
        let began = Instant::now();
        for _ in 0..10 {
            pace.after_failure(DbErrorKind::Silent, Engine::MySql, began);
        }
        assert!(pace.not_before.unwrap() <= Instant::now() + Duration::from_millis(100));
        for _ in 0..10 {
            pace.after_failure(DbErrorKind::Refused, Engine::MySql, Instant::now());
        }
        pace.after_failure(DbErrorKind::Silent, Engine::MySql, Instant::now());
        assert!(pace.not_before.unwrap() <= Instant::now() + Duration::from_millis(200), "refusals are no silence");
        for _ in 0..20 {
            pace.after_failure(DbErrorKind::Silent, Engine::MySql, Instant::now());
        }
        assert!(pace.not_before.unwrap() >= Instant::now() + LONGEST_PAUSE_OF_MYSQL / 3);
        pace.resume();
        assert!(!pace.is_pausing());
    }
}
