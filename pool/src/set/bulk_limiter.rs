//! Permits for bulk work: how many of its operations may use a connection at the same time.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU32, Ordering},
};

use tokio::sync::{Semaphore, TryAcquireError};

use super::acquire_error::AcquireError;
use crate::options::PoolOptions;

/// Permits for bulk work.
pub(crate) struct BulkLimiter {
    permits: Semaphore,
    size: Mutex<Size>,
    taken: AtomicU32,
    waiting: AtomicU32,
}

struct Size {
    places: u32,
    /// Permits that are not given again when they come back, since there are fewer places now.
    surplus: u32,
}

impl BulkLimiter {
    pub(crate) fn new(options: &PoolOptions) -> Self {
        let places = options.bulk_places();
        Self {
            permits: Semaphore::new(places as usize),
            size: Mutex::new(Size { places, surplus: 0 }),
            taken: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
        }
    }

    fn size(&self) -> MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives it another number of permits. What is taken stays taken.
    pub(crate) fn resize(&self, options: &PoolOptions) {
        let places = options.bulk_places();
        let mut size = self.size();
        if places > size.places {
            let more = places - size.places;
            let kept = more.min(size.surplus);
            size.surplus -= kept;
            self.permits.add_permits((more - kept) as usize);
        } else {
            let fewer = size.places - places;
            let forgotten = self.permits.forget_permits(fewer as usize);
            size.surplus += fewer - u32::try_from(forgotten).unwrap_or(fewer);
        }
        size.places = places;
    }

    /// Refuses what waits and what comes from now on.
    pub(crate) fn close(&self) {
        self.permits.close();
    }

    /// Takes a permit, after those that have waited longer; no more than `queue_limit` wait. It is given back by
    /// [`give_back`](Self::give_back).
    pub(crate) async fn acquire(&self, queue_limit: usize) -> Result<(), AcquireError> {
        let permit = match self.permits.try_acquire() {
            Ok(permit) => permit,
            Err(TryAcquireError::Closed) => return Err(AcquireError::Closing),
            Err(TryAcquireError::NoPermits) => {
                let waiting = Waiting::join(&self.waiting, queue_limit);
                let Some(_waiting) = waiting else { return Err(AcquireError::QueueFull { limit: queue_limit }) };
                self.permits.acquire().await.map_err(|_| AcquireError::Closing)?
            }
        };
        permit.forget();
        self.taken.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Permits, those that are taken, and operations that wait for one.
    pub(crate) fn usage(&self) -> (u32, u32, u32) {
        (self.size().places, self.taken.load(Ordering::Relaxed), self.waiting.load(Ordering::Relaxed))
    }

    pub(crate) fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
        let mut size = self.size();
        if size.surplus > 0 {
            size.surplus -= 1;
        } else {
            self.permits.add_permits(1);
        }
    }
}

/// An operation that waits for a permit, until it is dropped.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    /// Returns `None` if the queue is full. A limit of 0 means unlimited.
    fn join(waiting: &'a AtomicU32, limit: usize) -> Option<Self> {
        let is_free = |waiting: u32| (limit == 0 || (waiting as usize) < limit).then_some(waiting + 1);
        waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, is_free).is_ok().then(|| Self(waiting))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_that_are_taken_outlast_a_smaller_size() {
        let options = |bulk_share| PoolOptions { max: 10, bulk_share, ..PoolOptions::default() };
        let give_back = |limiter: &BulkLimiter| {
            limiter.taken.fetch_add(1, Ordering::Relaxed);
            limiter.give_back();
        };
        let limiter = BulkLimiter::new(&options(40));
        for _ in 0..3 {
            limiter.permits.try_acquire().unwrap().forget();
        }
        limiter.resize(&options(10));
        assert_eq!(limiter.permits.available_permits(), 0);
        give_back(&limiter);
        give_back(&limiter);
        assert_eq!(limiter.permits.available_permits(), 0, "one is still taken, and there is one place");
        limiter.resize(&options(30));
        assert_eq!(limiter.permits.available_permits(), 2);
        give_back(&limiter);
        assert_eq!(limiter.permits.available_permits(), 3);
    }
}
