//! Copies the feed to Kafka while the service runs.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    error_chain::chain,
    feed::{ExportError, Exporter},
};

/// Pause after an error; it doubles up to the maximum.
const RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// Exports until the service shuts down.
pub(super) async fn run(mut exporter: Exporter) {
    let mut pause = RETRY;
    let mut is_reported = false;
    loop {
        let begun = Instant::now();
        let Err(error) = exporter.run().await else { return };
        if begun.elapsed() > 2 * MAX_RETRY {
            // It has exported since the last error.
            (pause, is_reported) = (RETRY, false);
        }
        match error {
            ExportError::Displaced => tracing::info!("export continues in another process"),
            // An outage is reported once.
            _ if is_reported => tracing::debug!(error = chain(&error), "cannot export the feed"),
            _ => {
                tracing::warn!(error = chain(&error), "cannot export the feed; retrying");
                is_reported = true;
            }
        }
        sleep(pause).await;
        pause = (2 * pause).min(MAX_RETRY);
    }
}
