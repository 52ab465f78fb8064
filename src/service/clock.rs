//! The clock, in the precision that every engine stores.

use chrono::{DateTime, SubsecRound, Utc};

/// Returns the current time in UTC, truncated to microseconds, so that a later read returns the same value.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the only place where the clock is read")]
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

/// Returns the current time as a Unix time in whole seconds, for gauges.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "exact for millions of years")]
pub fn unix_seconds() -> f64 {
    now().timestamp() as f64
}
