//! The pool itself: operations, state, closing.

pub(crate) mod builder;
mod open;
mod reconfigure;

use std::{sync::Arc, time::Duration};

use sea_orm::{DatabaseConnection, TransactionOptions};
use tokio::time::timeout;

use crate::{
    connect::url::Engine,
    error::{CloseError, Error},
    error_kind::DbErrorKind,
    exec::{
        connection::Connection,
        operation::{self, Kind, operate},
        pooled::PooledConnection,
        runtime::PoolRuntime,
    },
    inner::{PoolInner, connections::CLOSE_TIMEOUT},
    set::Access,
    stats::snapshot::{Snapshot, Status},
};

/// The one pool of a process. Clones share it.
#[derive(Clone)]
pub struct Pool(Arc<PoolParts>);

struct PoolParts {
    // Before `runtime`: connections are dropped while the runtime that owns their sockets still stands.
    inner: Arc<PoolInner>,
    runtime: PoolRuntime,
}

impl Pool {
    pub(crate) fn inner(&self) -> &Arc<PoolInner> {
        &self.0.inner
    }

    pub(crate) fn runtime(&self) -> &PoolRuntime {
        &self.0.runtime
    }

    /// The engine behind the pool.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.inner().engine
    }

    /// Acquires a connection and holds it until the guard is dropped.
    ///
    /// On SQLite it also takes the writer's turn: use [`acquire_reader`](Self::acquire_reader) for what only reads.
    ///
    /// ```no_run
    /// # use sea_orm::{ConnectionTrait, TransactionTrait, TransactionSession};
    /// # async fn example(pool: orm_pool::Pool) -> Result<(), Box<dyn std::error::Error>> {
    /// let connection = pool.acquire("notes.import").await?;
    /// let transaction = connection.begin().await?;
    /// transaction.execute_unprepared("DELETE FROM notes").await?;
    /// transaction.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if no connection becomes available in time; [`Error::Nested`] inside another operation.
    pub async fn acquire(&self, operation: &'static str) -> Result<PooledConnection, Error> {
        PooledConnection::acquire(self.inner(), self.runtime(), operation, Access::Write).await
    }

    /// As [`acquire`](Self::acquire), for what only reads.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn acquire_reader(&self, operation: &'static str) -> Result<PooledConnection, Error> {
        PooledConnection::acquire(self.inner(), self.runtime(), operation, Access::Read).await
    }

    /// Runs an operation that changes nothing.
    ///
    /// `operation` names it in traces, logs and refusals (`users.find`). The body runs on the pool's runtime, on one
    /// connection, one statement after the other; use [`transaction`](Self::transaction) where several must see the
    /// same state. If the connection dies, the body is run again on another one.
    ///
    /// # Errors
    ///
    /// What the body returns, or [`Error`] converted into it when the operation was refused or panicked.
    pub async fn read<T, E, F, Fut>(&self, operation: &'static str, body: F) -> Result<T, E>
    where
        F: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        operate(self.inner(), self.runtime(), operation, Kind::Read, body, || ()).await
    }

    /// Runs an operation that writes with a single statement. On SQLite writes take turns.
    ///
    /// It is run again only if its first statement was rolled back by the database, as after a deadlock. When a
    /// connection dies under it, it is not known whether the write took effect, and the error is the caller's.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub async fn write<T, E, F, Fut>(&self, operation: &'static str, body: F) -> Result<T, E>
    where
        F: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        operate(self.inner(), self.runtime(), operation, Kind::Write, body, || ()).await
    }

    /// Runs a body inside one transaction: committed when it returns `Ok`, rolled back when it returns `Err`.
    ///
    /// After a deadlock or a serialization failure, at the commit as well, the whole transaction is run again after a
    /// random pause, as long as the caller waits for it. So is one whose connection died before the commit was sent. The
    /// body must therefore leave no traces outside the database.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub async fn transaction<T, E, F, Fut>(&self, operation: &'static str, body: F) -> Result<T, E>
    where
        F: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.transaction_with(operation, TransactionOptions::default(), body).await
    }

    /// As [`transaction`](Self::transaction), with an isolation level or an access mode.
    ///
    /// On SQLite the transaction is `IMMEDIATE`, unless it is read-only: a deferred one that turns into a writer
    /// ignores the busy time-out.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub async fn transaction_with<T, E, F, Fut>(
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
        operate(self.inner(), self.runtime(), operation, Kind::Transaction(options), body, || ()).await
    }

    /// Runs an operation with a separate SeaORM `DatabaseConnection`, for code that takes nothing else, such as
    /// `sea-orm-migration`. It takes a place of the pool, and one more connection than that for as long as it runs;
    /// `statement_timeout` does not apply on PostgreSQL.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read); it is never run again.
    pub async fn with_database_connection<T, E, F, Fut>(&self, operation: &'static str, body: F) -> Result<T, E>
    where
        F: FnOnce(DatabaseConnection) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let span = operation::span(self.inner(), operation);
        let (context, mut lease) =
            operation::arrive(self.inner(), self.runtime(), operation, Access::Write, &span).await?;
        let inner = Arc::clone(self.inner());
        let work = async move {
            let database = inner.connector().database_connection(inner.options().acquire);
            let outcome = body(database.clone()).await;
            // A statement that was dropped half-way keeps its connection busy.
            if let Ok(Err(error)) = timeout(CLOSE_TIMEOUT, database.close()).await {
                tracing::warn!(operation, %error, "a connection was not closed cleanly");
            }
            if let Some(entry) = lease.take() {
                lease.end_unlike_others(entry);
            }
            inner.metrics.ended(1, outcome.is_ok());
            outcome
        };
        operation::await_task(self.runtime(), context, work).await
    }

    /// Checks whether the database answers, by what was heard last or else by asking it. Never waits behind operations.
    ///
    /// While it is down the cause is returned at once; otherwise an answer within the last second is enough.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with the cause.
    pub async fn ping(&self) -> Result<(), Error> {
        self.inner().ping().await.map_err(|reason| self.inner().refusal("pool.ping", reason))
    }

    /// Why the database refuses statements, if an operation has met that recently.
    #[must_use]
    pub fn impairment(&self) -> Option<DbErrorKind> {
        self.inner().health.impairment().map(|incident| incident.kind)
    }

    /// Connections and operations at this moment.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner().status()
    }

    /// The state of the pool at this moment, and what has happened.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.inner().snapshot()
    }

    /// Sets the gauges of the `metrics` crate to the values of this moment; counters and histograms are always up to date.
    /// To be called before metrics are read.
    pub fn update_gauges(&self) {
        let inner = self.inner();
        inner.metrics.update_gauges(&self.status(), &inner.options(), inner.handle.metrics().num_alive_tasks());
    }

    /// Refuses waiting and new operations. Running operations continue.
    pub fn drain(&self) {
        self.inner().stop_admission();
    }

    /// Refuses waiting and new operations, waits for running ones, and closes every connection.
    ///
    /// # Errors
    ///
    /// [`CloseError`] names the operations that had to be left behind after `limit`. They are ended with the runtime.
    pub async fn close(&self, limit: Duration) -> Result<(), CloseError> {
        self.drain();
        let inner = self.inner();
        let are_closed = inner.until(|inner| inner.admission.connections().counts().open == 0);
        let closed = timeout(limit, are_closed).await.map_err(|_| {
            let holders = inner.admission.connections().holders();
            CloseError { limit, operations: holders.iter().map(|holder| holder.context.operation).collect() }
        });
        self.runtime().end().await;
        closed
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("engine", &self.engine()).field("status", &self.status()).finish()
    }
}
