//! Who may use a connection, who waits, and who is told to come back later.
//!
//! sqlx's pool has a queue too, but it is unbounded and uncounted. This one stands in front of it, so that sqlx's
//! stays empty.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError},
    time::{Instant, timeout},
};

use crate::{Engine, PoolOptions, Refusal};

/// What an operation is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Read,
    Write,
}

pub(crate) struct Admission {
    places: Arc<Semaphore>,
    // SQLite has one writer at a time. Waiting for it here is fair, and leaves the connections to readers; waiting
    // inside SQLite is a poll with a connection in hand.
    writer: Option<Arc<Semaphore>>,
    waiting: AtomicUsize,
    max: u32,
    wait: bool,
    queue_limit: usize,
    acquire: Duration,
}

/// The right to use one connection, given back when dropped.
pub(crate) struct Permit {
    _place: OwnedSemaphorePermit,
    _writer: Option<OwnedSemaphorePermit>,
}

impl Admission {
    pub(crate) fn new(options: &PoolOptions, engine: Engine) -> Self {
        Self {
            places: Arc::new(Semaphore::new(options.max as usize)),
            writer: (engine == Engine::Sqlite).then(|| Arc::new(Semaphore::new(1))),
            waiting: AtomicUsize::new(0),
            max: options.max,
            wait: options.wait,
            queue_limit: options.queue_limit,
            acquire: options.acquire,
        }
    }

    /// Gives a permit, at once or after a fair wait of `acquire` at the most. Dropping the future leaves the queue.
    pub(crate) async fn enter(&self, lane: Lane) -> Result<Permit, Refusal> {
        match self.try_enter(lane) {
            Ok(permit) => return Ok(permit),
            Err(TryAcquireError::Closed) => return Err(Refusal::Closing),
            Err(TryAcquireError::NoPermits) if !self.wait => return Err(Refusal::AllInUse),
            Err(TryAcquireError::NoPermits) => {}
        }
        let _waiter = Waiter::join(&self.waiting, self.queue_limit)?;
        let began = Instant::now();
        match timeout(self.acquire, self.wait_in_turn(lane)).await {
            Ok(permit) => permit.map_err(|_| Refusal::Closing),
            Err(_) => Err(Refusal::TimedOut { waited: began.elapsed() }),
        }
    }

    pub(crate) fn close(&self) {
        self.places.close();
        if let Some(writer) = &self.writer {
            writer.close();
        }
    }

    pub(crate) fn max(&self) -> u32 {
        self.max
    }

