//! Opens and closes connections.
//!
//! Operations, probes and reconfiguration request connections and wait for the outcome. Only the connector task,
//! [`open_connections`], opens them, so it knows how many attempts are in flight and when to pause after failures. A
//! slow database gets one attempt with a generous timeout instead of many with a short one.

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
    pace::{MAX_CONCURRENT_CONNECTS, Pace},
    requests::{ConnectProgress, DetachedRequest},
};
use crate::{
    connect::{
        connector::{ConnectFailure, Connector},
        driver::DriverConnection,
    },
    error_kind::DbErrorKind,
    set::{CloseReason, PoolEntry},
};

/// Time limit for opening a connection. It is generous because an abandoned attempt is expensive: the next one starts
/// over, and MySQL and MariaDB block hosts that abandon many (`max_connect_errors`).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for closing a connection gracefully. After that its socket is closed.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

impl PoolInner {
    /// Wakes the connector task, which opens the missing connections.
    pub(crate) fn replenish(&self) {
        self.demand.wake.notify_one();
    }

    /// Requests a connection regardless of the counts.
    pub(super) fn request_probe(&self) {
        self.demand.probe.store(true, Ordering::Release);
        self.demand.wake.notify_one();
    }

    pub(crate) fn connect_progress(&self) -> watch::Receiver<ConnectProgress> {
        self.demand.progress.subscribe()
    }

    /// Opens a connection that does not belong to the pool, to test a new connector or to query the server. Returns
    /// `None` once the connector task has ended.
    pub(crate) async fn open_detached(
        &self,
        connector: Option<Connector>,
    ) -> Option<Result<DriverConnection, ConnectFailure>> {
        let (reply, opened) = oneshot::channel();
        match &mut *self.demand.detached.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(detached) => detached.push(DetachedRequest { connector, reply }),
            None => return None,
        }
        self.demand.wake.notify_one();
        opened.await.ok()
    }

    /// Adds a detached connection to the pool.
    pub(crate) fn adopt(self: &Arc<Self>, connection: DriverConnection, generation: u32, took: Duration) {
        self.admission.connections().reserve(|_| 1);
        self.add(connection, generation, took);
    }

    /// Marks the database as recovering after a response on an open connection, and ends the pause between attempts.
    pub(super) fn recover(&self) {
        self.health.mark_recovering();
        self.demand.resume.store(true, Ordering::Release);
        self.replenish();
    }

    /// Whether the number of concurrent attempts is back at its limit.
    pub(super) fn is_at_full_speed(&self) -> bool {
        self.demand.ramp.load(Ordering::Relaxed) == MAX_CONCURRENT_CONNECTS
    }

    /// Reserves slots for connections to open now: for pending operations, for `min`, or for a probe.
    fn reserve(&self, ramp: u32) -> u32 {
        let min = self.options().min;
        let is_single = self.health.is_down() || !self.demand.has_started.load(Ordering::Relaxed);
        let is_probe = is_single || self.demand.probe.swap(false, Ordering::AcqRel);
        self.admission.connections().reserve(|counts| {
            let for_waiters = self.admission.pending().saturating_sub(counts.idle);
            let for_min = min.saturating_sub(counts.staying());
            let missing = for_waiters.max(for_min).saturating_sub(counts.connecting);
            let count =
                if is_single { 0 } else { missing.min(ramp.saturating_sub(counts.connecting)).min(counts.room()) };
            // A probe may temporarily exceed `max` by one: all other connections may be silent.
            count.max(u32::from(is_probe && counts.connecting == 0))
        })
    }

    /// Adds a connection for which a slot was reserved.
    fn add(self: &Arc<Self>, connection: DriverConnection, generation: u32, took: Duration) {
        self.metrics.opened(took);
        let entry = self.admission.connections().add(connection, generation);
        self.demand.has_started.store(true, Ordering::Relaxed);
        self.health.on_response();
        self.health.clear_shortage();
        self.health.mark_recovering();
        // A new connection serves an operation, however short its lifetime: otherwise none would be served.
        self.check_in_within(entry, Duration::ZERO);
    }

    fn on_connect_failure(&self, failure: &ConnectFailure, began: Instant) {
        self.metrics.connect_failed();
        if failure.kind == DbErrorKind::Silent {
            self.health.on_silence();
        }
        if !self.demand.has_started.load(Ordering::Relaxed) {
            // Still starting: `Pool::connect` reports the cause.
        } else if self.has_working_connections(failure, began) {
            self.health.note_shortage(failure);
        } else {
            self.mark_down(failure);
        }
        self.changed.notify_waiters();
    }

    /// Whether the open connections are expected to work although another one could not be opened.
    fn has_working_connections(&self, failure: &ConnectFailure, began: Instant) -> bool {
        let counts = self.admission.connections().counts();
        let has_responded = self.health.since_response() < began.elapsed().max(SILENCE_THRESHOLD);
        if counts.open > 0 && (has_responded || failure.kind.is_response()) {
            return true;
        }
        // Idle connections are pinged before the database is marked down.
        if counts.idle > 0 {
            self.mark_suspect();
        }
        counts.idle > 0
    }

    /// Marks the database as down, and its idle connections as suspect.
    pub(super) fn mark_down(&self, failure: &ConnectFailure) {
        self.health.mark_down(failure);
        self.mark_suspect();
        self.replenish();
    }

    /// Returns a working connection to the pool, or closes it if the pool does not keep it.
    pub(crate) fn check_in(self: &Arc<Self>, entry: PoolEntry<DriverConnection>) {
        self.check_in_within(entry, self.options().lifetime);
    }

    fn check_in_within(self: &Arc<Self>, entry: PoolEntry<DriverConnection>, lifetime: Duration) {
        if let Err((entry, reason)) = self.admission.check_in(entry, lifetime, self.generation()) {
            self.close_counted(entry, reason);
        }
        self.changed.notify_waiters();
    }

    /// Closes a connection gracefully, then frees its slot.
    pub(crate) fn close(self: &Arc<Self>, entry: PoolEntry<DriverConnection>, reason: CloseReason) {
        self.admission.connections().closing();
        self.close_counted(entry, reason);
    }

    fn close_counted(self: &Arc<Self>, entry: PoolEntry<DriverConnection>, reason: CloseReason) {
        let inner = Arc::clone(self);
        self.handle.spawn(async move {
            // The socket is closed in any case.
            let _ = timeout(CLOSE_TIMEOUT, entry.connection.close()).await;
            inner.admission.connections().closed();
            inner.on_closed(reason);
        });
    }

    /// Frees the slot of a connection that was dropped without a graceful close.
    pub(crate) fn discard(&self, reason: CloseReason) {
        self.admission.connections().discard();
        self.on_closed(reason);
    }

    fn on_closed(&self, reason: CloseReason) {
        self.metrics.closed(reason);
        self.changed.notify_waiters();
        self.replenish();
    }

    /// Refuses waiting and new operations and closes idle connections. Running operations continue.
    pub(crate) fn stop_admission(self: &Arc<Self>) {
        #[cfg(feature = "bulk")]
        self.bulk.close();
        for entry in self.admission.close() {
            self.close_counted(entry, CloseReason::PoolClosed);
        }
        self.attention.notify_one();
        self.replenish();
    }

    /// Waits until a condition holds. It is checked whenever a connection is opened, checked in or closed.
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

