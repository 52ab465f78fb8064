//! The broker that notifies processes of new events.

use std::{fmt, str::FromStr};

use serde::Serialize;
use url::Url;
use utoipa::ToSchema;

use super::{KafkaUrl, NatsUrl};

/// The broker through which processes notify each other of new events. A lost notification delays an event until the
/// next poll.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Broker {
    /// Not at all: they poll.
    #[default]
    None,
    /// By notifications of PostgreSQL.
    Postgres,
    /// Through the servers of a NATS cluster.
    Nats(NatsUrl),
    /// Through a Redis server.
    Redis(RedisUrl),
    /// Through a topic of Kafka.
    #[cfg(feature = "kafka")]
    Kafka(KafkaUrl),
}

/// The kind of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = Broker)]
pub enum BrokerKind {
    /// Processes poll.
    None,
    /// PostgreSQL.
    Postgres,
    /// NATS.
    Nats,
    /// Redis.
    Redis,
    /// Kafka.
    Kafka,
}

/// The URL of a Redis server, with its credentials. It is displayed without them.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(Url);

impl Broker {
    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> BrokerKind {
        match self {
            Self::None => BrokerKind::None,
            Self::Postgres => BrokerKind::Postgres,
            Self::Nats(_) => BrokerKind::Nats,
            Self::Redis(_) => BrokerKind::Redis,
            #[cfg(feature = "kafka")]
            Self::Kafka(_) => BrokerKind::Kafka,
        }
    }
}

/// The text is not shown, because it may have a password.
impl FromStr for Broker {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => return Ok(Self::None),
            "postgres" => return Ok(Self::Postgres),
            // They may have several hosts, so they are not URLs in the strict sense.
            _ if text.starts_with("kafka") => return kafka(text),
            _ if is_nats(text) => return text.parse().map(Self::Nats),
            _ => {}
        }
        let url: Url = text.parse().map_err(|_| "must be none, postgres or a URL".to_owned())?;
        if url.host_str().is_none_or(str::is_empty) {
            return Err("the URL must have a host".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("the URL must not have parameters".to_owned());
        }
        match url.scheme() {
            "redis" | "rediss" if is_database(url.path()) => Ok(Self::Redis(RedisUrl(url))),
            "redis" | "rediss" => Err("the path of a URL of Redis must be the number of a database".to_owned()),
            _ => Err("the scheme must be nats, tls, redis, rediss, kafka or kafka+ssl".to_owned()),
        }
    }
}

#[cfg(feature = "kafka")]
fn kafka(text: &str) -> Result<Broker, String> {
    text.parse().map(Broker::Kafka)
}

#[cfg(not(feature = "kafka"))]
fn kafka(text: &str) -> Result<Broker, String> {
    Err(text.parse::<KafkaUrl>().err().unwrap_or_default())
}

fn is_nats(text: &str) -> bool {
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme.trim());
    ["nats", "tls"].iter().any(|nats| scheme.eq_ignore_ascii_case(nats))
}

fn is_database(path: &str) -> bool {
    let number = path.trim_start_matches('/');
    number.is_empty() || number.parse::<u16>().is_ok()
}

impl RedisUrl {
    /// Returns the whole URL, with credentials.
    pub(super) fn with_credentials(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.0.clone();
        // Fails only for URLs without a host.
        let _ = url.set_username("").and_then(|()| url.set_password(None));
        url.fmt(f)
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As in `feed.broker`, without credentials.
impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Postgres => f.write_str("postgres"),
            Self::Nats(url) => url.fmt(f),
            Self::Redis(url) => url.fmt(f),
            #[cfg(feature = "kafka")]
            Self::Kafka(url) => url.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_named_or_have_a_url() {
        let kind = |text: &str| text.parse::<Broker>().map(|broker| broker.kind());
        for (text, expected) in [
            ("none", BrokerKind::None),
            ("postgres", BrokerKind::Postgres),
            ("nats://localhost", BrokerKind::Nats),
            ("nats://user:secret@[::1]:4222/", BrokerKind::Nats),
            ("tls://nats.example:4222", BrokerKind::Nats),
            (" NATS://a:4222,b:4222,nats://c", BrokerKind::Nats),
            ("redis://localhost:6379/1", BrokerKind::Redis),
            ("rediss://:secret@redis.example", BrokerKind::Redis),
        ] {
            assert_eq!(kind(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "None",
            "localhost:4222",
            "http://localhost",
            "ws://localhost",
            "nats://",
            "nats://localhost/subject",
            "redis://localhost/x",
            "redis://localhost?protocol=resp3",
            "nats://secret@",
        ] {
            assert!(!kind(text).unwrap_err().contains("secret"), "{text}");
        }
    }

    #[test]
    fn credentials_are_not_shown() {
        for (text, shown) in [
            ("nats://ann:p%40ss@a:1,ann:p%40ss@b:2", "nats://a:1,b:2"),
            ("tls://token@localhost:1", "tls://localhost:1"),
            ("redis://ann:p%40ss@localhost:1/2", "redis://localhost:1/2"),
        ] {
            let broker: Broker = text.parse().unwrap();
            assert_eq!(format!("{broker} {broker:?}"), format!("{shown} {shown}"));
        }
    }
}
