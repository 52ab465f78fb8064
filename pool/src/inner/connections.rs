//! The life of a connection: the one task that opens them, and everything that closes them.
//!
//! Operations, probes and changes of the settings say what they need and wait for the outcome; only [`open_connections`]
//! opens. So there is one place that knows how many attempts are under way, one that pauses after failures, and a database
//! that is slow to answer meets a single attempt with a generous limit instead of many with a short one.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{
    PoolInner, SILENCE_THRESHOLD,
    requests::{Aside, ConnectProgress},
};
use crate::{
    connect::url::Engine,
    connect::{
        connector::{ConnectFailure, Connector},
        driver::DriverConnection,
    },
    error_kind::DbErrorKind,
    set::{CloseReason, PoolEntry},
};

/// How long it may take to open a connection. It is generous because an attempt that is given up costs twice: the next one
/// begins from nothing, and MySQL and MariaDB shut out hosts that give up many (`max_connect_errors`).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may take to close in order; after that its socket is closed.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections that are opened at the same time.
const MAX_CONCURRENT_CONNECTS: u32 = 16;
/// The pause after a failed attempt, which doubles with each further one, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// The longest after attempts that got no answer at all.
const LONGEST_PAUSE_AFTER_SILENCE: Duration = Duration::from_secs(2);
/// The same on MySQL and MariaDB, which count attempts that were given up: their limit of a hundred lasts for more than an hour so.
const LONGEST_PAUSE_OF_MYSQL: Duration = Duration::from_mins(1);
/// The pause while the settings are wrong: servers lock accounts that fail too often.
const PAUSE_WHILE_REFUSED: Duration = Duration::from_secs(2);

impl PoolInner {
    /// Has connections opened, as many as are missing now.
    pub(crate) fn replenish(&self) {
        self.demand.wake.notify_one();
    }

    /// Has a connection opened whatever the counts say.
    pub(super) fn request_probe(&self) {
        self.demand.probe.store(true, Ordering::Release);
        self.demand.wake.notify_one();
    }

    pub(crate) fn connect_progress(&self) -> watch::Receiver<ConnectProgress> {
        self.demand.progress.subscribe()
    }

    /// Opens a connection that does not become one of the pool's: to try a new connector, or to kill statements. `None` if
    /// the pool is closed.
    pub(crate) async fn open_aside(
        &self,
        connector: Option<Connector>,
    ) -> Option<Result<DriverConnection, ConnectFailure>> {
        let (reply, opened) = oneshot::channel();
        match &mut *self.demand.aside.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(asides) => asides.push(Aside { connector, reply }),
            None => return None,
        }
        self.demand.wake.notify_one();
        opened.await.ok()
    }

    /// Makes a connection that was opened aside one of the pool's.
    pub(crate) fn adopt(self: &Arc<Self>, connection: DriverConnection, generation: u32, took: Duration) {
        self.admission.connections().reserve(|_| 1);
        self.add(connection, generation, took);
    }

    /// The database has answered on an open connection: it serves again, and others may be opened at once.
    pub(super) fn recover(&self) {
        self.health.mark_recovering();
        self.demand.resume.store(true, Ordering::Release);
        self.replenish();
    }

    /// Whether as many connections may be opened at the same time as ever.
    pub(super) fn is_at_full_speed(&self) -> bool {
        self.demand.ramp.load(Ordering::Relaxed) == MAX_CONCURRENT_CONNECTS
    }

    /// Counts connections to be opened now: those that operations wait for, those that `min` lacks, or one to see whether the
    /// database answers.
    fn reserve(&self, ramp: u32) -> u32 {
        let min = self.options().min;
        let is_single = self.health.is_down() || !self.demand.has_started.load(Ordering::Relaxed);
        let is_probe = is_single || self.demand.probe.swap(false, Ordering::AcqRel);
        self.admission.connections().reserve(|counts| {
            let for_waiters = self.admission.pending().saturating_sub(counts.idle);
            let for_min = min.saturating_sub(counts.staying());
            let wanted = for_waiters.max(for_min).saturating_sub(counts.connecting);
            let count =
                if is_single { 0 } else { wanted.min(ramp.saturating_sub(counts.connecting)).min(counts.room()) };
            // A probe may be one more than `max`, for as long as it takes: all others may be silent.
            count.max(u32::from(is_probe && counts.connecting == 0))
        })
    }

    /// A connection that was counted as being opened is open.
    fn add(self: &Arc<Self>, connection: DriverConnection, generation: u32, took: Duration) {
        self.metrics.opened(took);
        let entry = self.admission.connections().add(connection, generation);
        self.demand.has_started.store(true, Ordering::Relaxed);
        self.health.on_response();
        self.health.clear_shortage();
        self.health.mark_recovering();
        self.check_in(entry);
    }

    fn on_connect_failure(&self, failure: &ConnectFailure, began: Instant) {
        self.metrics.connect_failed();
        if failure.kind == DbErrorKind::Silent {
            self.health.on_silence();
        }
        if !self.demand.has_started.load(Ordering::Relaxed) {
            // There is no pool yet; `Pool::connect` reports the cause.
        } else if self.others_work(failure, began) {
            self.health.note_shortage(failure);
        } else {
            self.mark_down(failure);
        }
        self.changed.notify_waiters();
    }

    /// Whether the connections that are open can be thought to work, though a further one could not be opened.
    fn others_work(&self, failure: &ConnectFailure, began: Instant) -> bool {
        let counts = self.admission.connections().counts();
        let has_responded = self.health.since_response() < began.elapsed().max(SILENCE_THRESHOLD);
        if counts.open > 0 && (has_responded || failure.kind.is_response()) {
            return true;
        }
        // Idle ones can be asked, and are before anything is decided.
        if counts.idle > 0 {
            self.mark_suspect();
        }
        counts.idle > 0
    }

    /// The database is down: what has been idle since before is not to be trusted any more.
    pub(super) fn mark_down(&self, failure: &ConnectFailure) {
        self.health.mark_down(failure);
        self.mark_suspect();
        self.replenish();
    }

    /// Puts a connection that works where it belongs: to the next operation, or away.
    pub(crate) fn check_in(self: &Arc<Self>, entry: PoolEntry<DriverConnection>) {
        let lifetime = self.options().lifetime;
        if let Err((entry, reason)) = self.admission.check_in(entry, lifetime, self.generation()) {
            self.close_counted(entry, reason);
        }
        self.changed.notify_waiters();
    }

    /// Closes a connection in order. Its place is free once that is done.
    pub(crate) fn close(self: &Arc<Self>, entry: PoolEntry<DriverConnection>, reason: CloseReason) {
        self.admission.connections().closing();
        self.close_counted(entry, reason);
    }

    fn close_counted(self: &Arc<Self>, entry: PoolEntry<DriverConnection>, reason: CloseReason) {
        let inner = Arc::clone(self);
        self.handle.spawn(async move {
            // A peer that does not answer is as closed as one that does.
            let _ = timeout(CLOSE_TIMEOUT, entry.connection.close()).await;
            inner.admission.connections().closed();
            inner.on_closed(reason);
        });
    }

    /// A connection is gone, without having been closed in order.
    pub(crate) fn discard(&self, reason: CloseReason) {
        self.admission.connections().discard();
        self.on_closed(reason);
    }

    fn on_closed(&self, reason: CloseReason) {
        self.metrics.closed(reason);
        self.changed.notify_waiters();
        self.replenish();
    }

    /// Refuses what waits and what comes from now on, and closes what is idle; what runs continues.
    pub(crate) fn stop_admission(self: &Arc<Self>) {
        self.bulk.close();
        for entry in self.admission.close() {
            self.close_counted(entry, CloseReason::PoolClosed);
        }
        self.attention.notify_one();
        self.replenish();
    }

    /// Waits until a condition is true that can change only when a connection is opened, comes back or is closed.
    pub(crate) async fn until(&self, condition: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            if condition(self) {
                return;
            }
            changed.await;
        }
    }
}

