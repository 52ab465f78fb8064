//! Opening a pool with more than URL and options say.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sea_orm::{DbErr, sqlx};

use super::Pool;
use crate::{
    connect::{
        driver_options::{DriverOptions, NewConnection},
        url::DatabaseUrl,
    },
    error::ConnectError,
    options::{InvalidOption, PoolOptions},
};

/// Opens a [`Pool`] with options of the driver, pragmas, and statements for each new connection. Made by [`Pool::builder`].
///
/// They apply to every connection, as long as the pool lives: to those that [`Pool::reconfigure`] opens with new credentials,
/// and to those of [`Pool::with_database_connection`].
#[must_use = "it does nothing before `connect`"]
pub struct PoolBuilder {
    url: DatabaseUrl,
    options: PoolOptions,
    own: DriverOptions,
}

impl Pool {
    /// Begins to build a pool.
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
        PoolBuilder { url: url.clone(), options: PoolOptions::default(), own: DriverOptions::default() }
    }
}

impl PoolBuilder {
    /// Sets the options of the pool. Without it they are the defaults.
    pub fn options(mut self, options: PoolOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets a pragma of SQLite on each new connection, such as `cache_size`, `mmap_size` or `synchronous`. Unless set here
    /// `journal_mode` is `WAL`, `synchronous` is `FULL` and `foreign_keys` is `ON`. Other engines ignore it.
    ///
    /// `busy_timeout` is refused: it is [`PoolOptions::acquire`].
    #[cfg(feature = "sqlite")]
    pub fn sqlite_pragma(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.own.pragmas.push((name.into(), value.into()));
        self
    }

    /// Changes the options of the SQLite driver, after those of the URL. The pool itself sets `busy_timeout` and
    /// `create_if_missing`.
    #[cfg(feature = "sqlite")]
    pub fn map_sqlx_sqlite_opts<F>(mut self, map: F) -> Self
    where
        F: Fn(sqlx::sqlite::SqliteConnectOptions) -> sqlx::sqlite::SqliteConnectOptions + Send + Sync + 'static,
    {
        self.own.map_sqlite = Some(Arc::new(map));
        self
    }

    /// Changes the options of the PostgreSQL driver, after those of the URL.
    #[cfg(feature = "postgres")]
    pub fn map_sqlx_postgres_opts<F>(mut self, map: F) -> Self
    where
        F: Fn(sqlx::postgres::PgConnectOptions) -> sqlx::postgres::PgConnectOptions + Send + Sync + 'static,
    {
        self.own.map_postgres = Some(Arc::new(map));
        self
    }

    /// Changes the options of the driver for MySQL and MariaDB, after those of the URL. The pool itself sets the time zone
    /// (UTC), the SQL mode and what else its statements rely on; character set and collation are respected.
    #[cfg(feature = "mysql")]
    pub fn map_sqlx_mysql_opts<F>(mut self, map: F) -> Self
    where
        F: Fn(sqlx::mysql::MySqlConnectOptions) -> sqlx::mysql::MySqlConnectOptions + Send + Sync + 'static,
    {
        self.own.map_mysql = Some(Arc::new(map));
        self
    }

    /// Runs statements on each new connection, before its first operation: `SET ROLE`, `SET search_path`, `LOAD`.
    ///
    /// It runs after the pool has set the session, within the time limit of opening a connection. If it fails, the connection
    /// counts as one that could not be opened. Behind a connection pooler in transaction mode its settings do not last: each
    /// transaction may meet another session.
    pub fn after_connect<F>(mut self, after_connect: F) -> Self
    where
        F: for<'a> Fn(NewConnection<'a>) -> BoxFuture<'a, Result<(), DbErr>> + Send + Sync + 'static,
    {
        self.own.after_connect = Some(Arc::new(after_connect));
        self
    }

    /// Opens the pool, as [`Pool::connect`].
    ///
    /// # Errors
    ///
    /// As [`Pool::connect`].
    pub async fn connect(self) -> Result<Pool, ConnectError> {
        #[cfg(feature = "sqlite")]
        if self.own.pragmas.iter().any(|(name, _)| name.eq_ignore_ascii_case("busy_timeout")) {
            let allowed = "another pragma than busy_timeout, which `acquire` sets".to_owned();
            return Err(InvalidOption { option: "sqlite_pragma", allowed }.into());
        }
        Pool::open(&self.url, &self.options, &Arc::new(self.own)).await
    }
}

impl std::fmt::Debug for PoolBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolBuilder").field("url", &self.url).field("options", &self.options).finish_non_exhaustive()
    }
}
