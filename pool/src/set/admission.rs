//! Admission: which operation gets a connection now, which waits for one, and which is refused.
//!
//! A permit of the semaphore stands for an idle connection: an operation with a permit takes a connection from the set,
//! and a returned connection adds a permit. So the queue for connections is tokio's, which is fair, and an operation
//! only ever waits for connections that work.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    acquire_error::AcquireError,
    connection_set::ConnectionSet,
    entry::{CloseReason, PoolEntry},
};
use crate::{
    connect::url::Engine,
    context::OperationContext,
    health::{Health, State},
    options::PoolOptions,
};

/// Whether an operation reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

#[derive(Debug)]
pub(crate) struct Admission<T> {
    ready: Semaphore,
    // SQLite has one writer at a time. Waiting for it here is fair, and leaves the connections to readers; waiting
    // inside SQLite polls while it holds a connection.
    writer: Option<Arc<Semaphore>>,
    connections: ConnectionSet<T>,
    waiters: Mutex<Waiters>,
    arrivals: AtomicU64,
    pending: AtomicU32,
}

/// A connection for one operation, and on SQLite the writer permit.
#[derive(Debug)]
pub(crate) struct Admitted<T> {
    pub(crate) entry: PoolEntry<T>,
    pub(crate) turn: Option<OwnedSemaphorePermit>,
}

/// Whether an operation needs a separate connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaiterKind {
    Single,
    /// Shares one with the other operations of its batch.
    Batched,
}

#[derive(Debug, Default)]
struct Waiters {
    // In order of arrival.
    contexts: BTreeMap<u64, (Arc<OperationContext>, WaiterKind)>,
    /// How many of them are batched.
    batched: usize,
}

/// Parameters of admission that the rest of the pool supplies.
pub(crate) struct AdmissionParams<'a> {
    pub(crate) options: &'a PoolOptions,
    pub(crate) health: &'a Health,
    /// The mean hold time; zero if it is not known yet.
    pub(crate) mean_hold: Duration,
    /// Called when an operation waits, so that another connection is opened if the limits allow it.
    pub(crate) demand: &'a (dyn Fn() + Sync),
}

impl<T> Admission<T> {
    pub(crate) fn new(max: u32, engine: Engine) -> Self {
        Self {
            ready: Semaphore::new(0),
            writer: (engine == Engine::Sqlite).then(|| Arc::new(Semaphore::new(1))),
            connections: ConnectionSet::new(max),
            waiters: Mutex::default(),
            arrivals: AtomicU64::new(0),
            pending: AtomicU32::new(0),
        }
    }

    pub(crate) fn connections(&self) -> &ConnectionSet<T> {
        &self.connections
    }

    /// Returns a connection, immediately or after waiting in the queue. Dropping the future leaves the queue.
    pub(crate) async fn acquire(
        &self,
        context: &Arc<OperationContext>,
        access: Access,
        params: &AdmissionParams<'_>,
    ) -> Result<Admitted<T>, AcquireError> {
        if !params.health.is_down() {
            match self.try_acquire(context, access) {
                Ok(admitted) => return Ok(admitted),
                Err(TryAcquireError::Closed) => return Err(AcquireError::Closing),
                Err(TryAcquireError::NoPermits) => {}
            }
        }
        let began = Instant::now();
        let latest = began + params.options.acquire;
        let limit = context.deadline().map_or(latest, |deadline| deadline.min(latest));
        let number = self.join(context, access, WaiterKind::Single, params, limit)?;
        let _waiter = Waiter { admission: self, number };
        self.wait(context, access, params, began, limit).await
    }

    /// Returns a connection for a batch, which is not counted as a waiter: its members are queued individually.
    pub(crate) async fn acquire_for_batch(
        &self,
        context: &Arc<OperationContext>,
        access: Access,
        params: &AdmissionParams<'_>,
    ) -> Result<Admitted<T>, AcquireError> {
        let began = Instant::now();
        self.wait(context, access, params, began, began + params.options.acquire).await
    }

    async fn wait(
        &self,
        context: &Arc<OperationContext>,
        access: Access,
        params: &AdmissionParams<'_>,
        began: Instant,
        limit: Instant,
    ) -> Result<Admitted<T>, AcquireError> {
        // The writer permit first: a waiting writer must not hold a connection that a reader could use.
        let turn = match self.writer_for(access) {
            None => None,
            Some(writer) => match timeout_at(limit, writer.acquire_owned()).await {
                Ok(turn) => Some(turn.map_err(|_| AcquireError::Closing)?),
                Err(_) => return Err(AcquireError::TimedOut { waited: began.elapsed() }),
            },
        };
        let entry = self.wait_for_connection(context, params, began, limit).await?;
        Ok(Admitted { entry, turn })
    }

    async fn wait_for_connection(
        &self,
        context: &Arc<OperationContext>,
        params: &AdmissionParams<'_>,
        began: Instant,
        limit: Instant,
    ) -> Result<PoolEntry<T>, AcquireError> {
        let mut state = params.health.watch();
        let _pending = PendingGuard::new(&self.pending);
        loop {
            let outage = match &*state.borrow_and_update() {
                State::Down { incident } => Some(incident.clone()),
                _ => None,
            };
            if let Some(incident) = outage {
                // A short interruption is waited out; a longer outage is reported immediately.
                let wait_until = (incident.since + params.options.outage_wait).min(limit);
                if self.ready.is_closed() {
                    return Err(AcquireError::Closing);
                }
                match timeout_at(wait_until, state.changed()).await {
                    Ok(Ok(())) => continue,
                    _ => return Err(AcquireError::Down { kind: incident.kind, detail: incident.detail }),
                }
            }
            (params.demand)();
            tokio::select! {
                biased;
                permit = self.ready.acquire() => match permit {
                    Ok(permit) => {
                        permit.forget();
                        if let Some(entry) = self.connections.take(context) {
                            return Ok(entry);
                        }
                    }
                    Err(_) => return Err(AcquireError::Closing),
                },
                _ = state.wait_for(|state| matches!(state, State::Down { .. })) => {}
                () = sleep_until(limit) => return Err(AcquireError::TimedOut { waited: began.elapsed() }),
            }
        }
    }

