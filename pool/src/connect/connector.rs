//! Opens connections, as the URL and the pool options describe them.

use std::{sync::Arc, time::Duration};

use sea_orm::{DatabaseConnection, sqlx};
use tokio::time::timeout;

#[cfg(feature = "mysql")]
use super::mysql::MySqlConnector;
#[cfg(feature = "postgres")]
use super::postgres::PostgresConnector;
#[cfg(feature = "sqlite")]
use super::sqlite::SqliteConnector;
use super::{
    driver::DriverConnection,
    driver_options::DriverOptions,
    session::Session,
    url::{Address, DatabaseUrl, Engine},
};
use crate::{
    error_kind::{DbErrorKind, is_tls_alert, root_cause, timed_out},
    options::PoolOptions,
};

/// How long to wait for the resolver when checking whether name resolution has failed.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Prepared statements that each connection caches unless the URL sets another number: the drivers' default.
const STATEMENT_CACHE: usize = 100;
/// The smallest such cache, for a server that has reached its limit of prepared statements.
const MIN_STATEMENT_CACHE: usize = 5;

/// Round trips to open a connection, for the hook `before_round_trip`: connection, authentication, session settings.
const CONNECT_ROUND_TRIPS: usize = 3;

/// Why a connection could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{kind}")]
pub(crate) struct ConnectFailure {
    pub(crate) kind: DbErrorKind,
    #[source]
    pub(crate) source: Arc<sqlx::Error>,
}

impl ConnectFailure {
    pub(crate) fn new(kind: DbErrorKind, source: impl Into<sqlx::Error>) -> Self {
        Self { kind, source: Arc::new(source.into()) }
    }

    /// The server did not respond in time.
    pub(crate) fn silent() -> Self {
        Self::new(DbErrorKind::Silent, timed_out())
    }

    /// Returns the message of the root cause, from the driver, the server or the system.
    pub(crate) fn detail(&self) -> String {
        root_cause(self.source.as_ref())
    }
}

/// The crate was built without the engine's feature.
#[derive(Debug)]
pub(crate) struct EngineDisabled;

/// Opens connections to one database. Not `Debug`: the driver's options contain the password in plain text.
#[derive(Clone)]
pub(crate) struct Connector {
    url: DatabaseUrl,
    engine: EngineConnector,
    session: Session,
    statement_cache: usize,
    driver_options: Arc<DriverOptions>,
}

#[derive(Clone)]
enum EngineConnector {
    #[cfg(feature = "sqlite")]
    Sqlite(SqliteConnector),
    #[cfg(feature = "postgres")]
    Postgres(PostgresConnector),
    #[cfg(feature = "mysql")]
    MySql(MySqlConnector),
}

impl Connector {
    /// Creates a connector.
    ///
    /// # Errors
    ///
    /// [`EngineDisabled`] if the crate was built without the engine.
    pub(crate) fn new(
        url: &DatabaseUrl,
        options: &PoolOptions,
        driver_options: &Arc<DriverOptions>,
    ) -> Result<Self, EngineDisabled> {
        let engine = match (url.address(), url.engine()) {
            #[cfg(feature = "sqlite")]
            (Address::File(file), _) => EngineConnector::Sqlite(SqliteConnector::new(file, options, driver_options)),
            #[cfg(feature = "postgres")]
            (Address::Server(server), Engine::Postgres) => {
                EngineConnector::Postgres(PostgresConnector::new(server, options, driver_options))
            }
            #[cfg(feature = "mysql")]
            (Address::Server(server), Engine::MySql) => {
                EngineConnector::MySql(MySqlConnector::new(server, driver_options))
            }
            _ => return Err(EngineDisabled),
        };
        Ok(Self {
            url: url.clone(),
            engine,
            session: Session::new(options.statement_timeout),
            statement_cache: url.statement_cache().unwrap_or(STATEMENT_CACHE),
            driver_options: Arc::clone(driver_options),
        })
    }

