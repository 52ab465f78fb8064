//! The section `[feed]`.

use std::time::Duration;

use bytesize::ByteSize;
use orm_pool::Engine;
use secrecy::{ExposeSecret, SecretString};

use super::{
    Invalid,
    declaration::{Allowed, section},
};
use crate::feed::{Broker, FeedOptions, KafkaUrl};

const DAY: Duration = Duration::from_hours(24);

section! {
    /// `feed.*`: the live feed of changes.
    FeedSettings, SETTINGS: "feed" {
        /// Whether changes of users are published as events (GET /users/changes). All processes must have the same
        /// value. Clients read their state again after the feed was disabled and enabled.
        pub enabled: bool = true, Allowed::Boolean;
        /// Poll interval: how often a process with subscribers reads the changes of other processes, with a jitter of
        /// ±25%. It reads its own changes immediately. Too low: needless statements. Too high: events of other
        /// processes arrive late.
        #[serde(with = "humantime_serde")]
        poll: Duration = "500ms", Allowed::duration(Duration::from_millis(10), Duration::from_mins(1));
        /// How processes report new events to each other, without waiting for the next poll. none: not at all.
        /// postgres: with LISTEN and NOTIFY of PostgreSQL, on a dedicated connection; incompatible with PgBouncer in
        /// transaction mode. Or a URL: nats://USER:PASSWORD@HOST:4222,HOST:4222 (tls:// with TLS) for one or several servers
        /// of a cluster, of which the first that responds is used, redis://USER:PASSWORD@HOST:6379 (rediss:// with TLS), or,
        /// in builds with the cargo feature kafka, kafka://USER:PASSWORD@HOST:9092,HOST:9092/TOPIC (kafka+ssl:// with TLS).
        /// While no server is reachable, events arrive with the next poll.
        broker: SecretString = "none", Allowed::Described("none, postgres, or a URL of NATS, Redis or Kafka"), secret;
        /// Where events are copied to, as CloudEvents, in builds with the cargo feature kafka. none: nowhere. Or a topic of
        /// Kafka: kafka://USER:PASSWORD@HOST:9092,HOST:9092/TOPIC (kafka+ssl:// with TLS, ?sasl=plain, scram-sha-256 or
        /// scram-sha-512). One process copies at a time; another one continues when it ends.
        export: SecretString = "none", Allowed::Described("none, or a URL of Kafka"), secret;
        /// Memory for the latest events. Clients that are further behind read from the database. Too low: many reads
        /// from the database when clients reconnect. An event takes about 700 bytes.
        ring: ByteSize = "64MiB", Allowed::Size { min: ByteSize::mib(1), max: ByteSize::gib(16) };
        /// How long events are available to clients that were disconnected; at most journal.keep. Clients that return
        /// later are asked to read their state again.
        #[serde(with = "humantime_serde")]
        pub retain: Duration = "7d", Allowed::duration(Duration::from_mins(1), DAY.saturating_mul(3650));
        /// Maximum number of available events. The oldest are removed first.
        pub retain_rows: u64 = 1000000, Allowed::Integer { min: 1000, max: 1_000_000_000 };
        /// Period over which the streams are ended evenly at a shutdown. Too low: all clients reconnect at the same
        /// time. Too high: the shutdown takes longer; it is part of server.shutdown_timeout.
        #[serde(with = "humantime_serde")]
        drain: Duration = "2s", Allowed::duration(Duration::ZERO, Duration::from_mins(1));
        /// How long a stream or socket may last, minus up to 10 %. Its client connects again and continues, so that
        /// clients spread over processes that were added. Too low: many reconnections. Too high: uneven load.
        #[serde(with = "humantime_serde")]
        max_age: Duration = "1h", Allowed::duration(Duration::from_secs(1), DAY.saturating_mul(30));
    }
}

impl FeedSettings {
    pub(super) fn validate(&self, engine: Option<Engine>) -> Result<(), Invalid> {
        let broker = self.broker().map_err(|why| Invalid::because("feed.broker", why))?;
        if broker == Broker::Postgres && engine.is_some_and(|engine| engine != Engine::Postgres) {
            return Err(Invalid::because("feed.broker", "postgres needs a PostgreSQL database (database.url)"));
        }
        if self.is_exported() {
            self.export.expose_secret().parse::<KafkaUrl>().map_err(|why| Invalid::because("feed.export", why))?;
            if !self.enabled {
                return Err(Invalid::because("feed.export", "needs feed.enabled = true"));
            }
        }
        Ok(())
    }

    fn broker(&self) -> Result<Broker, String> {
        self.broker.expose_secret().parse()
    }

    fn is_exported(&self) -> bool {
        self.export.expose_secret() != "none"
    }

    /// Returns where events are copied to; `None` without an export.
    #[cfg(feature = "kafka")]
    #[must_use]
    pub fn export(&self) -> Option<KafkaUrl> {
        // It has been validated.
        self.export.expose_secret().parse().ok()
    }

    /// Returns the options of the feed; `None` if it is disabled.
    #[must_use]
    pub fn options(&self) -> Option<FeedOptions> {
        let ring_bytes = usize::try_from(self.ring.as_u64()).unwrap_or(usize::MAX);
        // It has been validated.
        let broker = self.broker().unwrap_or_default();
        self.enabled.then_some(FeedOptions {
            poll: self.poll,
            ring_bytes,
            drain: self.drain,
            max_age: self.max_age,
            broker,
        })
    }
}