    /// Returns a connection if one is idle.
    pub(crate) fn try_acquire(
        &self,
        context: &Arc<OperationContext>,
        access: Access,
    ) -> Result<Admitted<T>, TryAcquireError> {
        let turn = self.writer_for(access).map(Semaphore::try_acquire_owned).transpose()?;
        self.ready.try_acquire()?.forget();
        let entry = self.connections.take(context).ok_or(TryAcquireError::NoPermits)?;
        Ok(Admitted { entry, turn })
    }

    fn writer_for(&self, access: Access) -> Option<Arc<Semaphore>> {
        self.writer.as_ref().filter(|_| access == Access::Write).map(Arc::clone)
    }

    /// Joins the queue, unless it is full or the wait would be too long. Returns a number for [`leave`](Self::leave).
    pub(crate) fn join(
        &self,
        context: &Arc<OperationContext>,
        access: Access,
        kind: WaiterKind,
        params: &AdmissionParams<'_>,
        limit: Instant,
    ) -> Result<u64, AcquireError> {
        let options = params.options;
        let (parallelism, free) = match self.writer_for(access) {
            Some(writer) if writer.available_permits() == 0 => (1, 0),
            _ => {
                let counts = self.connections.counts();
                // An operation for which a connection can still be opened does not count against the limit.
                (counts.max, counts.max.saturating_sub(counts.staying()))
            }
        };
        let mut waiters = self.waiters();
        let ahead = waiters.contexts.len();
        let queued = ahead.saturating_sub(free as usize);
        let must_queue = ahead >= free as usize;
        if must_queue && !options.wait {
            return Err(AcquireError::AllInUse);
        }
        if must_queue && options.queue_limit != 0 && queued >= options.queue_limit {
            return Err(AcquireError::QueueFull { limit: options.queue_limit });
        }
        // Batched operations are served together, up to the batch limit at a time.
        let batched = waiters.batched.min(queued);
        let rounds = queued - batched + batched.div_ceil(options.batch_limit());
        let position = u32::try_from(rounds + 1).unwrap_or(u32::MAX);
        let predicted = params.mean_hold.saturating_mul(position) / parallelism.max(1);
        if must_queue && predicted > limit.saturating_duration_since(Instant::now()) {
            return Err(AcquireError::TooLate { predicted });
        }
        let number = self.arrivals.fetch_add(1, Ordering::Relaxed);
        waiters.contexts.insert(number, (Arc::clone(context), kind));
        waiters.batched += usize::from(kind == WaiterKind::Batched);
        Ok(number)
    }

    /// Leaves the queue, with a connection or without.
    pub(crate) fn leave(&self, numbers: impl IntoIterator<Item = u64>) {
        let mut waiters = self.waiters();
        for number in numbers {
            if let Some((_, WaiterKind::Batched)) = waiters.contexts.remove(&number) {
                waiters.batched -= 1;
            }
        }
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a connection to the pool, for the next waiter if there is one. If it has to be closed, hands it back
    /// with the reason.
    pub(crate) fn check_in(
        &self,
        entry: PoolEntry<T>,
        lifetime: Duration,
        generation: u32,
    ) -> Result<(), (PoolEntry<T>, CloseReason)> {
        self.connections.check_in(entry, lifetime, generation)?;
        self.ready.add_permits(1);
        Ok(())
    }

    /// Takes an idle connection that is `wanted`, if no operation waits for it.
    pub(crate) fn take_idle_if(&self, wanted: impl Fn(&PoolEntry<T>) -> bool) -> Option<PoolEntry<T>> {
        let permit = self.ready.try_acquire().ok()?;
        let entry = self.connections.take_idle_if(wanted)?;
        permit.forget();
        Some(entry)
    }

    /// Refuses waiting and new operations. Returns the idle connections, to be closed.
    pub(crate) fn close(&self) -> Vec<PoolEntry<T>> {
        self.ready.close();
        if let Some(writer) = &self.writer {
            writer.close();
        }
        self.connections.close()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.ready.is_closed()
    }

    pub(crate) fn waiting(&self) -> u32 {
        u32::try_from(self.waiters().contexts.len()).unwrap_or(u32::MAX)
    }

    /// Returns how many operations wait for a connection rather than for the writer permit.
    pub(crate) fn pending(&self) -> u32 {
        self.pending.load(Ordering::Acquire)
    }

    /// Returns the operations that have waited longest.
    pub(crate) fn longest_waiters(&self, count: usize) -> Vec<Arc<OperationContext>> {
        self.waiters().contexts.values().take(count).map(|(context, _)| Arc::clone(context)).collect()
    }
}

/// A place in the queue, which is left on drop.
struct Waiter<'a, T> {
    admission: &'a Admission<T>,
    number: u64,
}

impl<T> Drop for Waiter<'_, T> {
    fn drop(&mut self) {
        self.admission.leave([self.number]);
    }
}

struct PendingGuard<'a>(&'a AtomicU32);

impl<'a> PendingGuard<'a> {
    fn new(pending: &'a AtomicU32) -> Self {
        pending.fetch_add(1, Ordering::AcqRel);
        Self(pending)
    }
}

impl Drop for PendingGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests;