    /// Returns a connector for the same database with other credentials.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub(crate) fn with_url(&self, url: &DatabaseUrl, options: &PoolOptions) -> Result<Self, EngineDisabled> {
        Self::new(url, options, &self.driver_options)
    }

    /// Returns a copy with another SQLite busy timeout. The database file stays the one that was opened.
    pub(crate) fn with_busy_timeout(&self, limit: Duration) -> Self {
        let mut other = self.clone();
        match &mut other.engine {
            #[cfg(feature = "sqlite")]
            EngineConnector::Sqlite(sqlite) => *sqlite = sqlite.with_busy_timeout(limit),
            _ => {}
        }
        other
    }

    /// Returns a copy that caches half as many prepared statements per connection, for a server that has reached its
    /// limit. `None` if the cache cannot shrink further.
    pub(crate) fn with_fewer_statements(&self) -> Option<Self> {
        let mut fewer = self.clone();
        fewer.statement_cache = (self.statement_cache / 2).max(MIN_STATEMENT_CACHE);
        if fewer.statement_cache >= self.statement_cache {
            return None;
        }
        match &mut fewer.engine {
            #[cfg(feature = "mysql")]
            EngineConnector::MySql(mysql) => *mysql = mysql.with_statement_cache(fewer.statement_cache),
            // The other engines have no such limit.
            _ => return None,
        }
        Some(fewer)
    }

    /// Returns how many prepared statements each connection caches.
    pub(crate) fn statement_cache(&self) -> usize {
        self.statement_cache
    }

    /// Whether the application awaits something before each round trip.
    pub(crate) fn has_round_trip_hook(&self) -> bool {
        self.driver_options.before_round_trip.is_some()
    }

    pub(crate) fn url(&self) -> &DatabaseUrl {
        &self.url
    }

    /// Opens a connection within `limit`, ready for statements.
    pub(crate) async fn connect(&self, limit: Duration) -> Result<DriverConnection, ConnectFailure> {
        let source = match timeout(limit, self.open()).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => error,
            Err(_) => timed_out(),
        };
        let kind = match DbErrorKind::of_driver(&source) {
            _ if self.url.engine() == Engine::Sqlite && matches!(source, sqlx::Error::Io(_)) => {
                DbErrorKind::NoSuchDatabase
            }
            // An unresponsive resolver looks like an unresponsive server.
            DbErrorKind::Lost | DbErrorKind::Silent if self.is_unresolvable(limit).await => DbErrorKind::NameResolution,
            kind => kind,
        };
        match self.tls_failure(kind, &source) {
            Some(text) => Err(ConnectFailure::new(DbErrorKind::Tls, sqlx::Error::Tls(text.into()))),
            None => Err(ConnectFailure::new(kind, source)),
        }
    }

    async fn open(&self) -> Result<DriverConnection, sqlx::Error> {
        let before_round_trip = self.driver_options.before_round_trip.clone();
        if let Some(hook) = &before_round_trip {
            for _ in 0..CONNECT_ROUND_TRIPS {
                hook().await;
            }
        }
        let mut opened = match &self.engine {
            #[cfg(feature = "sqlite")]
            EngineConnector::Sqlite(sqlite) => sqlite.open(&self.session).await?,
            #[cfg(feature = "postgres")]
            EngineConnector::Postgres(postgres) => postgres.open(&self.session).await?,
            #[cfg(feature = "mysql")]
            EngineConnector::MySql(mysql) => mysql.open(&self.session).await?,
        };
        self.driver_options.run_after_connect(opened.borrow()).await?;
        Ok(opened.before_round_trip(before_round_trip))
    }

    /// Describes a TLS error, with the host and the file concerned.
    fn tls_failure(&self, kind: DbErrorKind, source: &sqlx::Error) -> Option<String> {
        if matches!(source, sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Configuration(_))
            && let Err(unreadable) = self.url.check_files()
        {
            // It was readable at startup.
            return Some(unreadable.to_string());
        }
        if kind != DbErrorKind::Tls {
            return None;
        }
        let (cause, host) = (root_cause(source), self.url.host().unwrap_or("localhost"));
        let file = match (is_tls_alert(source), self.url.tls_certificate(), self.url.tls_authority()) {
            (true, Some(certificate), _) => format!(", client certificate {}", certificate.display()),
            (false, _, Some(authority)) => format!(", CA certificates from {}", authority.display()),
            _ => String::new(),
        };
        Some(format!("{cause} (host {host}{file})"))
    }

    /// Checks that the file of an SQLite database is still the one that was opened. Does nothing for servers.
    ///
    /// # Errors
    ///
    /// [`DbErrorKind::NoSuchDatabase`], with what happened to the file.
    pub(crate) fn check_file(&self) -> Result<(), ConnectFailure> {
        match &self.engine {
            #[cfg(feature = "sqlite")]
            EngineConnector::Sqlite(sqlite) => {
                sqlite.check_file().map_err(|error| ConnectFailure::new(DbErrorKind::NoSuchDatabase, error))
            }
            _ => Ok(()),
        }
    }

    /// Resolves the host again, because the driver's error does not show whether resolution failed.
    async fn is_unresolvable(&self, limit: Duration) -> bool {
        let Some(host) = self.url.host_name() else { return false };
        !matches!(timeout(limit.min(RESOLVE_TIMEOUT), tokio::net::lookup_host((host, 0))).await, Ok(Ok(_)))
    }

    /// Returns a separate SeaORM connection, for code that accepts nothing else, such as `sea-orm-migration`. Its
    /// statements have no timeout, because schema changes can take long.
    pub(crate) fn database_connection(&self, acquire: Duration) -> DatabaseConnection {
        let driver_options = Arc::clone(&self.driver_options);
        match &self.engine {
            #[cfg(feature = "sqlite")]
            EngineConnector::Sqlite(sqlite) => sqlite.database_connection(acquire, driver_options),
            #[cfg(feature = "postgres")]
            EngineConnector::Postgres(postgres) => {
                postgres.database_connection(self.session.unlimited(), acquire, driver_options)
            }
            #[cfg(feature = "mysql")]
            EngineConnector::MySql(mysql) => {
                mysql.database_connection(self.session.unlimited(), acquire, driver_options)
            }
        }
    }

    /// Returns the session settings, and what the first connection found.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }
}
