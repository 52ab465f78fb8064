//! Background jobs of the running service.

mod auth_upkeep;
mod feed;
#[cfg(feature = "kafka")]
mod feed_export;
mod jwks_refresh;
mod key_refresh;
mod metrics_upkeep;
mod sweepers;

use std::{sync::Arc, time::Duration};

use orm_pool::Pool;
use tokio::{task::JoinSet, time::timeout};

pub(crate) use self::key_refresh::refresh as refresh_keys;
#[cfg(feature = "kafka")]
use crate::feed::{Exporter, KafkaUrl};
use crate::{
    auth::{Authenticator, JwksSource, TokenVerifier},
    feed::Feed,
    service::{ExportStore, FeedStore, PresenceStore},
};

/// How long the end of an export may delay a shutdown.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// The running jobs. Dropping it aborts them.
pub(crate) struct Jobs {
    tasks: JoinSet<()>,
    /// Of the export that runs here.
    lease: Option<ExportStore>,
}

/// The retention of rows.
#[derive(Clone, Copy)]
pub(crate) struct Retention {
    /// Stored responses to requests with an idempotency key.
    pub(crate) idempotency_keys: Duration,
    /// Entries of the journal.
    pub(crate) journal: Duration,
    /// Events of the feed, by their age and number.
    pub(crate) feed: (Duration, u64),
}

/// The parts that the jobs of authentication use.
pub(crate) struct AuthJobs {
    pub(crate) authenticator: Arc<Authenticator>,
    /// How often API keys are read.
    pub(crate) key_refresh: Duration,
    /// Verifies access tokens, with keys from this source.
    pub(crate) tokens: Option<(Arc<TokenVerifier>, JwksSource)>,
}

/// The jobs that keep a feed up to date. Dropping it aborts them.
pub(crate) struct FeedJobs {
    _tasks: JoinSet<()>,
}

impl FeedJobs {
    /// Starts them.
    pub(crate) fn start(live_feed: &Feed) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(feed::listen(live_feed.clone()));
        tasks.spawn(feed::run(live_feed.clone()));
        Self { _tasks: tasks }
    }
}

impl Jobs {
    /// Starts all jobs.
    pub(crate) fn start(pool: Pool, retention: Retention, auth: AuthJobs, live_feed: Option<Feed>) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(metrics_upkeep::run());
        if auth.authenticator.is_required() {
            let verifier = auth.tokens.as_ref().map(|(verifier, _)| Arc::clone(verifier));
            tasks.spawn(auth_upkeep::run(Arc::clone(&auth.authenticator), verifier));
            tasks.spawn(key_refresh::run(pool.clone(), auth.authenticator, auth.key_refresh));
            if let Some((verifier, source)) = auth.tokens {
                tasks.spawn(jwks_refresh::run(verifier, source));
            }
        }
        tasks.spawn(sweepers::idempotency_keys(pool.clone(), retention.idempotency_keys));
        tasks.spawn(sweepers::journal(pool.clone(), retention.journal));
        let store = FeedStore::new(pool.clone());
        match live_feed {
            Some(live_feed) => {
                tasks.spawn(live_feed.presence().clone().run(PresenceStore::new(pool.clone())));
                tasks.spawn(feed::listen(live_feed.clone()));
                tasks.spawn(feed::run(live_feed));
                tasks.spawn(sweepers::presence(pool.clone()));
                tasks.spawn(sweepers::feed(store, retention.feed));
                tasks.spawn(sweepers::messages(pool.clone()));
                tasks.spawn(sweepers::tickets(pool));
            }
            None => {
                tasks.spawn(feed::end_epoch(store));
            }
        }
        Self { tasks, lease: None }
    }

    /// Copies the feed to Kafka as well.
    #[cfg(feature = "kafka")]
    pub(crate) fn export(mut self, live_feed: Feed, pool: Pool, target: KafkaUrl) -> Self {
        let store = ExportStore::new(pool, Exporter::name(&target));
        self.lease = Some(store.clone());
        self.tasks.spawn(feed_export::run(Exporter::new(live_feed, store, target, None)));
        self
    }

    /// Aborts them, and gives back the lease that another process would wait for.
    pub(crate) async fn stop(mut self) {
        self.tasks.shutdown().await;
        if let Some(lease) = self.lease {
            let _ = timeout(RELEASE_TIMEOUT, lease.release()).await;
        }
    }
}
