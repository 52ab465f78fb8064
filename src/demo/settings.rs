//! The controls of the lab, and the values that each allows.

use std::{ops::RangeInclusive, time::Duration};

use orm_pool::PoolOptions;
use serde::{Deserialize, Serialize};

/// The controls of the lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LabSettings {
    max: u32,
    min: u32,
    queue_limit: u32,
    acquire_ms: u32,
    batch: bool,
    /// Simulated clients.
    pub(super) clients: u32,
    /// Their share of changes in percent; the other operations are reads.
    pub(super) write_percent: u32,
    /// Simulated time of a round trip to the database.
    pub(super) latency_ms: u32,
    /// Whether each connection is closed after its first operation.
    connection_per_request: bool,
}

/// The controls to change.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabChange {
    max: Option<u32>,
    min: Option<u32>,
    queue_limit: Option<u32>,
    acquire_ms: Option<u32>,
    batch: Option<bool>,
    clients: Option<u32>,
    write_percent: Option<u32>,
    latency_ms: Option<u32>,
    connection_per_request: Option<bool>,
}

/// A value that a control does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAllowed {
    /// The control.
    pub field: &'static str,
    /// The values that it allows, in words.
    pub allowed: String,
}

/// The smallest and the greatest value of each control.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ranges {
    max: [u32; 2],
    min: [u32; 2],
    queue_limit: [u32; 2],
    acquire_ms: [u32; 2],
    clients: [u32; 2],
    write_percent: [u32; 2],
    latency_ms: [u32; 2],
}

pub(super) const RANGES: Ranges = Ranges {
    max: [1, 200],
    min: [0, 200],
    queue_limit: [0, 10_000],
    acquire_ms: [10, 10_000],
    clients: [0, MAX_CLIENTS],
    write_percent: [0, 100],
    latency_ms: [0, 100],
};

pub(super) const MAX_CLIENTS: u32 = 200;

impl Default for LabSettings {
    fn default() -> Self {
        let pool = PoolOptions::default();
        Self {
            max: pool.max,
            min: pool.min,
            queue_limit: u32::try_from(pool.queue_limit).unwrap_or(u32::MAX),
            acquire_ms: u32::try_from(pool.acquire.as_millis()).unwrap_or(u32::MAX),
            batch: pool.batch,
            clients: 16,
            write_percent: 2,
            latency_ms: 1,
            connection_per_request: false,
        }
    }
}

impl LabSettings {
    /// Returns the settings with the changes.
    ///
    /// # Errors
    ///
    /// The values that are not allowed.
    pub(super) fn changed(&self, change: &LabChange) -> Result<Self, Vec<NotAllowed>> {
        let next = Self {
            max: change.max.unwrap_or(self.max),
            min: change.min.unwrap_or(self.min),
            queue_limit: change.queue_limit.unwrap_or(self.queue_limit),
            acquire_ms: change.acquire_ms.unwrap_or(self.acquire_ms),
            batch: change.batch.unwrap_or(self.batch),
            clients: change.clients.unwrap_or(self.clients),
            write_percent: change.write_percent.unwrap_or(self.write_percent),
            latency_ms: change.latency_ms.unwrap_or(self.latency_ms),
            connection_per_request: change.connection_per_request.unwrap_or(self.connection_per_request),
        };
        let mut refused: Vec<NotAllowed> = [
            ("max", next.max, RANGES.max),
            ("min", next.min, RANGES.min),
            ("queueLimit", next.queue_limit, RANGES.queue_limit),
            ("acquireMs", next.acquire_ms, RANGES.acquire_ms),
            ("clients", next.clients, RANGES.clients),
            ("writePercent", next.write_percent, RANGES.write_percent),
            ("latencyMs", next.latency_ms, RANGES.latency_ms),
        ]
        .into_iter()
        .filter_map(|(field, value, [least, most])| not_allowed(field, value, least..=most))
        .collect();
        if refused.is_empty() {
            let allowed = || format!("must be a whole number from 0 to max ({})", next.max);
            refused.extend((next.min > next.max).then(|| NotAllowed { field: "min", allowed: allowed() }));
        }
        if refused.is_empty() { Ok(next) } else { Err(refused) }
    }

    /// Returns the options of the pool.
    pub(super) fn pool_options(&self, base: &PoolOptions) -> PoolOptions {
        let options = base
            .clone()
            .max(self.max)
            .queue_limit(usize::try_from(self.queue_limit).unwrap_or(usize::MAX))
            .acquire(Duration::from_millis(self.acquire_ms.into()));
        if self.connection_per_request {
            // Each connection is too old when its first operation ends.
            return options.min(0).batch(false).lifetime(Duration::from_nanos(1));
        }
        options.min(self.min).batch(self.batch)
    }
}

fn not_allowed(field: &'static str, value: u32, range: RangeInclusive<u32>) -> Option<NotAllowed> {
    let allowed = || format!("must be a whole number from {} to {}", range.start(), range.end());
    (!range.contains(&value)).then(|| NotAllowed { field, allowed: allowed() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_has_limits() {
        let settings = LabSettings::default();
        let refused = |change: LabChange| {
            settings.changed(&change).unwrap_err().into_iter().map(|refused| refused.field).collect::<Vec<_>>()
        };
        assert_eq!(refused(LabChange { max: Some(0), clients: Some(201), ..LabChange::default() }), ["max", "clients"]);
        assert_eq!(refused(LabChange { min: Some(11), ..LabChange::default() }), ["min"], "more than max");
        let raised = settings.changed(&LabChange { max: Some(20), min: Some(11), ..LabChange::default() }).unwrap();
        assert_eq!((raised.max, raised.min, raised.clients), (20, 11, settings.clients));
    }

    #[test]
    fn without_a_pool_each_connection_serves_one_operation() {
        let change = LabChange { connection_per_request: Some(true), ..LabChange::default() };
        let settings = LabSettings::default().changed(&change).unwrap();
        let options = settings.pool_options(&PoolOptions::default());
        assert_eq!((options.min, options.batch, options.lifetime), (0, false, Duration::from_nanos(1)));
        assert_eq!(options.validate(), Ok(()));
    }
}
