//! Deletes what has expired, in small batches.

use std::time::Duration;

use orm_pool::Pool;

use crate::{
    error_chain::chain,
    service::{Error, FeedStore, IdempotencyStore, Journal, MessageStore, PresenceStore, TicketStore},
};

/// Pause between two sweeps, unless the retention is shorter.
const INTERVAL: Duration = Duration::from_secs(30);
/// Pause between two batches of a sweep. It limits a sweep to a fraction of one connection, and to some thousand rows
/// per second.
const BATCH_PAUSE: Duration = Duration::from_millis(100);

/// Deletes expired idempotency keys.
pub(super) async fn idempotency_keys(pool: Pool, retention: Duration) {
    let store = IdempotencyStore::new(pool);
    sweep(INTERVAL.min(retention), "idempotency keys", || store.delete_expired()).await;
}

/// Deletes entries of the journal that are older than `retention`.
pub(super) async fn journal(pool: Pool, retention: Duration) {
    let journal = Journal::new(pool);
    loop {
        tokio::time::sleep(INTERVAL.min(retention)).await;
        let mut after = 0;
        while let Some(last) =
            logged(journal.delete_expired(after, retention).await, "entries of the journal").flatten()
        {
            after = last;
            tokio::time::sleep(BATCH_PAUSE).await;
        }
    }
}

/// Removes old events from the feed.
pub(super) async fn feed(store: FeedStore, (retention, max_events): (Duration, u64)) {
    sweep(INTERVAL.min(retention), "events of the feed", || store.expire(retention, max_events)).await;
}

/// Deletes messages to users that have expired.
pub(super) async fn messages(pool: Pool) {
    let store = MessageStore::new(pool);
    sweep(INTERVAL, "messages", || store.delete_expired()).await;
}

/// Deletes tickets that have expired.
pub(super) async fn tickets(pool: Pool) {
    let store = TicketStore::new(pool);
    sweep(INTERVAL, "tickets", || store.delete_expired()).await;
}

/// Forgets the users of processes that have ended without notice.
pub(super) async fn presence(pool: Pool) {
    let store = PresenceStore::new(pool);
    loop {
        tokio::time::sleep(INTERVAL).await;
        logged(store.forget_ended().await, "processes");
    }
}

/// Deletes in batches at intervals. `delete` deletes one batch and returns whether there may be more.
async fn sweep<F: Future<Output = Result<bool, Error>>>(interval: Duration, what: &str, mut delete: impl FnMut() -> F) {
    loop {
        tokio::time::sleep(interval).await;
        while logged(delete().await, what).unwrap_or_default() {
            tokio::time::sleep(BATCH_PAUSE).await;
        }
    }
}

/// Logs an error. The pool reports outages; the next sweep deletes what remains.
fn logged<T>(deleted: Result<T, Error>, what: &str) -> Option<T> {
    deleted.inspect_err(|error| tracing::debug!(error = chain(error), what, "cannot delete expired rows")).ok()
}
