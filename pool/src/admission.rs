//! Who may use a connection, who waits, and who is told to come back later.
//!
//! A permit of the semaphore is a connection that nobody uses. Whoever gets one takes the connection that goes with it;
//! whoever gives a connection back adds one. So the queue in front of the connections is tokio's own, which is fair,
//! and an operation never waits for anything but a connection that works.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError},
    time::{Instant, sleep_until, timeout_at},
};

use crate::{
    Engine, PoolOptions, Refusal,
    health::{Health, State},
    store::{Slot, Store},
    ticket::Ticket,
};

/// What an operation is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Read,
    Write,
}

#[derive(Debug)]
pub(crate) struct Admission<T> {
    ready: Semaphore,
    // SQLite has one writer at a time. Waiting for it here is fair, and leaves the connections to readers; waiting
    // inside SQLite is a poll with a connection in hand.
    writer: Option<Arc<Semaphore>>,
    store: Mutex<Store<T>>,
    waiters: Mutex<Waiters>,
    arrivals: AtomicU64,
    thirsty: AtomicU32,
}

/// A connection for one operation, and on SQLite the writer's turn.
#[derive(Debug)]
pub(crate) struct Taken<T> {
    pub(crate) slot: Slot<T>,
    pub(crate) turn: Option<OwnedSemaphorePermit>,
}

/// Whether an operation needs a connection for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Company {
    Alone,
    /// It shares one with others of its kind.
    Shared,
}

#[derive(Debug, Default)]
struct Waiters {
    // By the order in which they came.
    tickets: BTreeMap<u64, (Arc<Ticket>, Company)>,
    /// Those among them that will share.
    shared: usize,
}

/// What an arriving operation has to know of the pool.
pub(crate) struct Terms<'a> {
    pub(crate) options: &'a PoolOptions,
    pub(crate) health: &'a Health,
    /// How long connections are held, on average; zero if that is not known yet.
    pub(crate) mean_hold: Duration,
    /// Called when somebody waits for a connection, so that one more is opened if there may be one more.
    pub(crate) demand: &'a (dyn Fn() + Sync),
}

