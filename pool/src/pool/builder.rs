//! Builds a pool with driver options, pragmas and statements for new connections.

use std::{io, sync::Arc};

use futures_util::future::BoxFuture;
use sea_orm::{DbErr, sqlx};
use tokio::runtime::Handle;

use super::Pool;
use crate::{
    connect::{
        driver_options::{DriverOptions, NewConnection},
        url::DatabaseUrl,
    },
    error::ConnectError,
    options::{InvalidOption, PoolOptions},
};

/// Builds a [`Pool`] with driver options, pragmas, and statements for each new connection. Created by
/// [`Pool::builder`].
///
/// They apply to all connections of the pool, including those that [`Pool::reconfigure`] opens with new credentials and
/// those of [`Pool::with_database_connection`].
#[must_use = "call `connect` to open the pool"]
pub struct PoolBuilder {
    url: DatabaseUrl,
    options: PoolOptions,
    driver_options: DriverOptions,
    runtime: Option<Handle>,
}

impl Pool {
    /// Returns a builder for a pool.
    ///
    /// ```no_run
    /// # use orm_pool::{DatabaseUrl, Pool, PoolOptions};
    /// use sea_orm::ConnectionTrait;
    ///
    /// # async fn example(url: DatabaseUrl) -> Result<(), orm_pool::ConnectError> {
    /// let pool = Pool::builder(&url)
    ///     .options(PoolOptions::default().max(20))
    ///     .sqlite_pragma("cache_size", "-65536")
    ///     .map_sqlx_postgres_opts(|options| options.statement_cache_capacity(500))
    ///     .after_connect(|connection| {
    ///         Box::pin(async move { connection.execute_unprepared("SET ROLE app").await.map(drop) })
    ///     })
    ///     .connect()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(url: &DatabaseUrl) -> PoolBuilder {
        PoolBuilder {
            url: url.clone(),
            options: PoolOptions::default(),
            driver_options: DriverOptions::default(),
            runtime: None,
        }
    }
}

impl PoolBuilder {
    /// Sets the pool options. Defaults to [`PoolOptions::default`].
    pub fn options(mut self, options: PoolOptions) -> Self {
        self.options = options;
        self
    }

    /// Runs the pool on a runtime of the application, such as [`Handle::current`](tokio::runtime::Handle::current),
    /// instead of a dedicated one.
    ///
    /// For an application whose tasks all run on one multi-threaded runtime: an operation then needs no other thread,
    /// which makes single statements about 1.5 times as fast. In return, a task that blocks a thread of the runtime also
    /// delays the pool, and an operation inside another one is only recognized in the same task, not in a task that its
    /// body has spawned. The runtime must outlive the pool; [`PoolOptions::threads`] has no effect.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Sets an SQLite pragma on each new connection, such as `cache_size`, `mmap_size` or `synchronous`. The defaults
    /// are `journal_mode` `WAL`, `synchronous` `FULL` and `foreign_keys` `ON`. Other engines ignore it.
    ///
    /// `busy_timeout` is refused, because it is set by [`PoolOptions::acquire`].
    #[cfg(feature = "sqlite")]
    pub fn sqlite_pragma(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.driver_options.pragmas.push((name.into(), value.into()));
        self
    }

    /// Modifies the options of the SQLite driver, after the URL is applied. The pool sets `busy_timeout` and
    /// `create_if_missing`.
    #[cfg(feature = "sqlite")]
    pub fn map_sqlx_sqlite_opts<F>(mut self, map: F) -> Self
    where
        F: Fn(sqlx::sqlite::SqliteConnectOptions) -> sqlx::sqlite::SqliteConnectOptions + Send + Sync + 'static,
    {
        self.driver_options.map_sqlite = Some(Arc::new(map));
        self
    }

    /// Modifies the options of the PostgreSQL driver, after the URL is applied.
    #[cfg(feature = "postgres")]
    pub fn map_sqlx_postgres_opts<F>(mut self, map: F) -> Self
    where
        F: Fn(sqlx::postgres::PgConnectOptions) -> sqlx::postgres::PgConnectOptions + Send + Sync + 'static,
    {
        self.driver_options.map_postgres = Some(Arc::new(map));
        self
    }

    /// Modifies the options of the driver for MySQL and MariaDB, after the URL is applied. The pool sets the time zone
    /// (UTC), the SQL mode and other settings that it relies on; character set and collation are respected.
    #[cfg(feature = "mysql")]
    pub fn map_sqlx_mysql_opts<F>(mut self, map: F) -> Self
    where
        F: Fn(sqlx::mysql::MySqlConnectOptions) -> sqlx::mysql::MySqlConnectOptions + Send + Sync + 'static,
    {
        self.driver_options.map_mysql = Some(Arc::new(map));
        self
    }

    /// Runs statements on each new connection, before its first operation: `SET ROLE`, `SET search_path`, `LOAD`.
    ///
    /// They run after the pool has configured the session, within the time limit for opening a connection. If one
    /// fails, the connection attempt fails. Behind a connection pooler in transaction mode the settings are not
    /// reliable, because each transaction may use a different session.
    pub fn after_connect<F>(mut self, after_connect: F) -> Self
    where
        F: for<'a> Fn(NewConnection<'a>) -> BoxFuture<'a, Result<(), DbErr>> + Send + Sync + 'static,
    {
        self.driver_options.after_connect = Some(Arc::new(after_connect));
        self
    }

    /// Sets a source of passwords that change, such as the tokens of a cloud provider. It is awaited before each
    /// connection attempt, for at most 10 s, which do not count for the attempt, and replaces the password of the URL. If it fails, so does the
    /// attempt, with [`DbErrorKind::PasswordUnavailable`](crate::DbErrorKind::PasswordUnavailable); the error is shown, so it must
    /// not contain the password.
    pub fn password<F>(mut self, source: F) -> Self
    where
        F: Fn() -> BoxFuture<'static, io::Result<String>> + Send + Sync + 'static,
    {
        self.driver_options.password = Some(Arc::new(source));
        self
    }

    /// Awaits the future that `hook` returns before each round trip to the database: to simulate a distant or an
    /// unresponsive one in demonstrations and tests. A round trip is a statement, a command of a transaction, or a ping;
    /// opening a connection counts as three. With a hook an SQLite file can be down, like a server.
    pub fn before_round_trip<F>(mut self, hook: F) -> Self
    where
        F: Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static,
    {
        self.driver_options.before_round_trip = Some(Arc::new(hook));
        self
    }

    /// Opens the pool, like [`Pool::connect`].
    ///
    /// # Errors
    ///
    /// As [`Pool::connect`].
    pub async fn connect(self) -> Result<Pool, ConnectError> {
        #[cfg(feature = "sqlite")]
        if self.driver_options.pragmas.iter().any(|(name, _)| name.eq_ignore_ascii_case("busy_timeout")) {
            let allowed = "a pragma other than busy_timeout, which is set by `acquire`".to_owned();
            return Err(InvalidOption { option: "sqlite_pragma", allowed }.into());
        }
        Pool::open(&self.url, &self.options, &Arc::new(self.driver_options), self.runtime).await
    }
}

impl std::fmt::Debug for PoolBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolBuilder").field("url", &self.url).field("options", &self.options).finish_non_exhaustive()
    }
}