/// When the next attempt may begin, and how many at the same time.
struct Pace {
    ramp: u32,
    /// Rounds of attempts that failed, and those of them that got no answer.
    failures: u32,
    silences: u32,
    failed_at: Option<Instant>,
    last: Option<DbErrorKind>,
    not_before: Option<Instant>,
}

impl Pace {
    /// The first connection is opened alone; those that warm the pool after it are opened at full speed.
    const START: Self =
        Self { ramp: MAX_CONCURRENT_CONNECTS, failures: 0, silences: 0, failed_at: None, last: None, not_before: None };

    fn is_pausing(&self) -> bool {
        self.not_before.is_some_and(|not_before| Instant::now() < not_before)
    }

    fn after_success(&mut self) {
        *self = Self { ramp: (self.ramp * 2).min(MAX_CONCURRENT_CONNECTS), ..Self::START };
    }

    /// The database answers, so that nothing speaks against another attempt.
    fn resume(&mut self) {
        *self = Self { ramp: self.ramp, ..Self::START };
    }

    fn after_failure(&mut self, kind: DbErrorKind, engine: Engine, began: Instant) {
        self.ramp = 1;
        self.last = Some(kind);
        // Attempts that were under way together fail together.
        if self.failed_at.is_none_or(|failed_at| began >= failed_at) {
            self.failures += 1;
            self.silences += u32::from(kind == DbErrorKind::Silent);
            self.failed_at = Some(Instant::now());
        }
        let (count, longest) = match (kind, engine) {
            (DbErrorKind::Silent, Engine::MySql) => (self.silences, LONGEST_PAUSE_OF_MYSQL),
            (DbErrorKind::Silent, _) => (self.silences, LONGEST_PAUSE_AFTER_SILENCE),
            _ => (self.failures, LONGEST_PAUSE),
        };
        let pause = if kind.is_final() {
            PAUSE_WHILE_REFUSED
        } else {
            FIRST_PAUSE.saturating_mul(1 << count.min(20)).min(longest)
        };
        // Instances that saw the database go down together do not all come back together.
        self.not_before = Some(Instant::now() + pause.mul_f64(0.5 + 0.5 * fastrand::f64()));
    }

