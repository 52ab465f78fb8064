//! Work in bulk: operations that come one after the other without end, and would take every connection if they could.
//!
//! They wait for each other before they stand in the queue, so that never more than their share of the pool is theirs; and
//! while others are being served, a place that one has left stays empty for a time, so that no more than their share of the
//! database's time is theirs either.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use sea_orm::TransactionOptions;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use crate::{Bulk, Connection, Error, Pool, PoolOptions, Refusal, core::Core, operation::Kind};

/// The places that work in bulk has at the moment.
#[derive(Default)]
pub(crate) struct Share {
    taken: AtomicU32,
    waiting: AtomicU32,
    freed: Notify,
    /// Operations in bulk that have been done.
    done: AtomicU64,
    /// Whether others were served during the last one.
    gives_way: AtomicBool,
}

/// The longest time that a place is left empty.
const LONGEST_REST: Duration = Duration::from_secs(1);

impl PoolOptions {
    /// How many connections work in bulk may use at once: its share, but one at the least, and never all unless there is
    /// but one.
    #[must_use]
    pub fn bulk_places(&self) -> u32 {
        let share = u64::from(self.max) * u64::from(self.bulk_share) / 100;
        u32::try_from(share).unwrap_or(self.max).min(self.max.saturating_sub(1)).max(1)
    }
}

impl Pool {
    /// As [`read`](Self::read), on the share of those who work in bulk (`bulk_share`): it waits for the others among them
    /// as long as it takes, and only then for a connection. No more than `queue_limit` wait so.
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
        let place = Place::take(&self.inner.core, operation).await?;
        self.operate_in(operation, Kind::Read, Some(place), body).await
    }

    /// Whether work in bulk gives way at the moment, since others were served during its last operation: better many small
    /// operations then than a few large ones.
    #[must_use]
    pub fn bulk_gives_way(&self) -> bool {
        self.inner.core.bulk.gives_way.load(Ordering::Relaxed)
    }

    /// As [`transaction`](Self::transaction), on the share of those who work in bulk.
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
        let place = Place::take(&self.inner.core, operation).await?;
        self.operate_in(operation, Kind::Transaction(options), Some(place), body).await
    }
}

/// One of the places, until it is dropped.
pub(crate) struct Place {
    core: Arc<Core>,
    taken: Instant,
    others: u64,
}

impl Place {
    async fn take(core: &Arc<Core>, operation: &'static str) -> Result<Self, Error> {
        let share = &core.bulk;
        let mut waiting = None;
        loop {
            let mut freed = std::pin::pin!(share.freed.notified());
            // From here on nothing that is freed is missed.
            freed.as_mut().enable();
            // Read each time: the options may change.
            let most = core.options().bulk_places();
            let taken = share
                .taken
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| (taken < most).then_some(taken + 1));
            if taken.is_ok() {
                return Ok(Self { core: Arc::clone(core), taken: Instant::now(), others: others(core) });
            }
            if waiting.is_none() {
                let limit = core.options().queue_limit;
                let Some(joined) = Waiting::join(&share.waiting, limit) else {
                    return Err(core.refusal(operation, Refusal::QueueFull { limit }));
                };
                waiting = Some(joined);
            }
            freed.await;
        }
    }

    /// The work is done. If others were served meanwhile, nobody has this place for a time: a database that is busy with
    /// bulk makes everybody wait, on whatever connection.
    pub(crate) fn leave(self) {
        self.core.bulk.done.fetch_add(1, Ordering::Relaxed);
        let gives_way = others(&self.core) != self.others;
        self.core.bulk.gives_way.store(gives_way, Ordering::Relaxed);
        if !gives_way {
            return;
        }
        let share = self.core.options().bulk_share.clamp(1, 100);
        let rest = (self.taken.elapsed() * (100 - share) / share).min(LONGEST_REST);
        self.core.handle.clone().spawn(async move {
            sleep(rest).await;
            drop(self);
        });
    }
}

/// One who waits for a place, until it is dropped.
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

impl Share {
    pub(crate) fn counts(&self, options: &PoolOptions) -> Bulk {
        Bulk {
            places: options.bulk_places(),
            taken: self.taken.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }
}

/// How many operations of others have been done.
fn others(core: &Core) -> u64 {
    core.record.operations().saturating_sub(core.bulk.done.load(Ordering::Relaxed))
}

impl Drop for Place {
    fn drop(&mut self) {
        self.core.bulk.taken.fetch_sub(1, Ordering::AcqRel);
        self.core.bulk.freed.notify_one();
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
}
