//! What the parts share, and the life of a connection from its opening to its end.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, timeout},
};

use crate::{
    Engine, Fault, PoolOptions,
    admission::Admission,
    bulk::Share,
    clock::Clock,
    health::{Health, words},
    raw::Raw,
    record::{Closing, Record},
    store::Slot,
    target::{DialError, Target, silence},
};

/// How long a goodbye may take; after that the socket is closed without.
pub(crate) const GOODBYE: Duration = Duration::from_secs(1);
/// How long a sign of life may take.
pub(crate) const SIGN_OF_LIFE: Duration = Duration::from_millis(1500);
/// Connections that are opened at the same time at the most.
const STEEPEST: u32 = 16;
/// How long it may take to open a connection, however long anybody would wait: while a dial hangs, no other one takes
/// its place.
const LONGEST_DIAL: Duration = Duration::from_secs(5);
/// The database is taken to work, whatever a dial says, for so long after it last answered on a connection that is open.
pub(crate) const UNEASY: Duration = Duration::from_secs(1);
/// After a failure to open one more, while others work, the next attempt waits for this.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(500);

pub(crate) struct Core {
    pub(crate) engine: Engine,
    pub(crate) clock: Clock,
    pub(crate) admission: Admission<Raw>,
    pub(crate) health: Health,
    pub(crate) record: Record,
    pub(crate) handle: Handle,
    /// Wakes the keeper.
    pub(crate) attention: Notify,
    /// Told when a connection was opened, given back or closed.
    pub(crate) changed: Notify,
    pub(crate) bulk: Share,
    /// One look at the database at a time.
    pub(crate) looking: tokio::sync::Mutex<()>,
    /// One connection that kills statements at a time.
    pub(crate) killing: Arc<tokio::sync::Mutex<()>>,
    options: RwLock<Arc<PoolOptions>>,
    target: RwLock<(Arc<Target>, u32)>,
    /// How many connections may be opened at the same time: doubled by each success, back to one by a failure.
    ramp: AtomicU32,
    not_before: Mutex<Option<Instant>>,
    pub(crate) server_limit: AtomicU32,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("engine", &self.engine).field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Core {
    pub(crate) fn new(options: PoolOptions, target: Target, record: Record, handle: Handle) -> Self {
        let clock = Clock::start();
        let engine = target.url().engine();
        Self {
            engine,
            clock,
            admission: Admission::new(options.max, engine),
            health: Health::new(clock),
            record,
            handle,
            attention: Notify::new(),
            changed: Notify::new(),
            bulk: Share::default(),
            looking: tokio::sync::Mutex::default(),
            killing: Arc::default(),
            options: RwLock::new(Arc::new(options)),
            target: RwLock::new((Arc::new(target), 0)),
            ramp: AtomicU32::new(STEEPEST),
            not_before: Mutex::default(),
            server_limit: AtomicU32::new(0),
        }
    }

    pub(crate) fn options(&self) -> Arc<PoolOptions> {
        Arc::clone(&self.options.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_options(&self, options: PoolOptions) {
        self.admission.store().set_max(options.max);
        *self.options.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(options);
        self.attention.notify_one();
    }

    pub(crate) fn target(&self) -> (Arc<Target>, u32) {
        let target = self.target.read().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&target.0), target.1)
    }

    fn generation(&self) -> u32 {
        self.target.read().unwrap_or_else(PoisonError::into_inner).1
    }

    /// From now on connections are opened for this target; those of older ones retire as they come back.
    ///
    /// Gives the new target's generation.
    pub(crate) fn set_target(self: &Arc<Self>, new: Target) -> u32 {
        let generation = {
            let mut target = self.target.write().unwrap_or_else(PoisonError::into_inner);
            *target = (Arc::new(new), target.1.wrapping_add(1));
            target.1
        };
        self.retire_outdated();
        generation
    }

    /// A connection of this generation held plans for a schema that is gone: all of its generation are replaced.
    fn renews(self: &Arc<Self>, generation: u32) {
        {
            let mut target = self.target.write().unwrap_or_else(PoisonError::into_inner);
            if target.1 != generation {
                return;
            }
            target.1 = generation.wrapping_add(1);
        }
        tracing::info!("the schema was changed; connections that know the old one are replaced");
        self.retire_outdated();
    }

    /// Closes what rests and was opened for what is no more; the rest is closed as it comes back.
    fn retire_outdated(self: &Arc<Self>) {
        let current = self.generation();
        while let Some(slot) = self.admission.pick(|slot| slot.generation != current) {
            self.close(slot, Closing::Replaced);
        }
    }

    /// Whether the connections are the database itself, and must never all be closed.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.target().0.url().is_in_memory()
    }

