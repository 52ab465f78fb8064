//! Bulk work: operations that come one after the other without end, and would take every connection if they could.
//!
//! They wait for permits before they enter the queue, so that they never have more than their share of the pool; and while
//! others are being served, a permit rests for a time before it is given again, so that they have no more than their share
//! of the database's time either.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use sea_orm::TransactionOptions;
use tokio::{
    sync::{Semaphore, TryAcquireError},
    time::{Instant, sleep},
};

use crate::{
    BulkUsage, Error, Pool, PoolOptions,
    exec::{
        connection::Connection,
        operation::{Kind, operate},
    },
    inner::PoolInner,
    set::AcquireError,
};

/// The longest time that a permit rests.
const LONGEST_REST: Duration = Duration::from_secs(1);

impl PoolOptions {
    /// How many connections bulk work may use at once: its share, but one at the least, and never all unless there is only
    /// one.
    #[must_use]
    pub fn bulk_places(&self) -> u32 {
        let share = u64::from(self.max) * u64::from(self.bulk_share) / 100;
        u32::try_from(share).unwrap_or(self.max).min(self.max.saturating_sub(1)).max(1)
    }
}

impl Pool {
    /// As [`read`](Self::read), on the share of bulk work (`bulk_share`): it waits for other bulk operations as long as it
    /// takes, and only then for a connection. No more than `queue_limit` wait so.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub async fn bulk_read<T, E, F, Fut>(&self, operation: &'static str, body: F) -> Result<T, E>
    where
        F: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.operate_in_bulk(operation, Kind::Read, body).await
    }

    /// As [`transaction`](Self::transaction), on the share of bulk work.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub async fn bulk_transaction<T, E, F, Fut>(
        &self,
        operation: &'static str,
        options: TransactionOptions,
        body: F,
    ) -> Result<T, E>
    where
        F: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.operate_in_bulk(operation, Kind::Transaction(options), body).await
    }

    /// Whether bulk work gives way at the moment, since others were served during its last operation: many small operations
    /// are better then than a few large ones.
    #[must_use]
    pub fn bulk_gives_way(&self) -> bool {
        self.bulk().gives_way.load(Ordering::Relaxed)
    }

    async fn operate_in_bulk<T, E, F, Fut>(&self, operation: &'static str, kind: Kind, body: F) -> Result<T, E>
    where
        F: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let permit = BulkPermit::acquire(self.bulk(), self.inner(), operation).await?;
        // The task keeps it to its end, even if the caller goes away.
        operate(self.inner(), self.runtime(), operation, kind, body, move || permit.rest()).await
    }
}

/// Permits for bulk work.
pub(crate) struct BulkLimiter {
    permits: Semaphore,
    size: Mutex<Size>,
    taken: AtomicU32,
    waiting: AtomicU32,
    /// Bulk operations that have ended.
    ended: AtomicU64,
    /// Whether others were served during the last one.
    gives_way: AtomicBool,
}

struct Size {
    places: u32,
    /// Permits that are not given again when they come back, since there are fewer places now.
    surplus: u32,
}

impl BulkLimiter {
    pub(crate) fn new(options: &PoolOptions) -> Arc<Self> {
        let places = options.bulk_places();
        Arc::new(Self {
            permits: Semaphore::new(places as usize),
            size: Mutex::new(Size { places, surplus: 0 }),
            taken: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            ended: AtomicU64::new(0),
            gives_way: AtomicBool::new(false),
        })
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

    pub(crate) fn usage(&self) -> BulkUsage {
        BulkUsage {
            places: self.size().places,
            taken: self.taken.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }

    fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
        let mut size = self.size();
        if size.surplus > 0 {
            size.surplus -= 1;
        } else {
            self.permits.add_permits(1);
        }
    }

    /// How many operations other than bulk work have ended.
    fn others(&self, inner: &PoolInner) -> u64 {
        inner.metrics.operations().saturating_sub(self.ended.load(Ordering::Relaxed))
    }
}

/// A permit for one bulk operation, given back when dropped.
pub(crate) struct BulkPermit {
    limiter: Arc<BulkLimiter>,
    inner: Arc<PoolInner>,
    taken: Instant,
    others: u64,
}

impl BulkPermit {
    async fn acquire(
        limiter: &Arc<BulkLimiter>,
        inner: &Arc<PoolInner>,
        operation: &'static str,
    ) -> Result<Self, Error> {
        let closing = || inner.refusal(operation, AcquireError::Closing);
        let permit = match limiter.permits.try_acquire() {
            Ok(permit) => permit,
            Err(TryAcquireError::Closed) => return Err(closing()),
            Err(TryAcquireError::NoPermits) => {
                let limit = inner.options().queue_limit;
                let Some(_waiting) = Waiting::join(&limiter.waiting, limit) else {
                    return Err(inner.refusal(operation, AcquireError::QueueFull { limit }));
                };
                limiter.permits.acquire().await.map_err(|_| closing())?
            }
        };
        permit.forget();
        limiter.taken.fetch_add(1, Ordering::AcqRel);
        let others = limiter.others(inner);
        Ok(Self { limiter: Arc::clone(limiter), inner: Arc::clone(inner), taken: Instant::now(), others })
    }

    /// The work is done. If others were served meanwhile, the permit is given back after a time: a database that is busy with
    /// bulk work makes all others wait, on whatever connection.
    fn rest(self) {
        self.limiter.ended.fetch_add(1, Ordering::Relaxed);
        let gives_way = self.limiter.others(&self.inner) != self.others;
        self.limiter.gives_way.store(gives_way, Ordering::Relaxed);
        if !gives_way {
            return;
        }
        let share = self.inner.options().bulk_share.clamp(1, 100);
        let rest = (self.taken.elapsed() * (100 - share) / share).min(LONGEST_REST);
        self.inner.handle.clone().spawn(async move {
            sleep(rest).await;
            drop(self);
        });
    }
}

impl Drop for BulkPermit {
    fn drop(&mut self) {
        self.limiter.give_back();
    }
}

/// An operation that waits for a permit, until it is dropped.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    /// `None` if there are as many as there may be; 0 is no limit.
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
    fn a_share_is_never_none_and_never_all() {
        let places = |max, bulk_share| PoolOptions { max, bulk_share, ..PoolOptions::default() }.bulk_places();
        assert_eq!([places(10, 25), places(10, 100), places(10, 1), places(2, 100), places(1, 1)], [2, 9, 1, 1, 1]);
        assert_eq!(places(10_000, 50), 5000);
    }

    #[test]
    fn permits_that_are_taken_outlast_a_smaller_size() {
        let options = |bulk_share| PoolOptions { max: 10, bulk_share, ..PoolOptions::default() };
        let limiter = BulkLimiter::new(&options(40));
        for _ in 0..3 {
            limiter.permits.try_acquire().unwrap().forget();
            limiter.taken.fetch_add(1, Ordering::Relaxed);
        }
        limiter.resize(&options(10));
        assert_eq!(limiter.permits.available_permits(), 0);
        limiter.give_back();
        limiter.give_back();
        assert_eq!(limiter.permits.available_permits(), 0, "one is still taken, and there is one place");
        limiter.resize(&options(30));
        assert_eq!(limiter.permits.available_permits(), 2);
        limiter.give_back();
        assert_eq!(limiter.permits.available_permits(), 3);
    }
}