    pub(crate) fn in_use(&self) -> u32 {
        let free = u32::try_from(self.places.available_permits()).unwrap_or(self.max);
        self.max.saturating_sub(free)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn try_enter(&self, lane: Lane) -> Result<Permit, TryAcquireError> {
        let writer = self.writer_for(lane).map(Semaphore::try_acquire_owned).transpose()?;
        let place = Arc::clone(&self.places).try_acquire_owned()?;
        Ok(Permit { _place: place, _writer: writer })
    }

    async fn wait_in_turn(&self, lane: Lane) -> Result<Permit, tokio::sync::AcquireError> {
        // The writer's turn first: who waits for it must not hold a place that a reader could use.
        let writer = match self.writer_for(lane) {
            Some(writer) => Some(writer.acquire_owned().await?),
            None => None,
        };
        let place = Arc::clone(&self.places).acquire_owned().await?;
        Ok(Permit { _place: place, _writer: writer })
    }

    fn writer_for(&self, lane: Lane) -> Option<Arc<Semaphore>> {
        self.writer.as_ref().filter(|_| lane == Lane::Write).map(Arc::clone)
    }
}

/// One place in the queue, left when dropped.
struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    fn join(waiting: &'a AtomicUsize, limit: usize) -> Result<Self, Refusal> {
        let before = waiting.fetch_add(1, Ordering::Relaxed);
        let waiter = Self(waiting);
        if limit != 0 && before >= limit {
            return Err(Refusal::QueueFull { limit });
        }
        Ok(waiter)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(engine: Engine, options: &PoolOptions) -> Arc<Admission> {
        Arc::new(Admission::new(options, engine))
    }

    fn small() -> PoolOptions {
        PoolOptions { max: 1, min: 0, queue_limit: 1, acquire: Duration::from_secs(5), ..PoolOptions::default() }
    }

    async fn until(mut condition: impl FnMut() -> bool) {
        while !condition() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refuses_one_more_than_the_queue_holds() {
        let admission = admission(Engine::Postgres, &small());
        let held = admission.enter(Lane::Read).await.unwrap();
        let queued = tokio::spawn({
            let admission = Arc::clone(&admission);
            async move { admission.enter(Lane::Read).await.map(drop) }
        });
        until(|| admission.waiting() == 1).await;
        assert_eq!(admission.enter(Lane::Read).await.err(), Some(Refusal::QueueFull { limit: 1 }));
        assert_eq!(admission.waiting(), 1, "a refusal leaves no trace in the queue");
        drop(held);
        assert_eq!(queued.await.unwrap(), Ok(()));
        assert_eq!((admission.in_use(), admission.waiting()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_limit_of_zero_is_no_limit() {
        let admission = admission(Engine::Postgres, &PoolOptions { queue_limit: 0, ..small() });
        let held = admission.enter(Lane::Read).await.unwrap();
        let queued: Vec<_> = (0..50)
            .map(|_| {
                let admission = Arc::clone(&admission);
                tokio::spawn(async move { admission.enter(Lane::Read).await.map(drop) })
            })
            .collect();
        until(|| admission.waiting() == 50).await;
        drop(held);
        for waiter in queued {
            assert_eq!(waiter.await.unwrap(), Ok(()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_after_acquire() {
        let admission = admission(Engine::Postgres, &small());
        let _held = admission.enter(Lane::Read).await.unwrap();
        let began = Instant::now();
        let refused = admission.enter(Lane::Read).await.err();
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        assert!(matches!(refused, Some(Refusal::TimedOut { .. })), "{refused:?}");
        assert_eq!(admission.waiting(), 0);
    }

    #[tokio::test]
    async fn without_waiting_a_full_pool_refuses_at_once() {
        let admission = admission(Engine::Postgres, &PoolOptions { wait: false, ..small() });
        let _held = admission.enter(Lane::Read).await.unwrap();
        assert_eq!(admission.enter(Lane::Read).await.err(), Some(Refusal::AllInUse));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_goes_away_leaves_the_queue() {
        let admission = admission(Engine::Postgres, &small());
        let held = admission.enter(Lane::Read).await.unwrap();
        let queued = tokio::spawn({
            let admission = Arc::clone(&admission);
            async move { admission.enter(Lane::Read).await.map(drop) }
        });
        until(|| admission.waiting() == 1).await;
        queued.abort();
        assert!(queued.await.unwrap_err().is_cancelled());
        assert_eq!(admission.waiting(), 0);
        drop(held);
        assert!(admission.enter(Lane::Read).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn on_sqlite_writers_take_turns_and_readers_pass() {
        let admission = admission(Engine::Sqlite, &PoolOptions { max: 2, min: 0, queue_limit: 8, ..small() });
        let writing = admission.enter(Lane::Write).await.unwrap();
        let second = tokio::spawn({
            let admission = Arc::clone(&admission);
            async move { admission.enter(Lane::Write).await.map(drop) }
        });
        until(|| admission.waiting() == 1).await;
        assert!(admission.enter(Lane::Read).await.is_ok(), "a waiting writer holds no place");
        drop(writing);
        assert_eq!(second.await.unwrap(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn closing_tells_those_who_wait() {
        let admission = admission(Engine::Postgres, &small());
        let _held = admission.enter(Lane::Read).await.unwrap();
        let queued = tokio::spawn({
            let admission = Arc::clone(&admission);
            async move { admission.enter(Lane::Read).await.map(drop) }
        });
        until(|| admission.waiting() == 1).await;
        admission.close();
        assert_eq!(queued.await.unwrap(), Err(Refusal::Closing));
        assert_eq!(admission.enter(Lane::Read).await.err(), Some(Refusal::Closing));
    }
}
