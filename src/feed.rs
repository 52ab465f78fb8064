//! The live feed: every change of a user as an event, in one order for all processes and clients.
//!
//! The database is the log ([`FeedStore`]). A background job calls [`Feed::advance`]: it gives
//! committed changes their positions and reads new events into the `ring`, the latest events in memory. A [`Subscription`]
//! is a cursor: it reads from the ring when its client can receive, and from the database if it is behind the ring. So a
//! slow client costs no memory, and no event is lost between the past and the present.
//!
//! * `position`: where an event is in the feed ([`Position`]).
//! * `event`: an event as CloudEvents JSON, encoded once for all clients ([`Event`]).
//! * `ring`: the latest events.
//! * `catch_up`: earlier events, from the database.
//! * `subscription`: reads events for a client.
//! * `round`: reads the feed, and gives committed changes their positions.
//! * `replication_lag`: a server that lags, and a restored database.
//! * `filter`: which events a client wants.
//! * `presence`: which users are connected.
//! * `status`: the state of the feed, for operators.
//! * `doorbell`: how a process is notified of events of other processes, through a [`Broker`].
//! * `export`: copies the feed to Kafka, if this is built with the cargo feature `kafka`.

mod broker;
mod catch_up;
mod doorbell;
mod event;
#[cfg(feature = "kafka")]
mod export;
mod filter;
#[cfg(feature = "kafka")]
mod kafka;
mod kafka_url;
mod nats_url;
mod position;
mod presence;
mod replication_lag;
mod ring;
mod round;
mod status;
mod subscription;

use std::{
    sync::{
        Arc, Mutex as StdMutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex, Notify, watch},
    time::{Instant, timeout},
};

#[cfg(feature = "kafka")]
pub use self::export::{ExportError, Exporter};
pub use self::{
    broker::{Broker, BrokerKind, RedisUrl},
    doorbell::DoorbellError,
    event::{Event, EventBody, EventType, MessageBody},
    filter::{EventTypes, Filter},
    kafka_url::KafkaUrl,
    nats_url::NatsUrl,
    position::{After, Epoch, Position},
    presence::{Presence, PresenceGuard},
    status::{ExportStatus, Status},
    subscription::{Closing, Delivery, MAX_BYTES, ResyncReason, Subscription},
};
use self::{catch_up::CatchUp, doorbell::Doorbell, replication_lag::ReplicationLag, ring::Ring};
use crate::service::{ChangeSignal, Error, FeedStore};

const EVENTS: &str = "feed_events_total";
const SUBSCRIBERS: &str = "feed_subscribers";
const CONNECTED: &str = "feed_broker_connected";
const RINGS: &str = "feed_rings_total";
/// How often changes of other processes are looked for while this process has no subscribers.
const POLL_WITHOUT_SUBSCRIBERS: Duration = Duration::from_secs(30);
/// Minimum pause between two rounds while there are no subscribers: changes in quick succession share a round.
const PAUSE_WITHOUT_SUBSCRIBERS: Duration = Duration::from_secs(1);

/// For how long after its beginning a round serves clients that continue after a position.
const SHARED_ROUND: Duration = Duration::from_millis(100);

/// The options of the feed.
#[derive(Clone, Debug)]
pub struct FeedOptions {
    /// How often changes of other processes are looked for.
    pub poll: Duration,
    /// Memory for the latest events.
    pub ring_bytes: usize,
    /// Period over which streams are ended at a shutdown.
    pub drain: Duration,
    /// How long a connection may last. Its client continues with another one.
    pub max_age: Duration,
    /// The broker through which processes notify each other of new events.
    pub broker: Broker,
}

/// The feed state of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The position of the latest event.
    pub latest: Position,
    /// The position before the oldest event that is still available.
    pub floor: u64,
}

/// The state whose changes subscriptions wait for.
#[derive(Debug, Default)]
struct Known {
    head: Option<Head>,
    /// When the subscriptions began to end.
    closing_since: Option<Instant>,
}

/// The live feed of this process. A clone shares it.
#[derive(Clone)]
pub struct Feed(Arc<Shared>);

struct Shared {
    store: FeedStore,
    poll: Duration,
    drain: Duration,
    max_age: Duration,
    doorbell: Doorbell,
    signal: ChangeSignal,
    presence: Presence,
    ring: RwLock<Ring>,
    /// In one place, because each subscription waits for every event.
    known: watch::Sender<Known>,
    subscribers: AtomicUsize,
    /// Whether this process is connected to the others, and how often one has notified it.
    is_listening: AtomicBool,
    rings: AtomicU64,
    /// Signals the first subscriber.
    arrival: Notify,
    catch_up: CatchUp,
    export: StdMutex<Option<ExportStatus>>,
    /// Held during a round.
    round: Mutex<()>,
    /// The number of rounds that were begun.
    rounds: AtomicU64,
    /// The latest round that succeeded.
    succeeded: AtomicU64,
    /// When it began.
    succeeded_at: StdMutex<Option<Instant>>,
    lag: ReplicationLag,
}

