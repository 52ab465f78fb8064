//! Keeps the feed up to date: gives changes their positions, and reads new events.

use std::time::Duration;

use crate::{feed::Feed, service::FeedStore};

/// Pause after an error.
const RETRY: Duration = Duration::from_secs(1);

/// Runs the sequencer of this process.
pub(super) async fn run(feed: Feed) {
    loop {
        match feed.advance().await {
            Ok(()) => feed.wait().await,
            Err(error) => {
                // The pool reports outages.
                tracing::debug!(%error, "cannot read the feed");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Ends the epoch of a feed that is disabled now.
pub(super) async fn end_epoch(store: FeedStore) {
    while let Err(error) = store.end_epoch().await {
        tracing::debug!(%error, "cannot mark the feed as disabled");
        tokio::time::sleep(RETRY).await;
    }
}
