//! Limits how many bulk operations hold a connection at the same time.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU32, Ordering},
};

use tokio::sync::{Semaphore, TryAcquireError};

use super::acquire_error::AcquireError;
use crate::options::PoolOptions;

/// A fair semaphore for bulk operations, whose size can change.
pub(crate) struct BulkLimiter {
    permits: Semaphore,
    size: Mutex<Size>,
    taken: AtomicU32,
    waiting: AtomicU32,
}

struct Size {
    permits: u32,
    /// Permits that are not reused when they are returned, because the number was reduced.
    surplus: u32,
}

impl BulkLimiter {
    pub(crate) fn new(options: &PoolOptions) -> Self {
        let permits = options.bulk_limit();
        Self {
            permits: Semaphore::new(permits as usize),
            size: Mutex::new(Size { permits, surplus: 0 }),
            taken: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
        }
    }

    fn size(&self) -> MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the number of permits. Permits in use stay valid.
    pub(crate) fn resize(&self, options: &PoolOptions) {
        let permits = options.bulk_limit();
        let mut size = self.size();
        if permits > size.permits {
            let more = permits - size.permits;
            let kept = more.min(size.surplus);
            size.surplus -= kept;
            self.permits.add_permits((more - kept) as usize);
        } else {
            let fewer = size.permits - permits;
            let forgotten = self.permits.forget_permits(fewer as usize);
            size.surplus += fewer - u32::try_from(forgotten).unwrap_or(fewer);
        }
        size.permits = permits;
    }

    /// Refuses waiting and new operations.
    pub(crate) fn close(&self) {
        self.permits.close();
    }

    /// Acquires a permit, in FIFO order; at most `queue_limit` operations wait. Return it with
    /// [`release`](Self::release).
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

    /// Returns the number of permits, of permits in use, and of waiting operations.
    pub(crate) fn usage(&self) -> (u32, u32, u32) {
        (self.size().permits, self.taken.load(Ordering::Relaxed), self.waiting.load(Ordering::Relaxed))
    }

    pub(crate) fn release(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
        let mut size = self.size();
        if size.surplus > 0 {
            size.surplus -= 1;
        } else {
            self.permits.add_permits(1);
        }
    }
}

/// An operation in the queue, which it leaves on drop.
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
    fn permits_in_use_outlast_a_reduction() {
        let options = |bulk_share| PoolOptions { max: 10, bulk_share, ..PoolOptions::default() };
        let release = |limiter: &BulkLimiter| {
            limiter.taken.fetch_add(1, Ordering::Relaxed);
            limiter.release();
        };
        let limiter = BulkLimiter::new(&options(40));
        for _ in 0..3 {
            limiter.permits.try_acquire().unwrap().forget();
        }
        limiter.resize(&options(10));
        assert_eq!(limiter.permits.available_permits(), 0);
        release(&limiter);
        release(&limiter);
        assert_eq!(limiter.permits.available_permits(), 0, "the only permit is still in use");
        limiter.resize(&options(30));
        assert_eq!(limiter.permits.available_permits(), 2);
        release(&limiter);
        assert_eq!(limiter.permits.available_permits(), 3);
    }
}
