//! One shared, bounded SeaORM connection pool on a runtime of its own.
//!
//! `orm-pool` knows nothing about users, HTTP or settings files, so that any SeaORM service can take it. It wraps
//! SeaORM's own pool (sqlx 0.9 underneath) and adds what that pool leaves to its user:
//!
//! 1. [`DatabaseUrl`] says which [`Engine`] is meant and shows itself without the password.
//! 2. [`PoolOptions`] are the knobs, with their limits.
//! 3. [`Pool::connect`] waits for the database as long as `acquire` allows and tells the true cause if it never comes.
//! 4. [`Pool::read`], [`Pool::write`] and [`Pool::transaction`] run a named operation as a task on the pool's own
//!    runtime. Admission in front of it is fair and bounded; a caller that goes away neither cancels an operation
//!    half-way nor leaks its place.
//! 5. [`Pool::status`] tells what goes on, and [`Pool::close`] ends it within a limit.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use orm_pool::{DatabaseUrl, Error, Pool, PoolOptions};
//! use sea_orm::ConnectionTrait;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let url = DatabaseUrl::parse("sqlite://users.db?mode=rwc")?;
//! let pool = Pool::connect(&url, &PoolOptions::default()).await?;
//! let answer = pool
//!     .read("schema.count", |db| async move {
//!         let row = db.query_one_raw(sea_orm::Statement::from_string(db.get_database_backend(), "SELECT 1")).await?;
//!         Ok::<_, Error>(row.is_some())
//!     })
//!     .await?;
//! assert!(answer);
//! pool.close(Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```

mod admission;
mod connect;
mod error;
mod options;
mod runtime;
#[cfg(test)]
mod tests;
mod url;

use std::{sync::Arc, time::Duration};

use sea_orm::{
    DatabaseConnection, DatabaseTransaction, DbErr, SqliteTransactionMode, TransactionOptions, TransactionTrait,
};
use tracing::Instrument;

use crate::{
    admission::{Admission, Lane},
    runtime::PoolRuntime,
};
pub use crate::{
    error::{CloseError, ConnectError, Error, Refusal},
    options::{InvalidOption, PoolOptions},
    url::{DatabaseUrl, Engine, InvalidUrl},
};

/// The future that a transaction's body gives, borrowed from the transaction it runs in.
pub type TransactionFuture<'t, T, E> = std::pin::Pin<Box<dyn Future<Output = Result<T, E>> + Send + 't>>;

/// The one pool of a process. Clones share it.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    admission: Admission,
    // Before `runtime`: connections are dropped while the runtime that owns their sockets still stands.
    database: DatabaseConnection,
    runtime: PoolRuntime,
}

/// What the pool holds at one moment. Counts, no units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The most connections that there may be.
    pub max: u32,
    /// Open connections, idle or not.
    pub size: u32,
    /// Open connections that nobody uses.
    pub idle: u32,
    /// Operations that hold a place now.
    pub in_use: u32,
    /// Operations that wait for a place now.
    pub waiting: usize,
}

impl Pool {
    /// Opens the pool and warms it to `min` connections.
    ///
    /// A database that is still starting is waited for, `options.acquire` at the most.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] says which URL (without its password) could not be reached and why.
    pub async fn connect(url: &DatabaseUrl, options: &PoolOptions) -> Result<Self, ConnectError> {
        let options = connect::fitted(url, options)?;
        let runtime = PoolRuntime::start(options.threads).map_err(ConnectError::Runtime)?;
        let database = {
            let (url, options) = (url.clone(), options.clone());
            runtime
                .spawn(async move { connect::open(&url, &options).await })
                .await
                .map_err(|_| ConnectError::Interrupted)??
        };
        let admission = Admission::new(&options, url.engine());
        Ok(Self { inner: Arc::new(Inner { engine: url.engine(), admission, database, runtime }) })
    }

