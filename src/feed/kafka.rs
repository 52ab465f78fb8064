//! Connections to Kafka.

use std::time::Duration;

use krafka::{
    Kafka, KrafkaError,
    auth::{AuthConfig, TlsConfig},
};

use super::kafka_url::{KafkaUrl, Mechanism};

/// Connects to the cluster of this URL. `timeout` limits each request.
pub(super) async fn connect(url: &KafkaUrl, timeout: Duration) -> Result<Kafka, KrafkaError> {
    let plain = match &url.user {
        None => AuthConfig::plaintext(),
        Some((user, password, Mechanism::Plain)) => AuthConfig::sasl_plain(user, password),
        Some((user, password, Mechanism::ScramSha256)) => AuthConfig::sasl_scram_sha256(user, password),
        Some((user, password, Mechanism::ScramSha512)) => AuthConfig::sasl_scram_sha512(user, password),
    };
    let security = if url.is_encrypted { plain.with_tls(TlsConfig::new().with_native_roots()) } else { plain };
    Kafka::builder(url.servers.join(","))
        .client_id("users-api")
        .security(security)
        .connect_timeout(timeout)
        .request_timeout(timeout)
        // The settings of the cluster decide whether it creates missing topics.
        .allow_auto_create_topics(true)
        .connect()
        .await
}
