//! Limits the log of refusals. An overloaded process, or one without a database, refuses many thousand requests per second,
//! and would spend more time on their lines than on requests that it can serve. Metrics count all of them.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

/// How many refusals each worker logs per period.
const LINES: u32 = 10;
const PERIOD: Duration = Duration::from_secs(1);

/// The refusals of one period.
struct RefusalLog {
    began: Instant,
    logged: u32,
    /// Refusals that were not logged since the last line.
    suppressed: u64,
}

thread_local! {
    static LOG: RefCell<Option<RefusalLog>> = const { RefCell::new(None) };
}

/// Returns whether to log a refusal: the number of those before it that were not logged, or `None`.
pub(super) fn admit(now: Instant) -> Option<u64> {
    LOG.with_borrow_mut(|log| {
        let log = log.get_or_insert(RefusalLog { began: now, logged: 0, suppressed: 0 });
        if now.saturating_duration_since(log.began) >= PERIOD {
            (log.began, log.logged) = (now, 0);
        }
        if log.logged == LINES {
            log.suppressed += 1;
            return None;
        }
        log.logged += 1;
        Some(std::mem::take(&mut log.suppressed))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_logs_ten_refusals_per_second_and_then_how_many_it_did_not() {
        let began = Instant::now();
        let outcomes: Vec<_> = (0..25).map(|_| admit(began)).collect();
        assert!(outcomes[..10].iter().all(|outcome| *outcome == Some(0)) && outcomes[10..].iter().all(Option::is_none));
        assert_eq!(admit(began + PERIOD), Some(15));
        assert_eq!(admit(began + PERIOD), Some(0));
    }
}