    /// The engine behind the pool.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.inner.engine
    }

    /// Runs an operation that changes nothing.
    ///
    /// `operation` names it in traces, logs and refusals (`users.find`). The body runs on the pool's runtime, one
    /// statement after the other; use [`transaction`](Self::transaction) where several must hold together.
    ///
    /// # Errors
    ///
    /// What the body gives, or [`Error`] converted into it when the operation was refused or panicked.
    pub async fn read<T, E, F, Fut>(&self, operation: &'static str, body: F) -> Result<T, E>
    where
        F: FnOnce(DatabaseConnection) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.run(operation, Lane::Read, body).await
    }

    /// Runs an operation that writes with a single statement. On SQLite writes take turns.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub async fn write<T, E, F, Fut>(&self, operation: &'static str, body: F) -> Result<T, E>
    where
        F: FnOnce(DatabaseConnection) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.run(operation, Lane::Write, body).await
    }

    /// Runs a body inside one transaction: committed when it gives `Ok`, rolled back when it gives `Err`.
    ///
    /// On SQLite the transaction is `IMMEDIATE`: a deferred one that turns into a writer ignores the busy time-out.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub async fn transaction<T, E, F>(&self, operation: &'static str, body: F) -> Result<T, E>
    where
        F: for<'t> FnOnce(&'t DatabaseTransaction) -> TransactionFuture<'t, T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.run(operation, Lane::Write, move |database| async move {
            let options = TransactionOptions {
                sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                ..TransactionOptions::default()
            };
            let transaction = database.begin_with_options(options).await.map_err(Error::from)?;
            match body(&transaction).await {
                Ok(value) => {
                    transaction.commit().await.map_err(Error::from)?;
                    Ok(value)
                }
                Err(error) => {
                    // The body's error is the one worth telling; a failed rollback ends the connection anyway.
                    if let Err(rollback) = transaction.rollback().await {
                        tracing::warn!(operation, error = %rollback, "rollback failed");
                    }
                    Err(error)
                }
            }
        })
        .await
    }

    /// Asks the database for an answer, past the queue of users' operations.
    ///
    /// # Errors
    ///
    /// The driver's error, or a time-out when there was no answer within `limit`.
    pub async fn ping(&self, limit: Duration) -> Result<(), Error> {
        let database = self.inner.database.clone();
        let asked = self.inner.runtime.spawn(async move { tokio::time::timeout(limit, database.ping()).await });
        match asked.await {
            Ok(Ok(answer)) => answer.map_err(Error::from),
            Ok(Err(_)) => Err(Error::Silent { waited: limit }),
            Err(_) => Err(Error::Closed),
        }
    }

    /// What the pool holds now.
    #[must_use]
    pub fn status(&self) -> Status {
        let (size, idle) = match self.inner.engine {
            Engine::Sqlite => size_and_idle(self.inner.database.get_sqlite_connection_pool()),
            Engine::Postgres => size_and_idle(self.inner.database.get_postgres_connection_pool()),
            Engine::MySql => size_and_idle(self.inner.database.get_mysql_connection_pool()),
        };
        let admission = &self.inner.admission;
        Status { max: admission.max(), size, idle, in_use: admission.in_use(), waiting: admission.waiting() }
    }

    /// Refuses what waits and what comes, waits for what runs, and closes every connection.
    ///
    /// sqlx's own `close` waits for the last connection without a limit; this one gives up after `limit`.
    ///
    /// # Errors
    ///
    /// [`CloseError`] tells how many operations had to be left behind.
    pub async fn close(&self, limit: Duration) -> Result<(), CloseError> {
        self.inner.admission.close();
        let database = self.inner.database.clone();
        let closing =
            self.inner.runtime.spawn(async move { tokio::time::timeout(limit, database.close_by_ref()).await });
        let closed = match closing.await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(CloseError::Failed(error)),
            Ok(Err(_)) | Err(_) => Err(CloseError::TimedOut { limit, in_use: self.inner.admission.in_use() }),
        };
        self.inner.runtime.end().await;
        closed
    }

    async fn run<T, E, F, Fut>(&self, operation: &'static str, lane: Lane, body: F) -> Result<T, E>
    where
        F: FnOnce(DatabaseConnection) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let permit = self.inner.admission.enter(lane).await.map_err(|reason| Error::Refused {
            operation,
            reason,
            status: self.status(),
        })?;
        let database = self.inner.database.clone();
        let span = tracing::info_span!(
            "operation",
            otel.name = operation,
            otel.kind = "client",
            db.system.name = self.inner.engine.system_name(),
            db.operation.name = operation,
        );
        let task = self.inner.runtime.spawn(
            async move {
                // Held to the end of the operation, whether the caller still waits or not.
                let _permit = permit;
                body(database).await
            }
            .instrument(span),
        );
        match task.await {
            Ok(outcome) => outcome,
            Err(failure) if failure.is_panic() => Err(Error::Panicked { operation }.into()),
            Err(_) => Err(Error::Closed.into()),
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("engine", &self.inner.engine).field("status", &self.status()).finish()
    }
}

fn size_and_idle<DB: sea_orm::sqlx::Database>(pool: &sea_orm::sqlx::Pool<DB>) -> (u32, u32) {
    // sqlx counts idle connections apart from the queue that holds them, so for a moment the count may wrap
    // (sqlx #3645). What is told is never more than what is open.
    let size = pool.size();
    let idle = u32::try_from(pool.num_idle()).unwrap_or(0).min(size);
    (size, idle)
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        Self::Database(error)
    }
}
