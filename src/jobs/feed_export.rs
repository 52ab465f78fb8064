//! Copies the feed to Kafka while the service runs.

use std::time::Duration;

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
    loop {
        let begun = tokio::time::Instant::now();
        match exporter.run().await {
            Ok(()) => return,
            Err(error @ ExportError::Displaced) => tracing::info!("{error}"),
            Err(error) => tracing::warn!(error = chain(&error), retry = ?pause, "cannot export the feed"),
        }
        tokio::time::sleep(pause).await;
        pause = if begun.elapsed() > 2 * MAX_RETRY { RETRY } else { (2 * pause).min(MAX_RETRY) };
    }
}
