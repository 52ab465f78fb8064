//! Keeps the feed up to date: gives changes their positions, and reads new events.

use std::time::Duration;

use crate::{error_chain::chain, feed::Feed, service::FeedStore};

/// Pause after an error.
const RETRY: Duration = Duration::from_secs(1);

/// Runs the sequencer of this process. Its first round was part of the start.
pub(super) async fn run(feed: Feed) {
    loop {
        feed.wait().await;
        while let Err(error) = feed.advance().await {
            // The pool reports outages.
            tracing::debug!(error = chain(&error), "cannot read the feed");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Listens for other processes.
pub(super) async fn listen(feed: Feed) {
    let mut is_reported = false;
    loop {
        let (error, has_listened) = feed.listen().await;
        let error = chain(&error);
        // An outage is reported once.
        if has_listened || !is_reported {
            tracing::warn!(error, "cannot listen for events of other processes; they arrive with the next poll");
            is_reported = true;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Ends the epoch of a feed that is disabled now.
pub(super) async fn end_epoch(store: FeedStore) {
    while let Err(error) = store.end_epoch().await {
        tracing::debug!(error = chain(&error), "cannot mark the feed as disabled");
        tokio::time::sleep(RETRY).await;
    }
}