    /// Until when there is no attempt. A probe does not wait for the end of a silence: it is there to find it.
    fn pause(&self, is_probe: bool) -> Option<Instant> {
        let is_over = is_probe && self.last == Some(DbErrorKind::Silent);
        self.not_before.filter(|_| self.is_pausing() && !is_over)
    }
}

/// Opens connections as they are needed, until the pool is closed and its last connection with it.
pub(crate) async fn open_connections(inner: Arc<PoolInner>) {
    let demand = &inner.demand;
    let _asides_end = AsidesEnd(&inner);
    let mut pace = Pace::START;
    let (mut attempts, mut asides) = (FuturesUnordered::new(), FuturesUnordered::new());
    loop {
        let is_closed = inner.admission.is_closed();
        if is_closed {
            attempts = FuturesUnordered::new();
            if inner.admission.connections().counts().open == 0 {
                return;
            }
        }
        if demand.resume.swap(false, Ordering::AcqRel) {
            pace.resume();
        }
        demand.ramp.store(pace.ramp, Ordering::Relaxed);
        let pause = pace.pause(demand.probe.load(Ordering::Acquire));
        let count = if is_closed || pause.is_some() { 0 } else { inner.reserve(pace.ramp) };
        for _ in 0..count {
            demand.progress.send_modify(|progress| {
                progress.begun += 1;
                progress.began = Some(Instant::now());
            });
            attempts.push(attempt(Arc::clone(&inner)));
        }
        let new = demand.aside.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(std::mem::take);
        for aside in new.into_iter().flatten() {
            asides.push(open_one_aside(&inner, aside));
        }
        tokio::select! {
            Some((outcome, began)) = attempts.next() => {
                match &outcome {
                    Ok(()) => pace.after_success(),
                    Err(failure) => pace.after_failure(failure.kind, inner.engine, began),
                }
                demand.progress.send_modify(|progress| {
                    progress.ended += 1;
                    progress.failure = outcome.err();
                });
                inner.changed.notify_waiters();
            }
            Some(()) = asides.next() => {}
            () = demand.wake.notified() => {}
            () = sleep_until(pause.unwrap_or_else(Instant::now)), if pause.is_some() => {}
        }
    }
}

/// However the task ends, those that still ask it learn that.
struct AsidesEnd<'a>(&'a PoolInner);

impl Drop for AsidesEnd<'_> {
    fn drop(&mut self) {
        drop(self.0.demand.aside.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// One attempt to open a connection that was counted, and when it began.
async fn attempt(inner: Arc<PoolInner>) -> (Result<(), ConnectFailure>, Instant) {
    let (connector, generation) = inner.connector_and_generation();
    let began = Instant::now();
    let reservation = Reservation(&inner);
    let outcome = match connect(&connector).await {
        Ok(connection) => {
            reservation.keep();
            inner.add(connection, generation, began.elapsed());
            Ok(())
        }
        Err(failure) => {
            drop(reservation);
            inner.on_connect_failure(&failure, began);
            Err(failure)
        }
    };
    (outcome, began)
}

/// Opens a connection. A driver that panics, as over a peer that speaks another protocol, has lost it.
async fn connect(connector: &Connector) -> Result<DriverConnection, ConnectFailure> {
    let connecting = AssertUnwindSafe(connector.connect(CONNECT_TIMEOUT)).catch_unwind();
    connecting.await.unwrap_or_else(|_| {
        let error = std::io::Error::other("the driver did not understand the server's answer");
        Err(ConnectFailure::new(DbErrorKind::Lost, error))
    })
}

async fn open_one_aside(inner: &PoolInner, mut aside: Aside) {
    let connector = aside.connector.map_or_else(|| inner.connector(), Arc::new);
    tokio::select! {
        opened = connect(&connector) => {
            // The one that asked may have gone.
            let _ = aside.reply.send(opened);
        }
        () = aside.reply.closed() => {}
    }
}

/// A connection that was counted as being opened; if it comes to nothing, however that happens, the count goes back.
struct Reservation<'a>(&'a PoolInner);

impl Reservation<'_> {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.0.admission.connections().cancel_reservation();
        self.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_that_fail_together_are_one_failure() {
        let mut pace = Pace::START;
        let began = Instant::now();
        for _ in 0..10 {
            pace.after_failure(DbErrorKind::Silent, Engine::MySql, began);
        }
        assert!(pace.not_before.unwrap() <= Instant::now() + Duration::from_millis(100));
        for _ in 0..10 {
            pace.after_failure(DbErrorKind::Refused, Engine::MySql, Instant::now());
        }
        pace.after_failure(DbErrorKind::Silent, Engine::MySql, Instant::now());
        assert!(pace.not_before.unwrap() <= Instant::now() + Duration::from_millis(200), "refusals are no silence");
        for _ in 0..20 {
            pace.after_failure(DbErrorKind::Silent, Engine::MySql, Instant::now());
        }
        assert!(pace.not_before.unwrap() >= Instant::now() + LONGEST_PAUSE_OF_MYSQL / 3);
        pace.resume();
        assert!(!pace.is_pausing());
    }
}
