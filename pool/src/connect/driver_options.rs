//! Settings of the application beyond the URL: driver options, pragmas and hooks.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use log::LevelFilter;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, Statement, sqlx};
use tokio::sync::Mutex;

use super::{
    driver::DriverMut,
    hooks::{BeforeRoundTrip, PasswordSource},
};
use crate::error_kind::{DbErrorKind, PoolError, driver_error, exec_error, query_error};

/// The target of the driver's log of statements.
const DRIVER_LOG: &str = "sqlx::query";
const SLOW_STATEMENT: Duration = Duration::from_secs(1);

/// Adjusts the connect options of a driver.
pub(crate) type MapOptions<O> = Arc<dyn Fn(O) -> O + Send + Sync>;
/// A hook that runs on each new connection.
pub(crate) type AfterConnect = Arc<dyn for<'a> Fn(NewConnection<'a>) -> BoxFuture<'a, Result<(), DbErr>> + Send + Sync>;

/// Settings of the application beyond the URL.
#[derive(Clone, Default)]
pub(crate) struct DriverOptions {
    #[cfg(feature = "sqlite")]
    pub(crate) map_sqlite: Option<MapOptions<sqlx::sqlite::SqliteConnectOptions>>,
    #[cfg(feature = "postgres")]
    pub(crate) map_postgres: Option<MapOptions<sqlx::postgres::PgConnectOptions>>,
    #[cfg(feature = "mysql")]
    pub(crate) map_mysql: Option<MapOptions<sqlx::mysql::MySqlConnectOptions>>,
    #[cfg(feature = "sqlite")]
    pub(crate) pragmas: Vec<(String, String)>,
    pub(crate) after_connect: Option<AfterConnect>,
    pub(crate) before_round_trip: Option<BeforeRoundTrip>,
    pub(crate) password: Option<PasswordSource>,
}

impl DriverOptions {
    /// Returns the password for the next connection; `None` for that of the URL.
    ///
    /// # Errors
    ///
    /// [`DbErrorKind::PasswordUnavailable`] if its source fails.
    pub(super) async fn password(&self) -> Result<Option<String>, sqlx::Error> {
        let Some(source) = &self.password else { return Ok(None) };
        source()
            .await
            .map(Some)
            .map_err(|error| PoolError::with_kind(DbErrorKind::PasswordUnavailable, error.to_string()))
    }

    /// Runs `after_connect` on a connection that has just been opened.
    pub(super) async fn run_after_connect(&self, driver: DriverMut<'_>) -> Result<(), sqlx::Error> {
        let Some(after_connect) = &self.after_connect else { return Ok(()) };
        after_connect(NewConnection::new(driver)).await.map_err(driver_error)
    }
}

/// Logs slow statements at `warn`, and all statements at `debug` if that level is enabled when the pool is created, then
/// applies the application's changes.
pub(super) fn apply<O: sqlx::ConnectOptions>(options: O, map: Option<&MapOptions<O>>) -> O {
    // Otherwise the driver would ask the subscriber for each statement.
    let is_logged = tracing::enabled!(target: DRIVER_LOG, tracing::Level::DEBUG)
        || log::log_enabled!(target: DRIVER_LOG, log::Level::Debug);
    let level = if is_logged { LevelFilter::Debug } else { LevelFilter::Off };
    let options = options.log_statements(level).log_slow_statements(LevelFilter::Warn, SLOW_STATEMENT);
    match map {
        Some(map) => map(options),
        None => options,
    }
}

/// A connection that has just been opened, before its first operation: see
/// [`PoolBuilder::after_connect`](crate::PoolBuilder::after_connect).
#[derive(Debug)]
pub struct NewConnection<'a> {
    backend: DbBackend,
    driver: Mutex<DriverMut<'a>>,
}

impl<'a> NewConnection<'a> {
    fn new(driver: DriverMut<'a>) -> Self {
        Self { backend: driver.backend(), driver: Mutex::new(driver) }
    }
}

#[async_trait::async_trait]
impl ConnectionTrait for NewConnection<'_> {
    fn get_database_backend(&self) -> DbBackend {
        self.backend
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.driver.lock().await.execute(statement).await.map_err(exec_error)
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.driver.lock().await.execute_unprepared(sql).await.map_err(exec_error)
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.driver.lock().await.query_one(statement).await.map_err(query_error)
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.driver.lock().await.query_all(statement).await.map_err(query_error)
    }
}