impl Feed {
    /// Creates the feed. Nothing is read until the first round.
    #[must_use]
    pub fn new(store: FeedStore, options: FeedOptions) -> Self {
        metrics::describe_counter!(EVENTS, "Events of the feed that this process has read");
        metrics::counter!(EVENTS).absolute(0);
        metrics::describe_gauge!(SUBSCRIBERS, "Clients that read the feed from this process now");
        metrics::describe_gauge!(
            CONNECTED,
            "Whether other processes notify this one through the broker (1) or it only polls (0)"
        );
        metrics::describe_counter!(RINGS, "How often another process has reported events, or the broker was connected");
        metrics::gauge!(SUBSCRIBERS).set(0);
        metrics::gauge!(CONNECTED).set(0);
        metrics::counter!(RINGS).absolute(0);
        let doorbell = Doorbell::new(options.broker);
        let lag = ReplicationLag::new(store.is_in_commit_order());
        Self(Arc::new(Shared {
            store: doorbell.connect(store),
            poll: options.poll,
            drain: options.drain,
            max_age: options.max_age,
            doorbell,
            signal: ChangeSignal::default(),
            presence: Presence::default(),
            ring: RwLock::new(Ring::new(options.ring_bytes)),
            known: watch::Sender::new(Known::default()),
            arrival: Notify::new(),
            catch_up: CatchUp::new(),
            export: StdMutex::default(),
            subscribers: AtomicUsize::new(0),
            is_listening: AtomicBool::new(false),
            rings: AtomicU64::new(0),
            round: Mutex::new(()),
            rounds: AtomicU64::new(0),
            succeeded: AtomicU64::new(0),
            succeeded_at: StdMutex::default(),
            lag,
        }))
    }

    /// Returns the signal of changes that this process commits.
    #[must_use]
    pub fn change_signal(&self) -> ChangeSignal {
        self.0.signal.clone()
    }

    /// Returns the users who have WebSockets on this process.
    #[must_use]
    pub fn presence(&self) -> &Presence {
        &self.0.presence
    }

    /// Returns what this process knows of the feed; `None` until the database has been read.
    #[must_use]
    pub fn head(&self) -> Option<Head> {
        self.0.known.borrow().head.clone()
    }

    /// Returns the position of an entry of the journal that was written after `before` was known; `None` if the database
    /// cannot be read now.
    pub async fn locate(&self, journal_id: i64, before: Option<Head>) -> Option<Position> {
        self.refresh().await.ok()?;
        let after = before.map_or(0, |head| head.latest.number.cast_signed());
        let number = self.0.store.position_of(journal_id, after).await.ok()??;
        Some(Position { epoch: self.head()?.latest.epoch, number: number.cast_unsigned() })
    }

    fn subscribers(&self) -> usize {
        self.0.subscribers.load(Ordering::Relaxed)
    }

    /// Returns the period over which subscriptions are ended.
    #[must_use]
    pub fn drain(&self) -> Duration {
        self.0.drain
    }

    /// Ends all subscriptions, evenly over [`FeedOptions::drain`].
    pub fn close(&self) {
        self.0.known.send_modify(|known| known.closing_since = Some(Instant::now()));
    }

    /// Listens for other processes until that fails; returns why, and whether it has listened.
    pub async fn listen(&self) -> (DoorbellError, bool) {
        let shared = &self.0;
        let on_ring = || {
            if !shared.is_listening.swap(true, Ordering::Relaxed) {
                metrics::gauge!(CONNECTED).set(1);
                tracing::info!(broker = %shared.doorbell.broker(), "listening for events of other processes");
            }
            shared.rings.fetch_add(1, Ordering::Relaxed);
            metrics::counter!(RINGS).increment(1);
            shared.signal.notify();
        };
        let error = match shared.doorbell.listen(&shared.store, &on_ring).await {
            Err(error) => error,
            Ok(never) => match never {},
        };
        metrics::gauge!(CONNECTED).set(0);
        (error, shared.is_listening.swap(false, Ordering::Relaxed))
    }

    /// Waits until there may be something new.
    pub async fn wait(&self) {
        let poll = if self.subscribers() > 0 {
            self.0.poll.mul_f64(0.75 + random_fraction() / 2.0)
        } else {
            if *self.0.doorbell.broker() == Broker::None {
                // Subscribers of other processes do not wait for this one. A first subscriber ends the pause.
                let _ = timeout(PAUSE_WITHOUT_SUBSCRIBERS, self.0.arrival.notified()).await;
            }
            POLL_WITHOUT_SUBSCRIBERS
        };
        // Either way there is a round.
        let _ = timeout(poll, self.0.signal.notified()).await;
    }

    /// Runs a round: gives committed changes their positions, and reads new events into memory.
    ///
    /// # Errors
    ///
    /// The database could not be read. What is known stays valid.
    pub async fn advance(&self) -> Result<(), Error> {
        let _round = self.0.round.lock().await;
        self.0.advance().await
    }

    /// Runs a round, unless one begins that another caller waits for as well.
    async fn refresh(&self) -> Result<(), Error> {
        let begun = self.0.rounds.load(Ordering::Acquire);
        let _round = self.0.round.lock().await;
        // A round that began after this call has ended, because rounds hold the lock.
        if self.0.succeeded.load(Ordering::Acquire) > begun { Ok(()) } else { self.0.advance().await }
    }
}

impl Shared {
    fn ring(&self) -> RwLockReadGuard<'_, Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring_mut(&self) -> RwLockWriteGuard<'_, Ring> {
        self.ring.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn export(&self) -> MutexGuard<'_, Option<ExportStatus>> {
        self.export.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the latest round is recent enough for clients that continue: many do at once when a process ends.
    fn is_fresh(&self) -> bool {
        let began = *self.succeeded_at.lock().unwrap_or_else(PoisonError::into_inner);
        began.is_some_and(|began| began.elapsed() < SHARED_ROUND)
    }
}

/// Returns a number from 0 to 1, which spreads what many processes and clients do.
pub(crate) fn random_fraction() -> f64 {
    f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX)
}