    /// Opens as many connections as are wanted, may be there, and are wise at once.
    pub(crate) fn grow(self: &Arc<Self>) {
        if self.health.is_down() || self.admission.is_closed() || self.is_pausing() {
            return;
        }
        let min = self.options().min;
        let count = {
            let mut store = self.admission.store();
            let for_waiters = self.admission.thirsty().saturating_sub(store.idle());
            let for_min = min.saturating_sub(store.staying());
            let wanted = for_waiters.max(for_min).saturating_sub(store.dialing());
            let wise = self.ramp.load(Ordering::Relaxed).saturating_sub(store.dialing());
            let count = wanted.min(wise).min(store.room());
            store.dials(count);
            count
        };
        for _ in 0..count {
            let core = Arc::clone(self);
            self.handle.spawn(async move { core.dial(dial_limit(core.options().acquire)).await.is_ok() });
        }
    }

    fn is_pausing(&self) -> bool {
        self.not_before
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some_and(|not_before| Instant::now() < not_before)
    }

    /// Opens one connection, which was counted as being dialed, and offers it.
    pub(crate) async fn dial(self: &Arc<Self>, limit: Duration) -> Result<(), DialError> {
        let (target, generation) = self.target();
        let began = Instant::now();
        let mut dialing = Dialing { core: self, settled: false };
        match self.dial_to(&target, limit).await {
            Ok(raw) => {
                dialing.settled = true;
                drop(dialing);
                self.welcome(raw, generation, began.elapsed());
                Ok(())
            }
            Err(error) => {
                drop(dialing);
                self.record.dial_failed();
                self.ramp.store(1, Ordering::Relaxed);
                if self.others_work(&error, began) {
                    let pause = Instant::now() + SHORTAGE_PAUSE;
                    *self.not_before.lock().unwrap_or_else(PoisonError::into_inner) = Some(pause);
                    self.health.note_shortage(&error);
                } else {
                    self.goes_down(&error);
                }
                Err(error)
            }
        }
    }

    /// Whether the connections that are open can be thought to work, though a further one could not be opened.
    fn others_work(&self, error: &DialError, began: Instant) -> bool {
        let (live, idle) = {
            let store = self.admission.store();
            (store.live(), store.idle())
        };
        let is_heard = self.health.silence() < began.elapsed().max(UNEASY);
        if live > 0 && (is_heard || error.fault.is_an_answer()) {
            return true;
        }
        // Those that rest can be asked, and are before anything is decided.
        if idle > 0 {
            self.suspects();
        }
        idle > 0
    }

    /// Opens one connection, uncounted, and learns from the first what only the server knows.
    pub(crate) async fn dial_to(&self, target: &Target, limit: Duration) -> Result<Raw, DialError> {
        let mut raw = target.dial(limit).await?;
        if self.server_limit.load(Ordering::Relaxed) == 0 {
            match timeout(SIGN_OF_LIFE, raw.server_limit()).await {
                Ok(Ok(Some(limit))) => self.server_limit.store(limit, Ordering::Relaxed),
                // It is for advice only: a server that does not tell is no fault.
                Ok(_) => {}
                Err(_) => return Err(DialError { fault: Fault::Silent, source: silence() }),
            }
        }
        Ok(raw)
    }

    /// A connection that was counted as being dialed is open.
    pub(crate) fn welcome(self: &Arc<Self>, raw: Raw, generation: u32, took: Duration) {
        self.record.opened(took);
        let slot = self.admission.store().dialed(raw, generation);
        self.health.hears();
        self.health.clear_shortage();
        self.health.recovers();
        let ramp = self.ramp.load(Ordering::Relaxed);
        self.ramp.store((ramp * 2).min(STEEPEST), Ordering::Relaxed);
        self.keep_or_close(slot);
        self.grow();
        self.changed.notify_waiters();
    }

