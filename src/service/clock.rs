//! The time, in the precision that every engine keeps.

use chrono::{DateTime, SubsecRound, Utc};

/// Now, UTC, cut to the microsecond: what is answered after a write is what a later read gives.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place where the clock is read")]
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}
