//! Bulk operations: long sequences of operations, such as imports and exports, that would otherwise use every
//! connection.
//!
//! A bulk operation acquires a permit before it enters the queue, which limits bulk operations to their share of the
//! connections. While other operations run, permits are returned after a pause, which limits bulk operations to their
//! share of the database's time.

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

/// The maximum pause before a permit is returned.
const MAX_PAUSE: Duration = Duration::from_secs(1);

impl Pool {
    /// Like [`read`](Self::read), on the share of bulk operations (`bulk_share`): it first waits for a permit, without
    /// a time limit, and then for a connection. At most `queue_limit` operations wait for a permit.
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
        self.bulk_operate(operation, Kind::Read, body).await
    }

    /// Like [`transaction`](Self::transaction), on the share of bulk operations.
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
        self.bulk_operate(operation, Kind::Transaction(TransactionOptions::default()), body).await
    }

    /// Returns whether other operations ran during the last bulk operation. If so, prefer many small bulk operations to
    /// a few large ones.
    #[must_use]
    pub fn bulk_is_yielding(&self) -> bool {
        self.inner().metrics.bulk_is_yielding()
    }

    async fn bulk_operate<T, E, F, Fut>(&self, operation: &'static str, kind: Kind, body: F) -> Result<T, E>
    where
        F: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let permit = BulkPermit::acquire(self.inner(), operation).await?;
        // The task holds the permit until it ends, even if the caller is dropped.
        operate(self.inner(), self.runtime(), operation, kind, body, move || permit.release()).await
    }
}

/// A permit for one bulk operation, returned on drop.
struct BulkPermit {
    inner: Arc<PoolInner>,
    acquired_at: Instant,
    /// The number of other operations that had ended when the permit was acquired.
    others_ended: u64,
}

impl BulkPermit {
    async fn acquire(inner: &Arc<PoolInner>, operation: &'static str) -> Result<Self, Error> {
        let acquired = inner.bulk.acquire(inner.options().queue_limit).await;
        acquired.map_err(|reason| inner.refusal(operation, reason))?;
        let others_ended = inner.metrics.other_than_bulk();
        Ok(Self { inner: Arc::clone(inner), acquired_at: Instant::now(), others_ended })
    }

    /// Ends the operation. If other operations ran concurrently, the permit is returned after a pause: a database that
    /// is busy with bulk operations slows every connection down.
    fn release(self) {
        let metrics = &self.inner.metrics;
        metrics.bulk_ended();
        let is_yielding = metrics.other_than_bulk() != self.others_ended;
        metrics.set_bulk_is_yielding(is_yielding);
        if !is_yielding {
            return;
        }
        let share = self.inner.options().bulk_share.clamp(1, 100);
        let pause = (self.acquired_at.elapsed() * (100 - share) / share).min(MAX_PAUSE);
        self.inner.handle.clone().spawn(async move {
            sleep(pause).await;
            drop(self);
        });
    }
}

impl Drop for BulkPermit {
    fn drop(&mut self) {
        self.inner.bulk.release();
    }
}