    /// Whether connections are opened as fast as they are wanted.
    pub(crate) fn is_at_full_speed(&self) -> bool {
        self.ramp.load(Ordering::Relaxed) == STEEPEST
    }

    /// Whether connections are being opened.
    pub(crate) fn is_growing(&self) -> bool {
        self.admission.store().dialing() > 0
    }

    /// Checks that the database is still where it was opened, and marks it as down if not.
    ///
    /// # Errors
    ///
    /// What happened to its file.
    pub(crate) fn check_file(&self) -> Result<(), DialError> {
        let checked = self.target().0.check_file();
        if let Err(error) = &checked
            && !self.health.is_down()
        {
            self.health.goes_down(error);
            self.attention.notify_one();
        }
        checked
    }

    /// The database is down: what rests is not to be trusted any more.
    fn goes_down(&self, error: &DialError) {
        self.health.goes_down(error);
        if !self.is_in_memory() {
            self.health.suspects();
        }
        self.attention.notify_one();
    }

    /// Puts a connection that works where it belongs: back, or away.
    pub(crate) fn keep_or_close(self: &Arc<Self>, slot: Slot<Raw>) {
        let too_many = {
            let store = self.admission.store();
            store.staying() > store.max()
        };
        let why = if self.admission.is_closed() {
            Some(Closing::Ending)
        } else if too_many || slot.generation != self.generation() {
            Some(Closing::Replaced)
        } else if slot.is_too_old(self.options().lifetime) {
            Some(Closing::Lifetime)
        } else {
            None
        };
        match why {
            Some(why) => self.close(slot, why),
            None => self.admission.offer(slot),
        }
    }

    /// Says goodbye and closes; the place is free once that is done.
    pub(crate) fn close(self: &Arc<Self>, slot: Slot<Raw>, why: Closing) {
        self.admission.store().closes();
        let core = Arc::clone(self);
        self.handle.spawn(async move {
            // A peer that does not hear it is as closed as one that does.
            let _ = timeout(GOODBYE, slot.raw.close()).await;
            core.admission.store().closed();
            core.gone(why);
        });
    }

    /// A connection is lost, without a goodbye.
    pub(crate) fn loses(self: &Arc<Self>, why: Closing) {
        self.admission.store().lost();
        self.gone(why);
    }

    /// One connection less. Whoever waits may get another one.
    fn gone(self: &Arc<Self>, why: Closing) {
        self.record.closed(why);
        self.changed.notify_waiters();
        self.grow();
    }

    /// A connection died underneath: the others are looked at before they are used again.
    pub(crate) fn suspects(&self) {
        if !self.is_in_memory() {
            self.health.suspects();
        }
        self.attention.notify_one();
    }

    /// Whether a connection should give a sign of life before it is used.
    pub(crate) fn is_doubtful(&self, slot: &Slot<Raw>) -> bool {
        let rested = slot.proven.elapsed();
        rested >= self.options().validate_after || self.health.is_suspect(rested)
    }

    /// Notes what an operation's error says about the database.
    pub(crate) fn learns(
        self: &Arc<Self>,
        fault: Fault,
        operation: &'static str,
        generation: u32,
        error: &(dyn std::error::Error + 'static),
    ) {
        match fault {
            Fault::StalePlan => self.renews(generation),
            fault if fault.ends_connection() => self.suspects(),
            _ => {}
        }
        if matches!(fault, Fault::ReadOnly | Fault::DiskFull) {
            self.health.note_impairment(fault, operation, &words(error));
        }
    }
}

/// A dial that has been counted; if it comes to nothing, however that happens, the count goes back.
struct Dialing<'a> {
    core: &'a Core,
    settled: bool,
}

impl Drop for Dialing<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.core.admission.store().dial_failed();
            self.core.changed.notify_waiters();
        }
    }
}

/// How long it may take to open one connection.
pub(crate) fn dial_limit(acquire: Duration) -> Duration {
    acquire.clamp(SIGN_OF_LIFE, LONGEST_DIAL)
}
