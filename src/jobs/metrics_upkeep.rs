//! Keeps the metrics recorder's memory bounded while no one scrapes it.

use std::time::Duration;

use crate::telemetry;

/// How often raw histogram values are moved into buckets.
const INTERVAL: Duration = Duration::from_secs(5);

pub(super) async fn run() {
    let metrics = telemetry::metrics();
    loop {
        tokio::time::sleep(INTERVAL).await;
        metrics.run_upkeep();
    }
}
