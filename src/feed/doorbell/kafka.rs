//! Kafka: a topic with one partition, whose records are read from the end and not kept for long.

use std::{convert::Infallible, time::Duration};

use krafka::{
    Kafka, KrafkaError, Record,
    admin::{CreateTopicsOptions, NewTopic},
    consumer::{AutoOffsetReset, Consumer},
};
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{CHANNEL, DoorbellError, RESPONSE_TIMEOUT};
use crate::feed::{kafka::connect, kafka_url::KafkaUrl};

/// How often the cluster is asked for the end of the topic.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long the cluster waits for a record before it responds without one.
const FETCH_WAIT: Duration = Duration::from_millis(500);
const PARTITION: i32 = 0;
/// How long records are kept, in milliseconds.
const RETENTION_MS: &str = "3600000";

/// `process` distinguishes own records, which are ignored.
pub(super) async fn listen(
    url: &KafkaUrl,
    process: &str,
    rings: &Notify,
    on_ring: &impl Fn(),
) -> Result<Infallible, DoorbellError> {
    let topic = url.topic_or(CHANNEL);
    // On a shared connection, what is sent would wait for the response to what is read.
    let (reading, writing) = (connected(url).await?, connected(url).await?);
    create_topic(&writing, topic).await;
    let (reader, checker) = (consumer(&reading, topic).await?, consumer(&writing, topic).await?);
    let building = writing.producer().linger(Duration::ZERO).delivery_timeout(RESPONSE_TIMEOUT).build();
    let producer = in_time(building).await?;
    // From this position on, no record is missed.
    timeout(RESPONSE_TIMEOUT, reader.position(topic, PARTITION)).await.ok().flatten().ok_or(DoorbellError::Silent)?;
    on_ring();
    let mut unread = None;
    let mut checks = interval(CHECK_INTERVAL);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            records = reader.poll(CHECK_INTERVAL) => {
                let is_own = |value: Option<&[u8]>| value == Some(process.as_bytes());
                if records.map_err(failed)?.iter().any(|record| !is_own(record.value.as_deref())) {
                    on_ring();
                }
            }
            () = rings.notified() => {
                let record = Record::new(topic, process.to_owned()).partition(PARTITION);
                let _offset = in_time(producer.send(record)).await?;
            }
            _ = checks.tick() => {
                let (_, end) = in_time(checker.fetch_watermarks(topic, PARTITION)).await?;
                let position = reader.position(topic, PARTITION).await.unwrap_or_default();
                // A cluster that has lost its records, or does not return those that it has.
                if end < position || unread.is_some_and(|unread| position < unread) {
                    return Err(DoorbellError::Lost);
                }
                unread = Some(end);
            }
        }
    }
}

async fn connected(url: &KafkaUrl) -> Result<Kafka, DoorbellError> {
    in_time(connect(url, RESPONSE_TIMEOUT)).await
}

/// Returns a consumer that begins with the next record.
async fn consumer(kafka: &Kafka, topic: &str) -> Result<Consumer, DoorbellError> {
    let building = kafka.consumer_without_group().auto_offset_reset(AutoOffsetReset::Latest).fetch_max_wait(FETCH_WAIT);
    let consumer = in_time(building.build()).await?;
    in_time(consumer.assign(topic, vec![PARTITION])).await?;
    Ok(consumer)
}

/// Creates the topic. If that fails, it exists, or the reason will be that of the first request that needs it.
async fn create_topic(kafka: &Kafka, name: &str) {
    let Ok(topic) = NewTopic::new(name, 1, -1) else { return };
    let topic = topic.with_config("retention.ms", RETENTION_MS);
    let options = CreateTopicsOptions::default().timeout(RESPONSE_TIMEOUT);
    if let Err(error) = in_time(kafka.admin().create_topics([topic], options)).await {
        tracing::debug!(%error, "cannot create a topic of Kafka");
    }
}

async fn in_time<T>(request: impl Future<Output = Result<T, KrafkaError>>) -> Result<T, DoorbellError> {
    timeout(2 * RESPONSE_TIMEOUT, request).await.map_err(|_| DoorbellError::Silent)?.map_err(failed)
}

fn failed(error: KrafkaError) -> DoorbellError {
    DoorbellError::Broker(error.into())
}
