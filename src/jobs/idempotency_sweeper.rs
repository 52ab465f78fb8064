//! Deletes expired idempotency keys in small batches.

use std::time::Duration;

use orm_pool::Pool;

use crate::service::IdempotencyStore;

/// Pause between two sweeps, unless the retention is shorter.
const INTERVAL: Duration = Duration::from_secs(30);
/// Pause between two batches of a sweep. It limits a sweep to a fraction of one connection, and to some thousand keys
/// per second.
const BATCH_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn run(pool: Pool, retention: Duration) {
    let store = IdempotencyStore::new(pool);
    loop {
        tokio::time::sleep(INTERVAL.min(retention)).await;
        while sweep_once(&store).await {
            tokio::time::sleep(BATCH_PAUSE).await;
        }
    }
}

/// Deletes one batch. Returns whether there may be more.
async fn sweep_once(store: &IdempotencyStore) -> bool {
    store.delete_expired().await.unwrap_or_else(|error| {
        // The pool reports outages; the next sweep deletes what remains.
        tracing::debug!(%error, "cannot delete expired idempotency keys");
        false
    })
}
