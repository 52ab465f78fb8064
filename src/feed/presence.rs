//! The users with WebSockets on this process.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

use super::Epoch;
use crate::{
    domain::UserId,
    service::{Error, PresenceStore},
};

/// How often the lease of this process is renewed: three times while it is valid.
const RENEWAL: Duration = Duration::from_secs(5);
/// Pause after an error.
const RETRY: Duration = Duration::from_secs(1);
/// Pause between two changes of the database.
const PAUSE: Duration = Duration::from_millis(200);

/// The users who have WebSockets on this process. A clone shares them.
#[derive(Clone)]
pub struct Presence(Arc<Shared>);

struct Shared {
    /// Distinguishes this process from others.
    process: String,
    /// The number of WebSockets of each user.
    counts: Mutex<HashMap<UserId, usize>>,
    changed: Notify,
}

/// A WebSocket of a user, until it is dropped.
pub struct PresenceGuard(Presence, UserId);

impl Default for Presence {
    fn default() -> Self {
        let process = Epoch::generate().to_string();
        Self(Arc::new(Shared { process, counts: Mutex::default(), changed: Notify::new() }))
    }
}

impl Presence {
    /// Counts a WebSocket of a user.
    #[must_use]
    pub fn enter(&self, user: UserId) -> PresenceGuard {
        *self.counts().entry(user).or_default() += 1;
        self.0.changed.notify_one();
        PresenceGuard(self.clone(), user)
    }

    /// Stores changes, and renews the lease of this process.
    pub async fn run(self, store: PresenceStore) {
        let mut stored = HashSet::new();
        loop {
            if let Err(error) = self.store(&store, &mut stored).await {
                // The pool reports outages.
                tracing::debug!(%error, "cannot store the presence of users");
                tokio::time::sleep(RETRY).await;
                continue;
            }
            tokio::time::sleep(PAUSE).await;
            let changed = self.0.changed.notified();
            if stored.is_empty() {
                // No lease is needed.
                changed.await;
            } else {
                // Either way there is something to do.
                let _ = timeout(RENEWAL, changed).await;
            }
        }
    }

    async fn store(&self, store: &PresenceStore, stored: &mut HashSet<UserId>) -> Result<(), Error> {
        let now: HashSet<UserId> = self.counts().keys().copied().collect();
        if now.is_empty() && stored.is_empty() {
            return Ok(());
        }
        if !store.renew(self.0.process.clone()).await? {
            stored.clear();
        }
        let present: Vec<UserId> = now.difference(stored).copied().collect();
        let absent: Vec<UserId> = stored.difference(&now).copied().collect();
        if !present.is_empty() || !absent.is_empty() {
            store.change(self.0.process.clone(), present, absent).await?;
        }
        *stored = now;
        Ok(())
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<UserId, usize>> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PresenceGuard {
    fn drop(&mut self) {
        let Self(presence, user) = self;
        let mut counts = presence.counts();
        if let Some(count) = counts.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                counts.remove(user);
                presence.0.changed.notify_one();
            }
        }
    }
}
