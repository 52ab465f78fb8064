//! The connector of one of the engines that this crate was built with.

use std::{sync::Arc, time::Duration};

use sea_orm::{DatabaseConnection, sqlx};

#[cfg(feature = "mysql")]
use super::mysql::MySqlConnector;
#[cfg(feature = "postgres")]
use super::postgres::PostgresConnector;
#[cfg(feature = "sqlite")]
use super::sqlite::SqliteConnector;
use super::{
    driver::DriverConnection,
    driver_options::DriverOptions,
    session::{ConnectParams, Session},
    socket::SocketFinder,
    url::{Address, DatabaseUrl, Engine},
};
use crate::options::PoolOptions;

/// The crate was built without the engine's feature.
#[derive(Debug)]
pub(crate) struct EngineDisabled;

/// Opens connections to one host, or to a file.
#[derive(Clone)]
pub(super) enum EngineConnector {
    #[cfg(feature = "sqlite")]
    Sqlite(SqliteConnector),
    #[cfg(feature = "postgres")]
    Postgres(PostgresConnector),
    #[cfg(feature = "mysql")]
    MySql(MySqlConnector),
}

impl EngineConnector {
    /// Returns the connectors of the hosts of a URL, or of its file.
    ///
    /// # Errors
    ///
    /// [`EngineDisabled`] if the crate was built without the engine.
    pub(super) fn of_url(
        url: &DatabaseUrl,
        options: &PoolOptions,
        driver_options: &DriverOptions,
    ) -> Result<Vec<Self>, EngineDisabled> {
        // One for all hosts, because it compares the sockets of the process before and after.
        let sockets = Arc::new(SocketFinder::default());
        match (url.address(), url.engine()) {
            #[cfg(feature = "sqlite")]
            (Address::File(file), _) => Ok(vec![Self::Sqlite(SqliteConnector::new(file, options, driver_options))]),
            #[cfg(feature = "postgres")]
            (Address::Server(server), Engine::Postgres) => {
                let connector = |host| PostgresConnector::new(server, host, options, driver_options, &sockets);
                Ok(server.hosts.iter().map(connector).map(Self::Postgres).collect())
            }
            #[cfg(feature = "mysql")]
            (Address::Server(server), Engine::MySql) => {
                let connector = |host| MySqlConnector::new(server, host, driver_options, &sockets);
                Ok(server.hosts.iter().map(connector).map(Self::MySql).collect())
            }
            _ => Err(EngineDisabled),
        }
    }

    /// Opens a connection.
    pub(super) async fn open(&self, params: ConnectParams<'_>) -> Result<DriverConnection, sqlx::Error> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(sqlite) => sqlite.open(params.session).await,
            #[cfg(feature = "postgres")]
            Self::Postgres(postgres) => postgres.open(params).await,
            #[cfg(feature = "mysql")]
            Self::MySql(mysql) => mysql.open(params).await,
        }
    }

    /// Sets the busy timeout of SQLite. The database file stays the one that was opened.
    pub(super) fn set_busy_timeout(&mut self, limit: Duration) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(sqlite) => *sqlite = sqlite.with_busy_timeout(limit),
            #[cfg(any(feature = "postgres", feature = "mysql"))]
            _ => {}
        }
    }

    /// Sets how many prepared statements a connection caches, on engines whose servers limit them. Returns whether this
    /// is one.
    pub(super) fn set_statement_cache(&mut self, capacity: usize) -> bool {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(mysql) => {
                *mysql = mysql.with_statement_cache(capacity);
                true
            }
            #[cfg(any(feature = "sqlite", feature = "postgres"))]
            _ => false,
        }
    }

    /// Checks that the file of an SQLite database is still the one that was opened. Does nothing for servers.
    pub(super) fn check_file(&self) -> std::io::Result<()> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(sqlite) => sqlite.check_file(),
            #[cfg(any(feature = "postgres", feature = "mysql"))]
            _ => Ok(()),
        }
    }

    /// Returns a separate SeaORM connection, with this password instead of that of the URL. On a server its statements
    /// have no timeout.
    pub(super) fn database_connection(
        &self,
        session: &Session,
        password: Option<&str>,
        acquire: Duration,
        driver_options: Arc<DriverOptions>,
    ) -> DatabaseConnection {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(sqlite) => sqlite.database_connection(acquire, driver_options),
            #[cfg(feature = "postgres")]
            Self::Postgres(postgres) => {
                postgres.database_connection(session.unlimited(), password, acquire, driver_options)
            }
            #[cfg(feature = "mysql")]
            Self::MySql(mysql) => mysql.database_connection(session.unlimited(), password, acquire, driver_options),
        }
    }
}
