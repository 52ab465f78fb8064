//! Bulk work: long sequences of operations, such as imports and exports, that would otherwise use every connection.
//!
//! A bulk operation needs a permit before it enters the queue, which limits bulk work to its share of the connections. While
//! other operations run, a permit pauses before it is returned, which limits bulk work to its share of the database's time.

use std::{sync::Arc, time::Duration};

use sea_orm::TransactionOptions;
use tokio::time::{Instant, sleep};

use crate::{
    error::Error,
    exec::{
        connection::Connection,
        operation::{Kind, operate},
    },
    inner::PoolInner,
    pool::Pool,
};

/// The longest pause of a permit.
const LONGEST_REST: Duration = Duration::from_secs(1);

impl Pool {
    /// As [`read`](Self::read), on the share of bulk work (`bulk_share`): it waits for a permit without a time limit,
    /// and only then for a connection. At most `queue_limit` operations wait for a permit.
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
    pub async fn bulk_transaction<T, E, F, Fut>(&self, operation: &'static str, body: F) -> Result<T, E>
    where
        F: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.operate_in_bulk(operation, Kind::Transaction(TransactionOptions::default()), body).await
    }

    /// Whether other operations ran during the last bulk operation. If so, prefer many small bulk operations to a few large
    /// ones.
    #[must_use]
    pub fn bulk_gives_way(&self) -> bool {
        self.inner().metrics.bulk_gives_way()
    }

    async fn operate_in_bulk<T, E, F, Fut>(&self, operation: &'static str, kind: Kind, body: F) -> Result<T, E>
    where
        F: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let permit = BulkPermit::acquire(self.inner(), operation).await?;
        // The task holds the permit until it ends, even if the caller is dropped.
        operate(self.inner(), self.runtime(), operation, kind, body, move || permit.rest()).await
    }
}

/// A permit for one bulk operation, given back when dropped.
struct BulkPermit {
    inner: Arc<PoolInner>,
    taken: Instant,
    /// Operations of others that had ended when it was taken.
    others: u64,
}

impl BulkPermit {
    async fn acquire(inner: &Arc<PoolInner>, operation: &'static str) -> Result<Self, Error> {
        let acquired = inner.bulk.acquire(inner.options().queue_limit).await;
        acquired.map_err(|reason| inner.refusal(operation, reason))?;
        Ok(Self { inner: Arc::clone(inner), taken: Instant::now(), others: inner.metrics.other_than_bulk() })
    }

    /// Ends the operation. If other operations ran meanwhile, the permit is returned after a pause: a database that is busy
    /// with bulk work slows every connection down.
    fn rest(self) {
        let metrics = &self.inner.metrics;
        metrics.bulk_ended();
        let gives_way = metrics.other_than_bulk() != self.others;
        metrics.set_bulk_gives_way(gives_way);
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
        self.inner.bulk.give_back();
    }
}
