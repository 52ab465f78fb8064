//! The public interface of the pool: run operations, acquire connections, close. `open` and `reconfigure` are in
//! submodules; `crate::batch` and `crate::bulk` add the methods for batches and bulk operations.

pub(crate) mod builder;
mod open;
mod reconfigure;

use std::{sync::Arc, time::Duration};

use sea_orm::{DatabaseConnection, DbErr, TransactionOptions};
use tokio::time::timeout;

use crate::{
    connect::url::Engine,
    error::{CloseError, Error},
    error_kind::{DbErrorKind, connection_error},
    exec::{
        connection::Connection,
        operation::{self, Kind, operate},
        pooled::PooledConnection,
        runtime::PoolRuntime,
    },
    inner::{PoolInner, connections::CLOSE_TIMEOUT},
    set::Access,
    stats::{
        detailed_snapshot::DetailedSnapshot,
        snapshot::{Snapshot, Status},
    },
};

/// A connection pool. Clones share it.
#[derive(Clone)]
pub struct Pool(Arc<PoolParts>);

struct PoolParts {
    // Declared before `runtime`: connections must be dropped before the runtime that their sockets are bound to.
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

    /// Returns the database engine.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.inner().engine
    }

    /// Acquires a connection and holds it until the guard is dropped.
    ///
    /// On SQLite the guard also excludes other writers: use [`acquire_reader`](Self::acquire_reader) for reads.
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

    /// Like [`acquire`](Self::acquire), for reads only.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn acquire_reader(&self, operation: &'static str) -> Result<PooledConnection, Error> {
        PooledConnection::acquire(self.inner(), self.runtime(), operation, Access::Read).await
    }

    /// Runs a read-only operation.
    ///
    /// `operation` names it in traces, logs and errors (`users.find`). The body runs on the pool's runtime, on one
    /// connection. After a conflict or a lost connection the body is retried, so it must not have side effects outside
    /// the database. The pool does not enforce that it only reads: a write in the body may take effect more than once.
    ///
    /// Several statements may see different states; if they must see the same, use
    /// [`transaction_with`](Self::transaction_with) and `RepeatableRead`, because PostgreSQL's default is
    /// `READ COMMITTED`.
    ///
    /// # Errors
    ///
    /// Returns the body's error, or an [`Error`] converted into `E` if the operation was refused, aborted or panicked.
    pub async fn read<T, E, F, Fut>(&self, operation: &'static str, body: F) -> Result<T, E>
    where
        F: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        operate(self.inner(), self.runtime(), operation, Kind::Read, body, || ()).await
    }

    /// Runs an operation that writes with a single statement. On SQLite writes run one at a time.
    ///
    /// The body is retried only if the database has rolled its first statement back, as after a deadlock, or has not
    /// executed it. So it may run more than once, and must not have side effects outside the database. If the
    /// connection is lost, the write may have taken effect, so the error is returned. The pool does not enforce the
    /// single statement; use [`transaction`](Self::transaction) for several.
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

    /// Runs the body in a transaction, which is committed if it returns `Ok` and rolled back if it returns `Err`.
    ///
    /// After a deadlock or a serialization failure, also at the commit, the whole transaction is retried after a random
    /// pause: at most 10 attempts, and no retry after the caller's deadline or, without a deadline, after `acquire`. It
    /// is also retried, with at most 5 attempts, if the connection is lost before the commit is sent. Therefore the
    /// body may run more than once, and must not have side effects outside the database.
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

    /// Like [`transaction`](Self::transaction), with an isolation level or an access mode.
    ///
    /// On SQLite the transaction is `IMMEDIATE` unless it is read-only: a deferred transaction that becomes a writer
    /// ignores the busy timeout.
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

    /// Runs an operation with a separate SeaORM `DatabaseConnection`, for code that requires one, such as
    /// `sea-orm-migration`. The operation also occupies a connection of the pool, so that at most `max` operations run:
    /// the database sees up to `max + 1` connections, or more if several such operations run at the same time.
    /// Statements on the separate connection have no timeout.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read); it is never retried.
    pub async fn with_database_connection<T, E, F, Fut>(&self, operation: &'static str, body: F) -> Result<T, E>
    where
        F: FnOnce(DatabaseConnection) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let span = operation::span(self.inner(), operation);
        let (context, mut lease) =
            operation::admit(self.inner(), self.runtime(), operation, Access::Write, &span).await?;
        let inner = Arc::clone(self.inner());
        let work = async move {
            let database = match inner.connector().database_connection(inner.options().acquire).await {
                Ok(database) => database,
                Err(error) => return Err(Error::from(connection_error(Arc::new(error))).into()),
            };
            let outcome = body(database.clone()).await;
            // With a timeout, because `close` also waits for the response to a statement that the body has abandoned.
            if let Ok(Err(error)) = timeout(CLOSE_TIMEOUT, database.close()).await {
                tracing::warn!(operation, %error, "failed to close the database connection");
            }
            if let Some(entry) = lease.take() {
                lease.end_unmeasured(entry);
            }
            inner.metrics.ended(1, outcome.is_ok());
            outcome
        };
        operation::run_task(self.runtime(), context, work).await
    }

    /// Returns a separate SeaORM `DatabaseConnection` that is not part of the pool: it occupies no connection of the pool
    /// and is not counted, and its statements have no timeout. Use it for one long-lived connection, such as one that
    /// waits for notifications of PostgreSQL. It connects at its first use. The caller closes it.
    ///
    /// # Errors
    ///
    /// The source of the password failed: see [`PoolBuilder::password`](crate::PoolBuilder::password).
    pub async fn separate_connection(&self) -> Result<DatabaseConnection, DbErr> {
        let opened = self.inner().connector().database_connection(self.inner().options().acquire).await;
        opened.map_err(|error| connection_error(Arc::new(error)))
    }

    /// Checks whether the database responds, without waiting in the queue.
    ///
    /// A response within the last second is sufficient; otherwise the database is probed. While it is down, the cause
    /// is returned immediately.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with the cause.
    pub async fn ping(&self) -> Result<(), Error> {
        self.inner().ping().await.map_err(|reason| self.inner().refusal("pool.ping", reason))
    }

    /// Returns why the database refuses some statements, such as writes, if an operation has failed for that reason
    /// within the last 10 s.
    #[must_use]
    pub fn impairment(&self) -> Option<DbErrorKind> {
        self.inner().health.impairment().map(|incident| incident.kind)
    }

    /// Returns the current numbers of connections and waiting operations.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner().status()
    }

    /// Returns the current state of the pool, with counters and timings.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.inner().snapshot()
    }

    /// Returns the current state of the pool with each of its connections. It costs more than a [`snapshot`](Self::snapshot);
    /// it is meant for a live picture of the pool.
    #[must_use]
    pub fn detailed_snapshot(&self) -> DetailedSnapshot {
        self.inner().detailed_snapshot()
    }

    /// Updates the gauges of the `metrics` crate. Call it before metrics are read; counters and histograms are always
    /// up to date.
    pub fn update_gauges(&self) {
        self.inner().update_gauges();
    }

    /// Refuses waiting and new operations. Running operations continue.
    pub fn drain(&self) {
        self.inner().stop_admission();
    }

    /// Closes the pool: refuses waiting and new operations, waits for running ones, and closes all connections.
    ///
    /// # Errors
    ///
    /// [`CloseError`] names the operations that were still running after `timeout`. They are aborted.
    pub async fn close(&self, timeout: Duration) -> Result<(), CloseError> {
        self.drain();
        let inner = self.inner();
        let are_closed = inner.until(|inner| inner.admission.connections().counts().open == 0);
        let closed = tokio::time::timeout(timeout, are_closed).await.map_err(|_| {
            let holders = inner.admission.connections().holders();
            for holder in &holders {
                holder.context.abort();
            }
            CloseError { timeout, operations: holders.iter().map(|holder| holder.context.operation).collect() }
        });
        self.runtime().shutdown().await;
        closed
    }
}

impl Drop for PoolParts {
    fn drop(&mut self) {
        // Ends the tasks of the pool, which a runtime of the application outlives.
        self.inner.stop_admission();
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("engine", &self.engine()).field("status", &self.status()).finish()
    }
}