/// The connector task: opens connections as needed, until the pool is closed and its last connection is too.
pub(crate) async fn open_connections(inner: Arc<PoolInner>) {
    let demand = &inner.demand;
    let _cancel_detached = CancelDetached(&inner);
    let mut pace = Pace::INITIAL;
    let (mut attempts, mut detached) = (FuturesUnordered::new(), FuturesUnordered::new());
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
        demand.ramp.store(pace.ramp(), Ordering::Relaxed);
        let pause = pace.pause(demand.probe.load(Ordering::Acquire));
        let count = if is_closed || pause.is_some() { 0 } else { inner.reserve(pace.ramp()) };
        for _ in 0..count {
            demand.progress.send_modify(|progress| {
                progress.begun += 1;
                progress.began = Some(Instant::now());
            });
            attempts.push(attempt(Arc::clone(&inner)));
        }
        let new = demand.detached.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(std::mem::take);
        for request in new.into_iter().flatten() {
            detached.push(serve_detached(&inner, request));
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
            Some(()) = detached.next() => {}
            () = demand.wake.notified() => {}
            () = sleep_until(pause.unwrap_or_else(Instant::now)), if pause.is_some() => {}
        }
    }
}

/// Fails pending requests for detached connections when the task ends.
struct CancelDetached<'a>(&'a PoolInner);

impl Drop for CancelDetached<'_> {
    fn drop(&mut self) {
        drop(self.0.demand.detached.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// One attempt to open a connection for a reserved slot. Also returns when it began.
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

/// Opens a connection. A panic in the driver, for example on a malformed greeting, counts as a lost connection.
async fn connect(connector: &Connector) -> Result<DriverConnection, ConnectFailure> {
    let connecting = AssertUnwindSafe(connector.connect(CONNECT_TIMEOUT)).catch_unwind();
    connecting.await.unwrap_or_else(|_| {
        let error = std::io::Error::other("the driver panicked on the server's response");
        Err(ConnectFailure::new(DbErrorKind::Lost, error))
    })
}

async fn serve_detached(inner: &PoolInner, mut request: DetachedRequest) {
    let connector = request.connector.map_or_else(|| inner.connector(), Arc::new);
    tokio::select! {
        opened = connect(&connector) => {
            // The caller may have been dropped.
            let _ = request.reply.send(opened);
        }
        () = request.reply.closed() => {}
    }
}

/// A reserved slot, released on drop unless the connection was opened.
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
