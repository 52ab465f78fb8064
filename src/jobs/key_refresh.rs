//! Keeps the API keys in memory up to date, and stores when they were last used.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use orm_pool::Pool;
use tokio::time::{Instant, timeout};

use crate::{
    auth::{Authenticator, StoredKey},
    domain::{ApiKey, KeyDigest, KeyId},
    error_chain::chain,
    service::{Error, KeyRecord, KeyService, clock},
};

/// How often uses are stored. A key in constant use causes one update per process and minute.
const STORE_INTERVAL: Duration = Duration::from_mins(1);

/// When the keys were last read, as a Unix time.
const LAST_READ: &str = "auth_keys_last_read_timestamp_seconds";

/// Reads all keys once.
///
/// # Errors
///
/// They could not be read.
pub(crate) async fn refresh(
    service: &KeyService,
    authenticator: &Authenticator,
) -> Result<Vec<(KeyId, DateTime<Utc>)>, Error> {
    let keys = service.verifiers().await.inspect_err(|_| authenticator.keys_unavailable())?;
    metrics::describe_gauge!(LAST_READ, "When the API keys were last read (Unix time)");
    metrics::gauge!(LAST_READ).set(clock::unix_seconds());
    let stored = |(record, digest): (KeyRecord, KeyDigest)| StoredKey {
        key: ApiKey { id: record.id, digest },
        scopes: record.scopes,
        expires_at: record.expires_at,
    };
    // A revoked key has ended, whatever the clock of this machine says.
    let working = keys.into_iter().filter(|(record, _)| record.revoked_at.is_none());
    Ok(authenticator.replace_keys(working.map(stored).collect()))
}

pub(super) async fn run(pool: Pool, authenticator: Arc<Authenticator>, interval: Duration) {
    let service = KeyService::new(pool);
    let mut unstored = HashMap::new();
    let mut next_store = Instant::now();
    loop {
        tokio::time::sleep(interval).await;
        match refresh(&service, &authenticator).await {
            Ok(used) => unstored.extend(used),
            // The pool reports outages.
            Err(error) => tracing::debug!(error = chain(&error), "cannot read API keys"),
        }
        if unstored.is_empty() || Instant::now() < next_store {
            continue;
        }
        next_store = Instant::now() + STORE_INTERVAL;
        // Limited, so that a busy pool does not delay the next refresh.
        let uses = unstored.iter().map(|(id, at)| (*id, *at)).collect();
        match timeout(interval, service.store_uses(uses)).await {
            Ok(Ok(())) => unstored.clear(),
            Ok(Err(error)) => tracing::debug!(error = chain(&error), "cannot store the last use of API keys"),
            Err(_) => tracing::debug!("storing the last use of API keys took too long"),
        }
    }
}
