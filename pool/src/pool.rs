//! The pool itself: opening, operations, changes, closing.

use std::{sync::Arc, time::Duration};

use sea_orm::{DatabaseConnection, TransactionOptions};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::{
    ChangeError, CloseError, ConnectError, Connection, DatabaseUrl, Engine, Error, Fault, InvalidOption, PoolOptions,
    Snapshot, Status,
    admission::Lane,
    core::{Core, GOODBYE, SIGN_OF_LIFE},
    fault::connection_error,
    health::words,
    keeper::keep,
    operation::Kind,
    record::{Closing, Record},
    runtime::PoolRuntime,
    target::{DialError, Target},
};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The one pool of a process. Clones share it.
#[derive(Clone)]
pub struct Pool {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    // Before `runtime`: connections are dropped while the runtime that owns their sockets still stands.
    pub(crate) core: Arc<Core>,
    pub(crate) runtime: PoolRuntime,
}

impl Pool {
    /// Opens the pool and warms it to `min` connections, or one.
    ///
    /// A database that is still starting is waited for, `options.acquire` at the most.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] says which URL (without its password) could not be reached and why.
    pub async fn connect(url: &DatabaseUrl, options: &PoolOptions) -> Result<Self, ConnectError> {
        let options = fitted(url, options)?;
        let runtime = PoolRuntime::start(options.threads).map_err(ConnectError::Runtime)?;
        let record = Record::new(&options.application_name)
            .map_err(|error| ConnectError::Runtime(std::io::Error::other(format!("{error:?}"))))?;
        let target = Target::new(url, &options);
        let core = Arc::new(Core::new(options, target, record, runtime.handle()));
        let opened = runtime.spawn({
            let core = Arc::clone(&core);
            async move { open(&core).await }
        });
        opened.await.map_err(|_| ConnectError::Interrupted)??;
        runtime.spawn(keep(Arc::clone(&core)));
        warn_of_weak_tls(url);
        Ok(Self { inner: Arc::new(Inner { core, runtime }) })
    }

    /// The engine behind the pool.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.inner.core.engine
    }

    /// Runs an operation that changes nothing.
    ///
    /// `operation` names it in traces, logs and refusals (`users.find`). The body runs on the pool's runtime, on one
    /// connection, one statement after the other; use [`transaction`](Self::transaction) where several must see the
    /// same state. If the connection dies underneath, the body is run again on another one.
    ///
    /// # Errors
    ///
    /// What the body gives, or [`Error`] converted into it when the operation was refused or panicked.
    pub async fn read<T, E, F, Fut>(&self, operation: &'static str, body: F) -> Result<T, E>
    where
        F: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.operate(operation, Kind::Read, body).await
    }

    /// Runs an operation that writes with a single statement. On SQLite writes take turns.
    ///
    /// It is run again only if its first statement was rolled back by the database, as after a deadlock. When a
    /// connection dies under it, nobody knows whether the write took effect, and the error is the caller's.
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
        self.operate(operation, Kind::Write, body).await
    }

    /// Runs a body inside one transaction: committed when it gives `Ok`, rolled back when it gives `Err`.
    ///
    /// The options ask for an isolation level and an access mode; `TransactionOptions::default()` takes the server's.
    /// After a deadlock or a serialization failure, at the commit as well, the whole transaction is run again after a
    /// random pause, as long as somebody waits for it. So is one whose connection died before the commit was sent. The
    /// body must therefore leave no traces outside the database.
    ///
    /// On SQLite the transaction is `IMMEDIATE`, unless it is read-only: a deferred one that turns into a writer
    /// ignores the busy time-out.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub async fn transaction<T, E, F, Fut>(
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
        self.operate(operation, Kind::Transaction(options), body).await
    }

    /// Runs an operation with a SeaORM `DatabaseConnection` of its own, for code that takes nothing else, such as
    /// `sea-orm-migration`. It takes a place of the pool, and one more connection than that for as long as it runs;
    /// `statement_timeout` does not apply on PostgreSQL.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read); it is never run again.
    pub async fn direct<T, E, F, Fut>(&self, operation: &'static str, body: F) -> Result<T, E>
    where
        F: FnOnce(DatabaseConnection) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let (ticket, mut lease) = self.arrive(operation, Lane::Write, &self.span(operation)).await?;
        let core = Arc::clone(&self.inner.core);
        let work = async move {
            let database = core.target().0.direct(core.options().acquire);
            let outcome = body(database.clone()).await;
            // A statement that was dropped half-way keeps its connection busy.
            if let Ok(Err(error)) = timeout(GOODBYE, database.close()).await {
                tracing::warn!(operation, %error, "a connection was not closed cleanly");
            }
            if let Some(slot) = lease.take() {
                lease.end_unlike_others(slot);
            }
            core.record.ended(1, outcome.is_ok());
            outcome
        };
        self.await_task(ticket, work).await
    }

    /// Whether the database answers, as far as is known or else by asking it. Never queues behind operations.
    ///
    /// While it is down the cause is told at once; otherwise an answer within the last second will do.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with the cause.
    pub async fn check(&self) -> Result<(), Error> {
        const FRESH: Duration = Duration::from_secs(1);
        let core = Arc::clone(&self.inner.core);
        core.refuse_if_down("pool.check")?;
        if core.health.silence() < FRESH || core.is_in_memory() {
            return Ok(());
        }
        let looking = Arc::clone(&core);
        let looked = self.inner.runtime.spawn(async move { looking.look().await.is_ok() });
        if looked.await.is_err() {
            return Err(Error::Closed);
        }
        core.refuse_if_down("pool.check")
    }

    /// What keeps the database from taking writes, if a write has met it lately.
    #[must_use]
    pub fn impairment(&self) -> Option<Fault> {
        self.inner.core.health.impairment().map(|trouble| trouble.fault)
    }

    /// Connections and operations at this moment.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner.core.status()
    }

    /// Everything that the pool can tell of itself.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.inner.core.snapshot()
    }

    /// Sets the gauges of the `metrics` crate to what is so now; counters and histograms need no asking. To be called
    /// before metrics are read.
    pub fn publish(&self) {
        let core = &self.inner.core;
        core.record.publish(&self.status(), &core.options(), core.handle.metrics().num_alive_tasks());
    }

    /// Changes limits and credentials while everything goes on. Nothing in flight is cut.
    ///
    /// All options take effect but `statement_timeout`, `application_name` and `threads`. New credentials are tried
    /// first; connections with the old ones are replaced as they come back.
    ///
    /// # Errors
    ///
    /// [`ChangeError`]; when the credentials are refused, the old ones stay and the limits are changed all the same.
    pub async fn change(&self, url: &DatabaseUrl, options: &PoolOptions) -> Result<(), ChangeError> {
        let core = &self.inner.core;
        let target = core.target().0;
        let now = core.options();
        if !url.differs_in_credentials_only(target.url()) {
            return Err(ChangeError::AnotherDatabase);
        }
        let mut next = fitted(url, options)?;
        next.statement_timeout = now.statement_timeout;
        next.application_name.clone_from(&now.application_name);
        next.threads = now.threads;
        let refused =
            |error: DialError| ChangeError::Refused { fault: error.fault, cause: connection_error(error.source) };
        let new = Target::new(url, &next);
        core.set_options(next);
        if url == target.url() {
            return Ok(());
        }
        let began = Instant::now();
        let dialing = {
            let (core, new) = (Arc::clone(core), new.clone());
            self.inner.runtime.spawn(async move { core.dial_to(&new, SIGN_OF_LIFE).await })
        };
        let raw = dialing.await.map_err(|_| ChangeError::Closed)?.map_err(refused)?;
        let generation = core.set_target(new);
        core.admission.store().dials(1);
        core.welcome(raw, generation, began.elapsed());
        Ok(())
    }

    /// Refuses what waits and what comes from now on; what runs goes on.
    pub fn drain(&self) {
        self.inner.core.admission.close();
        self.inner.core.attention.notify_one();
    }

    /// Refuses what waits and what comes, waits for what runs, and closes every connection.
    ///
    /// # Errors
    ///
    /// [`CloseError`] names the operations that had to be left behind after `limit`. They are ended with the runtime.
    pub async fn close(&self, limit: Duration) -> Result<(), CloseError> {
        let core = &self.inner.core;
        self.drain();
        let until = Instant::now() + limit;
        let closed = loop {
            let changed = core.changed.notified();
            for slot in core.admission.clear() {
                core.close(slot, Closing::Ending);
            }
            if core.admission.store().live() == 0 {
                break Ok(());
            }
            if timeout_at(until, changed).await.is_err() {
                let operations = core.admission.store().holders().map(|holder| holder.ticket.operation).collect();
                break Err(CloseError { limit, operations });
            }
        };
        self.inner.runtime.end().await;
        closed
    }
}

