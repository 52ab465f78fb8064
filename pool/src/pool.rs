//! The pool itself: opening, operations, changes, closing.

pub(crate) mod builder;

use std::{sync::Arc, time::Duration};

use sea_orm::{DatabaseConnection, TransactionOptions};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    connect::{
        connector::{ConnectFailure, Connector},
        driver_options::DriverOptions,
        url::{DatabaseUrl, Engine},
    },
    error::{CloseError, ConnectError, Error, ReconfigureError},
    error_kind::{DbErrorKind, connection_error},
    exec::connection::Connection,
    exec::{
        operation::{self, Kind, operate},
        pooled::PooledConnection,
        runtime::PoolRuntime,
    },
    inner::{
        PoolInner,
        connections::{CLOSE_TIMEOUT, open_connections},
        housekeeper::keep_house,
        probe::PING_TIMEOUT,
        requests::ConnectProgress,
    },
    options::{InvalidOption, PoolOptions},
    set::Access,
    stats::metrics::PoolMetrics,
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
    /// Opens the pool and warms it to `min` connections, or one.
    ///
    /// A database that is still starting is waited for, `options.acquire` at the most. [`builder`](Self::builder) sets more
    /// than URL and options say.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] says which URL (without its password) could not be reached and why.
    pub async fn connect(url: &DatabaseUrl, options: &PoolOptions) -> Result<Self, ConnectError> {
        Self::open(url, options, &Arc::default()).await
    }

    async fn open(url: &DatabaseUrl, options: &PoolOptions, own: &Arc<DriverOptions>) -> Result<Self, ConnectError> {
        let options = fitted(url, options)?;
        let runtime = PoolRuntime::start(options.threads).map_err(ConnectError::Runtime)?;
        let metrics = PoolMetrics::new(&options.application_name)
            .map_err(|error| ConnectError::Runtime(std::io::Error::other(format!("{error:?}"))))?;
        let connector = Connector::new(url, &options, own).map_err(|_| ConnectError::EngineDisabled(url.engine()))?;
        let inner = Arc::new(PoolInner::new(options, connector, metrics, runtime.handle()));
        runtime.spawn(open_connections(Arc::clone(&inner)));
        if let Err(error) = warm_up(&inner).await {
            inner.stop_admission();
            return Err(error);
        }
        runtime.spawn(keep_house(Arc::clone(&inner)));
        warn_of_weak_tls(url);
        Ok(Self(Arc::new(PoolParts { inner, runtime })))
    }

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

    /// Changes limits and credentials while operations continue. Nothing in flight is cut.
    ///
    /// All options take effect but `statement_timeout`, `application_name` and `threads`. New credentials are tried
    /// first; connections with the old ones are replaced as they come back.
    ///
    /// # Errors
    ///
    /// [`ReconfigureError`]; when the credentials are refused, the old ones stay and the limits are changed all the same.
    pub async fn reconfigure(&self, url: &DatabaseUrl, options: &PoolOptions) -> Result<(), ReconfigureError> {
        let inner = self.inner();
        let connector = inner.connector();
        let current = inner.options();
        if !url.differs_in_credentials_only(connector.url()) {
            return Err(ReconfigureError::AnotherDatabase);
        }
        let mut next = fitted(url, options)?;
        next.statement_timeout = current.statement_timeout;
        next.application_name.clone_from(&current.application_name);
        next.threads = current.threads;
        let new = connector.with_url(url, &next).map_err(|_| ReconfigureError::AnotherDatabase)?;
        let waits_for_locks = inner.engine == Engine::Sqlite && next.acquire != current.acquire;
        inner.set_options(next);
        if url == connector.url() {
            // SQLite's busy time-out is a setting of each connection.
            if waits_for_locks && !url.is_in_memory() {
                inner.set_connector(connector.with_busy_timeout(inner.options().acquire));
            }
            return Ok(());
        }
        let began = Instant::now();
        let opened = inner.open_aside(Some(new.clone())).await.ok_or(ReconfigureError::Closed)?;
        let connection = opened.map_err(|failure| ReconfigureError::Refused {
            kind: failure.kind,
            cause: connection_error(failure.source),
        })?;
        let generation = inner.set_connector(new);
        inner.adopt(connection, generation, began.elapsed());
        Ok(())
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

/// The options, adapted to the database.
fn fitted(url: &DatabaseUrl, options: &PoolOptions) -> Result<PoolOptions, InvalidOption> {
    options.validate()?;
    let mut options = options.clone();
    if url.is_in_memory() {
        // An in-memory database dies with its last connection, so there is one, and it stays.
        (options.max, options.min) = (1, 1);
        (options.idle, options.lifetime) = (Duration::ZERO, Duration::ZERO);
    }
    Ok(options)
}

/// Logged once per pool: without verification, TLS is no protection from an attacker between here and the server.
fn warn_of_weak_tls(url: &DatabaseUrl) {
    const ADVICE: &str = "sslmode=verify-full (PostgreSQL), ssl-mode=VERIFY_IDENTITY (MySQL)";
    if url.is_unverified() {
        tracing::warn!(host = url.host(), advice = ADVICE, "database connection is not verified");
    }
}

/// Waits until the database answers, then until `min` connections are open or one cannot be opened.
async fn warm_up(inner: &Arc<PoolInner>) -> Result<(), ConnectError> {
    let (began, wait) = (Instant::now(), inner.options().acquire);
    let connector = inner.connector();
    let mut progress = inner.connect_progress();
    let mut has_warned = false;
    loop {
        if inner.admission.connections().counts().open > 0 {
            break;
        }
        let failure = progress.borrow_and_update().failure.clone();
        if let Some(failure) = &failure {
            if failure.kind.is_final() || failure.kind == DbErrorKind::Other {
                return Err(unreachable(&connector, began, failure.clone()));
            }
            if !std::mem::replace(&mut has_warned, true) {
                let error = failure.detail();
                tracing::warn!(url = %connector.url(), error, ?wait, "database unreachable; retrying");
            }
        }
        if !matches!(timeout_at(began + wait, progress.changed()).await, Ok(Ok(()))) {
            let failure = last_failure(&progress.borrow());
            return Err(unreachable(&connector, began, failure));
        }
    }
    // The housekeeper keeps trying afterwards.
    let min = inner.options().min;
    let is_warm = |inner: &PoolInner| {
        inner.admission.connections().counts().staying() >= min || inner.connect_progress().borrow().failure.is_some()
    };
    inner.replenish();
    // At most as long as for the first connection; the rest is opened in the background.
    let _ = timeout_at(began + wait, inner.until(is_warm)).await;
    Ok(())
}

/// The cause to report after the time-out: the last failure if the current attempt has only just begun, otherwise that the
/// current attempt got no answer.
fn last_failure(progress: &ConnectProgress) -> ConnectFailure {
    let had_time = progress.began.is_none_or(|began| began.elapsed() >= PING_TIMEOUT);
    progress.failure.clone().filter(|_| !had_time || !progress.is_under_way()).unwrap_or_else(ConnectFailure::silent)
}

fn unreachable(connector: &Connector, began: Instant, failure: ConnectFailure) -> ConnectError {
    ConnectError::Unreachable {
        url: connector.url().to_string(),
        waited: began.elapsed(),
        kind: failure.kind,
        cause: connection_error(failure.source),
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("engine", &self.engine()).field("status", &self.status()).finish()
    }
}
