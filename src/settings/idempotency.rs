//! The section `[idempotency]`.

use std::time::Duration;

use super::declaration::{Allowed, section};

const DAY: Duration = Duration::from_hours(24);

section! {
    /// `idempotency.*`: requests with an `Idempotency-Key`.
    IdempotencySettings, SETTINGS: "idempotency" {
        /// How long an Idempotency-Key and its response are stored. Too low: a late retry is executed again. Too high:
        /// more storage, about a kilobyte per key, or a hundred bytes per row of POST /users/bulk.
        #[serde(with = "humantime_serde")]
        pub keep: Duration = "24h", Allowed::duration(Duration::from_secs(1), DAY.saturating_mul(365));
    }
}
