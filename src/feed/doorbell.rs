//! The doorbell: how a process is notified that another one has new events, before it polls. A notification (a ring)
//! contains no event, so a lost one delays events and loses none.

#[cfg(feature = "kafka")]
mod kafka;
mod nats;
mod redis;

use std::{convert::Infallible, error::Error as StdError};

use tokio::{sync::Notify, time::Duration};

use super::{Broker, Epoch};
use crate::service::{self, FeedStore};

/// The subject of NATS, the channel of Redis, and the topic of Kafka.
const CHANNEL: &str = "users-api.feed";
/// How long a broker may take to respond.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// An error after which a process no longer receives notifications.
#[derive(Debug, thiserror::Error)]
pub enum DoorbellError {
    /// The connection to the database failed.
    #[error(transparent)]
    Database(#[from] service::Error),
    /// The broker refused a request, or cannot be reached.
    #[error("the broker cannot be used")]
    Broker(#[source] Box<dyn StdError + Send + Sync>),
    /// The broker is silent.
    #[error("the broker does not respond")]
    Silent,
    /// The broker has closed the connection.
    #[error("the connection to the broker was lost")]
    Lost,
}

/// The doorbell of this process.
pub(super) struct Doorbell {
    broker: Broker,
    /// Distinguishes this process from others.
    process: String,
    rings: Notify,
}

impl Doorbell {
    pub(super) fn new(broker: Broker) -> Self {
        Self { broker, process: Epoch::generate().to_string(), rings: Notify::new() }
    }

    pub(super) fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Returns the store, which itself rings if that must be a part of its transactions.
    pub(super) fn connect(&self, store: FeedStore) -> FeedStore {
        if self.broker == Broker::Postgres { store.with_notifications(&self.process) } else { store }
    }

    /// Reports new events to other processes. Reports in quick succession are combined.
    pub(super) fn ring(&self) {
        self.rings.notify_one();
    }

    /// Calls `on_ring` for each ring of another process, and once when it begins to listen. Ends when the connection
    /// fails; without a broker it waits forever.
    pub(super) async fn listen(&self, store: &FeedStore, on_ring: &impl Fn()) -> Result<Infallible, DoorbellError> {
        match &self.broker {
            Broker::None => std::future::pending().await,
            Broker::Postgres => Err(store.listen(on_ring).await.into()),
            Broker::Nats(url) => nats::listen(url, &self.rings, on_ring).await,
            Broker::Redis(url) => redis::listen(url, &self.process, &self.rings, on_ring).await,
            #[cfg(feature = "kafka")]
            Broker::Kafka(url) => kafka::listen(url, &self.process, &self.rings, on_ring).await,
        }
    }
}
