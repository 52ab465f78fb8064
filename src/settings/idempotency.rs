//! The section `[idempotency]`.

use std::time::Duration;

use serde::Deserialize;

use super::Invalid;

/// `idempotency.*`: requests with an `Idempotency-Key`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdempotencySettings {
    /// How long a key is kept with its answer.
    #[serde(with = "humantime_serde")]
    pub keep: Duration,
}

impl IdempotencySettings {
    pub(super) fn validate(&self) -> Result<(), Invalid> {
        if !(Duration::from_secs(1)..=Duration::from_hours(24 * 365)).contains(&self.keep) {
            return Err(Invalid::new("idempotency.keep", "a duration from 1s to 365d"));
        }
        Ok(())
    }
}
