//! Copies the feed to a topic of Kafka.
//!
//! Each event is a record: its key is the id of the user, its value the event as a CloudEvent. The position is stored once
//! the cluster has acknowledged the record, so an event is copied at least once.

use std::time::Duration;

use futures_util::future::try_join_all;
use krafka::{
    CloseOptions, KrafkaError, Record,
    producer::{Acks, Producer},
};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{After, Delivery, Event, ExportStatus, Feed, Filter, KafkaUrl, Position, kafka::connect};
use crate::service::{self, ExportStore};

/// The topic, unless the URL names one.
const TOPIC: &str = "users";
/// The type of the records, as the Kafka protocol binding of CloudEvents has it.
const CONTENT_TYPE: &str = "application/cloudevents+json; charset=UTF-8";
/// How long a request to Kafka may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long records may wait for their acknowledgement, including retries.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the lease is renewed, or asked for.
const RENEWAL: Duration = Duration::from_secs(4);
/// How long the end of a producer may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of events that wait for their acknowledgement.
const MAX_EVENTS: usize = 256;

const EXPORTED: &str = "feed_exported_total";
const LAG: &str = "feed_export_lag";
const ACTIVE: &str = "feed_export_active";
const GAPS: &str = "feed_export_gaps_total";

/// An error that ends an export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The feed or the position could not be read or stored.
    #[error(transparent)]
    Database(#[from] service::Error),
    /// The cluster cannot be reached, or has refused a record.
    #[error("Kafka cannot be used")]
    Kafka(#[from] KrafkaError),
    /// Another process exports now: this one did not renew its lease in time.
    #[error("another process exports now")]
    Displaced,
}

/// Copies the feed to Kafka.
pub struct Exporter {
    feed: Feed,
    store: ExportStore,
    target: KafkaUrl,
    /// The beginning, instead of the stored position.
    after: Option<After>,
}

impl Exporter {
    /// Returns the name under which the position of an export is stored, unless another one is chosen: the topic.
    #[must_use]
    pub fn name(target: &KafkaUrl) -> String {
        target.topic_or(TOPIC).to_owned()
    }

    /// Creates the exporter. It begins after the stored position, or with `after`.
    #[must_use]
    pub fn new(feed: Feed, store: ExportStore, target: KafkaUrl, after: Option<After>) -> Self {
        metrics::describe_counter!(EXPORTED, "Events that Kafka has acknowledged");
        metrics::describe_gauge!(LAG, "Events that are not exported yet, in the process that exports");
        metrics::describe_gauge!(ACTIVE, "Whether this process exports (1) or another one may (0)");
        metrics::describe_counter!(
            GAPS,
            "How often events were no longer available when they should have been exported"
        );
        for counter in [EXPORTED, GAPS] {
            metrics::counter!(counter).absolute(0);
        }
        let exporter = Self { feed, store, target, after };
        exporter.report(false, None);
        exporter
    }

    /// Exports until that fails, or until the service shuts down. Waits while another process exports. It may be
    /// cancelled.
    ///
    /// # Errors
    ///
    /// [`ExportError`]. The next call continues after the stored position.
    pub async fn run(&mut self) -> Result<(), ExportError> {
        let stored = loop {
            match self.store.acquire().await? {
                Some(stored) => break stored,
                None => sleep(RENEWAL).await,
            }
        };
        let ended = self.export(&stored).await;
        self.report(false, None);
        if ended.is_err() {
            // Another process may be able to export. If this fails, the lease ends soon.
            let _ = self.store.release().await;
        }
        ended
    }

    async fn export(&mut self, stored: &str) -> Result<(), ExportError> {
        let stored = stored.parse().map_or(After::Earliest, After::Position);
        let after = self.after.clone().unwrap_or(stored);
        let kafka = connect(&self.target, REQUEST_TIMEOUT).await?;
        let producer = kafka.producer().acks(Acks::All).delivery_timeout(DELIVERY_TIMEOUT).build().await?;
        tracing::info!(topic = %self.target, %after, "exporting the feed");
        let ended = self.copy(&producer, after).await;
        let _ = producer.close_with(CloseOptions::new().timeout(CLOSE_TIMEOUT)).await;
        ended
    }

    async fn copy(&mut self, producer: &Producer, after: After) -> Result<(), ExportError> {
        let mut subscription = self.feed.subscribe(after, Filter::default());
        let mut renewals = interval(RENEWAL);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let delivery = tokio::select! {
                delivery = subscription.next(MAX_EVENTS) => delivery?,
                _ = renewals.tick() => {
                    self.advance(subscription.position()).await?;
                    continue;
                }
            };
            match delivery {
                Delivery::Events(events) => {
                    tokio::select! {
                        sent = self.send(producer, &events) => sent?,
                        error = self.keep_lease() => return Err(error),
                    }
                    metrics::counter!(EXPORTED).increment(events.len() as u64);
                    self.advance(subscription.position()).await?;
                }
                Delivery::Resync(reason) => {
                    metrics::counter!(GAPS).increment(1);
                    tracing::error!(reason = reason.describe(), "events may be missing");
                    // All that are available.
                    subscription = self.feed.subscribe(After::Earliest, Filter::default());
                }
                Delivery::Closing => return Ok(()),
            }
        }
    }

    /// Sends events, in their order, and waits for their acknowledgements.
    async fn send(&self, producer: &Producer, events: &[Event]) -> Result<(), ExportError> {
        let mut deliveries = Vec::with_capacity(events.len());
        for event in events {
            let record = Record::new(self.target.topic_or(TOPIC), event.json())
                .key(event.user().to_string())
                .header("content-type", CONTENT_TYPE);
            deliveries.push(producer.enqueue(record).await?);
        }
        try_join_all(deliveries).await?;
        Ok(())
    }

    /// Renews the lease until that fails; returns why.
    async fn keep_lease(&self) -> ExportError {
        loop {
            sleep(RENEWAL).await;
            match self.store.acquire().await {
                Ok(Some(_)) => {}
                Ok(None) => return ExportError::Displaced,
                Err(error) => return error.into(),
            }
        }
    }

    /// Renews the lease and stores the position.
    async fn advance(&mut self, position: Option<&Position>) -> Result<(), ExportError> {
        let Some(position) = position else {
            return self.store.acquire().await?.map(drop).ok_or(ExportError::Displaced);
        };
        if !self.store.advance(position.to_string()).await? {
            return Err(ExportError::Displaced);
        }
        // From now on, the stored position counts.
        self.after = None;
        let latest = self.feed.head().map_or(0, |head| head.latest.number);
        self.report(true, Some((position, latest.saturating_sub(position.number))));
        Ok(())
    }

    /// Reports the state of the export to operators.
    fn report(&self, is_active: bool, progress: Option<(&Position, u64)>) {
        let lag = progress.map_or(0, |(_, lag)| lag);
        metrics::gauge!(ACTIVE).set(u8::from(is_active));
        metrics::gauge!(LAG).set(u32::try_from(lag).unwrap_or(u32::MAX));
        self.feed.set_export(ExportStatus {
            target: self.target.to_string(),
            is_active,
            position: progress.map(|(position, _)| position.clone()),
            lag,
        });
    }
}