impl<T> Admission<T> {
    pub(crate) fn new(max: u32, engine: Engine) -> Self {
        Self {
            ready: Semaphore::new(0),
            writer: (engine == Engine::Sqlite).then(|| Arc::new(Semaphore::new(1))),
            store: Mutex::new(Store::new(max)),
            waiters: Mutex::default(),
            arrivals: AtomicU64::new(0),
            thirsty: AtomicU32::new(0),
        }
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store<T>> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a connection, at once or after a fair wait. Dropping the future leaves the queue.
    pub(crate) async fn enter(&self, ticket: &Arc<Ticket>, lane: Lane, terms: &Terms<'_>) -> Result<Taken<T>, Refusal> {
        if !terms.health.is_down() {
            match self.try_enter(ticket, lane) {
                Ok(taken) => return Ok(taken),
                Err(TryAcquireError::Closed) => return Err(Refusal::Closing),
                Err(TryAcquireError::NoPermits) => {}
            }
        }
        let began = Instant::now();
        let patience = began + terms.options.acquire;
        let limit = ticket.deadline().map_or(patience, |deadline| deadline.min(patience));
        let number = self.join(ticket, lane, Company::Alone, terms, limit)?;
        let _waiter = Waiter { admission: self, number };
        self.wait(ticket, lane, terms, began, limit).await
    }

    /// Gives a connection to somebody who does not count as waiting: those for whom it is are in the queue one by one.
    pub(crate) async fn enter_for_others(
        &self,
        ticket: &Arc<Ticket>,
        lane: Lane,
        terms: &Terms<'_>,
    ) -> Result<Taken<T>, Refusal> {
        let began = Instant::now();
        self.wait(ticket, lane, terms, began, began + terms.options.acquire).await
    }

    async fn wait(
        &self,
        ticket: &Arc<Ticket>,
        lane: Lane,
        terms: &Terms<'_>,
        began: Instant,
        limit: Instant,
    ) -> Result<Taken<T>, Refusal> {
        // The writer's turn first: who waits for it must not hold a connection that a reader could use.
        let turn = match self.writer_for(lane) {
            None => None,
            Some(writer) => match timeout_at(limit, writer.acquire_owned()).await {
                Ok(turn) => Some(turn.map_err(|_| Refusal::Closing)?),
                Err(_) => return Err(Refusal::TimedOut { waited: began.elapsed() }),
            },
        };
        let slot = self.wait_for_slot(ticket, terms, began, limit).await?;
        Ok(Taken { slot, turn })
    }

    async fn wait_for_slot(
        &self,
        ticket: &Arc<Ticket>,
        terms: &Terms<'_>,
        began: Instant,
        limit: Instant,
    ) -> Result<Slot<T>, Refusal> {
        let mut state = terms.health.watch();
        let _thirst = Thirst::new(&self.thirsty);
        loop {
            let outage = match &*state.borrow_and_update() {
                State::Down { trouble } => Some(trouble.clone()),
                _ => None,
            };
            if let Some(trouble) = outage {
                // A blip may pass; an outage is told at once.
                let blip = (trouble.since + terms.options.outage_wait).min(limit);
                let down = Refusal::Down { fault: trouble.fault, detail: trouble.detail };
                if self.ready.is_closed() {
                    return Err(Refusal::Closing);
                }
                match timeout_at(blip, state.changed()).await {
                    Ok(Ok(())) => continue,
                    _ => return Err(down),
                }
            }
            (terms.demand)();
            tokio::select! {
                biased;
                permit = self.ready.acquire() => match permit {
                    Ok(permit) => {
                        permit.forget();
                        if let Some(slot) = self.store().hold(Arc::clone(ticket), Instant::now()) {
                            return Ok(slot);
                        }
                    }
                    Err(AcquireError { .. }) => return Err(Refusal::Closing),
                },
                _ = state.wait_for(|state| matches!(state, State::Down { .. })) => {}
                () = sleep_until(limit) => return Err(Refusal::TimedOut { waited: began.elapsed() }),
            }
        }
    }

    /// Gives a connection if one is free.
    pub(crate) fn try_enter(&self, ticket: &Arc<Ticket>, lane: Lane) -> Result<Taken<T>, TryAcquireError> {
        let turn = self.writer_for(lane).map(Semaphore::try_acquire_owned).transpose()?;
        self.ready.try_acquire()?.forget();
        let slot = self.store().hold(Arc::clone(ticket), Instant::now()).ok_or(TryAcquireError::NoPermits)?;
        Ok(Taken { slot, turn })
    }

    fn writer_for(&self, lane: Lane) -> Option<Arc<Semaphore>> {
        self.writer.as_ref().filter(|_| lane == Lane::Write).map(Arc::clone)
    }

    /// Joins the queue, unless that is full or hopeless. Gives a number to [`leave`](Self::leave) with.
    pub(crate) fn join(
        &self,
        ticket: &Arc<Ticket>,
        lane: Lane,
        company: Company,
        terms: &Terms<'_>,
        limit: Instant,
    ) -> Result<u64, Refusal> {
        let options = terms.options;
        let (servers, room) = match self.writer_for(lane) {
            Some(writer) if writer.available_permits() == 0 => (1, 0),
            _ => {
                let store = self.store();
                // Whoever has a connection coming is not one too many.
                (store.max(), store.max().saturating_sub(store.live()))
            }
        };
        let mut waiters = self.waiters();
        let before = waiters.tickets.len();
        let beyond = before.saturating_sub(room as usize);
        let is_one_too_many = before >= room as usize;
        if is_one_too_many && !options.wait {
            return Err(Refusal::AllInUse);
        }
        if is_one_too_many && options.queue_limit != 0 && beyond >= options.queue_limit {
            return Err(Refusal::QueueFull { limit: options.queue_limit });
        }
        // Those that share a connection are served together, so many at a time.
        let sharing = waiters.shared.min(beyond);
        let turns = beyond - sharing + sharing.div_ceil(options.batch_max.max(1));
        let places = u32::try_from(turns + 1).unwrap_or(u32::MAX);
        let predicted = terms.mean_hold.saturating_mul(places) / servers.max(1);
        if is_one_too_many && predicted > limit.saturating_duration_since(Instant::now()) {
            return Err(Refusal::TooLate { predicted });
        }
        let number = self.arrivals.fetch_add(1, Ordering::Relaxed);
        waiters.tickets.insert(number, (Arc::clone(ticket), company));
        waiters.shared += usize::from(company == Company::Shared);
        Ok(number)
    }

    /// Leaves the queue, whether with a connection or not.
    pub(crate) fn leave(&self, numbers: impl IntoIterator<Item = u64>) {
        let mut waiters = self.waiters();
        for number in numbers {
            if let Some((_, Company::Shared)) = waiters.tickets.remove(&number) {
                waiters.shared -= 1;
            }
        }
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection is free for the next one.
    pub(crate) fn offer(&self, slot: Slot<T>) {
        self.store().rest(slot);
        self.ready.add_permits(1);
    }

    /// Takes a resting connection out of turn, to look after it, if there is one that is `wanted` and nobody waits.
    pub(crate) fn pick(&self, wanted: impl Fn(&Slot<T>) -> bool) -> Option<Slot<T>> {
        let permit = self.ready.try_acquire().ok()?;
        let slot = self.store().pick(wanted)?;
        permit.forget();
        Some(slot)
    }

    /// Takes every connection that rests, once nobody is let in any more.
    pub(crate) fn clear(&self) -> Vec<Slot<T>> {
        debug_assert!(self.is_closed(), "a permit would be left without its connection");
        std::iter::from_fn(|| self.store().pick(|_| true)).collect()
    }

    /// From now on nobody is let in, and those who wait are sent away.
    pub(crate) fn close(&self) {
        self.ready.close();
        if let Some(writer) = &self.writer {
            writer.close();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.ready.is_closed()
    }

    pub(crate) fn waiting(&self) -> u32 {
        u32::try_from(self.waiters().tickets.len()).unwrap_or(u32::MAX)
    }

    /// Those that wait for a connection, and not for the writer's turn.
    pub(crate) fn thirsty(&self) -> u32 {
        self.thirsty.load(Ordering::Acquire)
    }

    /// Those that have waited longest.
    pub(crate) fn longest_waiters(&self, count: usize) -> Vec<Arc<Ticket>> {
        self.waiters().tickets.values().take(count).map(|(ticket, _)| Arc::clone(ticket)).collect()
    }
}

/// One place in the queue, left when dropped.
struct Waiter<'a, T> {
    admission: &'a Admission<T>,
    number: u64,
}

impl<T> Drop for Waiter<'_, T> {
    fn drop(&mut self) {
        self.admission.leave([self.number]);
    }
}

struct Thirst<'a>(&'a AtomicU32);

impl<'a> Thirst<'a> {
    fn new(thirsty: &'a AtomicU32) -> Self {
        thirsty.fetch_add(1, Ordering::AcqRel);
        Self(thirsty)
    }
}

impl Drop for Thirst<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests;
