//! Limits the log of refusals. An overloaded process, or one without a database, refuses many thousand requests per second,
//! and would spend more time on their lines than on requests that it can serve. Metrics count all of them.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

/// How many refusals with the same code each worker logs per period.
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
    /// By the code of the problem: one that is frequent does not hide another. There are few.
    static LOGS: RefCell<Vec<(&'static str, RefusalLog)>> = const { RefCell::new(Vec::new()) };
}

/// Returns whether to log a refusal with this code: the number of those before it that were not logged, or `None`.
pub(super) fn admit(code: &'static str, now: Instant) -> Option<u64> {
    LOGS.with_borrow_mut(|logs| {
        let at = logs.iter().position(|(other, _)| *other == code).unwrap_or_else(|| {
            logs.push((code, RefusalLog { began: now, logged: 0, suppressed: 0 }));
            logs.len() - 1
        });
        let log = &mut logs[at].1;
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
        let outcomes: Vec<_> = (0..25).map(|_| admit("one", began)).collect();
        assert!(outcomes[..10].iter().all(|outcome| *outcome == Some(0)) && outcomes[10..].iter().all(Option::is_none));
        assert_eq!(admit("other", began), Some(0));
        assert_eq!(admit("one", began + PERIOD), Some(15));
        assert_eq!(admit("one", began + PERIOD), Some(0));
    }
}