impl Core {
    fn refuse_if_down(&self, operation: &'static str) -> Result<(), Error> {
        if self.health.is_down() { Err(self.refusal_of_outage(operation)) } else { Ok(()) }
    }

    /// A refusal with the cause of the outage.
    pub(crate) fn refusal_of_outage(&self, operation: &'static str) -> Error {
        match self.health.state() {
            crate::health::State::Down { trouble } => {
                self.refusal(operation, crate::Refusal::Down { fault: trouble.fault, detail: trouble.detail })
            }
            // It came back in between.
            _ => self.refusal(operation, crate::Refusal::TimedOut { waited: Duration::ZERO }),
        }
    }
}

/// The options as this database can bear them.
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

/// Waits until the database answers, then warms the pool.
async fn open(core: &Arc<Core>) -> Result<(), ConnectError> {
    let began = Instant::now();
    let (options, (target, generation)) = (core.options(), core.target());
    let unreachable = |error: DialError| ConnectError::Unreachable {
        url: target.url().to_string(),
        waited: began.elapsed(),
        fault: error.fault,
        cause: connection_error(error.source),
    };
    let mut pause = FIRST_PAUSE;
    let mut before: Option<DialError> = None;
    let raw = loop {
        let left = options.acquire.saturating_sub(began.elapsed());
        let error = match core.dial_to(&target, left).await {
            Ok(raw) => break raw,
            Err(error) if error.fault.is_final() || error.fault == Fault::Other => return Err(unreachable(error)),
            // It had hardly any time, so that it was too late says less than why the one before it failed.
            Err(error) if error.fault == Fault::Silent && left < SIGN_OF_LIFE => before.take().unwrap_or(error),
            Err(error) => error,
        };
        let left = options.acquire.saturating_sub(began.elapsed());
        if left <= pause {
            // The last cause says more than a time-out would.
            sleep(left).await;
            return Err(unreachable(error));
        }
        if pause == FIRST_PAUSE {
            let cause = words(&error.source);
            tracing::warn!(url = %target.url(), error = cause, wait = ?options.acquire, "the database is not there yet; waiting for it");
        }
        before = Some(error);
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    };
    core.admission.store().dials(1);
    core.welcome(raw, generation, began.elapsed());
    // As many as were wanted and could be had; the keeper goes on trying.
    loop {
        let changed = core.changed.notified();
        if core.admission.store().staying() >= options.min || !core.is_growing() {
            return Ok(());
        }
        changed.await;
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("engine", &self.engine()).field("status", &self.status()).finish()
    }
}
