//! From URL and options to a connection.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    num::NonZeroU64,
    sync::Arc,
    time::Duration,
};

use log::LevelFilter;
use sea_orm::{
    DatabaseConnection, SqlxMySqlConnector, SqlxPostgresConnector, SqlxSqliteConnector,
    sqlx::{
        self, ConnectOptions as _, Executor as _, Row as _,
        mysql::{MySqlConnectOptions, MySqlConnection, MySqlPoolOptions},
        postgres::{PgConnectOptions, PgPoolOptions},
        sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
    },
};
use tokio::time::timeout;

use super::{
    driver::{Driver as OpenDriver, DriverConnection, MySqlSession, SessionId},
    file::DatabaseFile,
    session::{Session, bare_mysql},
    socket::SocketFinder,
    url::{DatabaseUrl, Engine, driver::DriverOptions},
};
use crate::{
    error_kind::{DbErrorKind, is_refused_by_server, root_cause, timed_out},
    options::PoolOptions,
};

const SLOW_STATEMENT: Duration = Duration::from_secs(1);
/// How long the resolver may take to say whether it was the name that could not be resolved.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Prepared statements that each connection keeps, unless the URL says otherwise: the drivers' own default.
const STATEMENT_CACHE: usize = 100;
/// The fewest that are kept when the server has no room for more.
const SMALLEST_STATEMENT_CACHE: usize = 5;

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

    /// The server gave no answer in time.
    pub(crate) fn silent() -> Self {
        Self::new(DbErrorKind::Silent, timed_out())
    }

    /// What went wrong, in the words of the driver, the server or the system.
    pub(crate) fn detail(&self) -> String {
        root_cause(self.source.as_ref())
    }
}

/// Where connections go, and how they are set up. It cannot be shown: the driver's options hold the password in the open.
#[derive(Clone)]
pub(crate) struct Connector {
    url: DatabaseUrl,
    driver: Driver,
    sockets: Arc<SocketFinder>,
    session: Session,
    statement_cache: usize,
}

#[derive(Clone)]
enum Driver {
    // Parsed once: an in-memory database is identified by its parsed options. It has no file.
    Sqlite(SqliteConnectOptions, Option<Arc<DatabaseFile>>),
    Postgres(PgConnectOptions),
    MySql(MySqlConnectOptions),
}

impl Connector {
    pub(crate) fn new(url: &DatabaseUrl, options: &PoolOptions) -> Self {
        let driver = match url.driver_options() {
            DriverOptions::Sqlite(address) => {
                // Readers and one writer at a time side by side, and nothing acknowledged that a power cut could take back.
                let address = address
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    .busy_timeout(options.acquire)
                    .foreign_keys(true);
                let file = (!url.is_in_memory())
                    .then(|| Arc::new(DatabaseFile::new(address.get_filename(), url.creates_file())));
                // The file is created by `DatabaseFile`, and never by a connection that is opened later.
                Driver::Sqlite(logging(address.create_if_missing(url.is_in_memory())), file)
            }
            DriverOptions::Postgres(mut address) => {
                // Floats are none of ours, and poolers refuse a startup parameter that they do not know.
                address = address.extra_float_digits(None);
                if address.get_application_name().is_none() {
                    // What the URL asks for goes first.
                    address = address.application_name(&options.application_name);
                }
                Driver::Postgres(logging(address))
            }
            DriverOptions::MySql(address) => Driver::MySql(bare_mysql(logging(address))),
        };
        let port = match &driver {
            Driver::Sqlite(..) => 0,
            Driver::Postgres(address) => address.get_port(),
            Driver::MySql(address) => address.get_port(),
        };
        let sockets = Arc::new(SocketFinder::new(port));
        Self {
            url: url.clone(),
            driver,
            sockets,
            session: Session::new(options.statement_timeout),
            statement_cache: url.statement_cache().unwrap_or(STATEMENT_CACHE),
        }
    }

    /// The same connections with another busy time-out of SQLite. The file stays the one that was opened.
    pub(crate) fn with_busy_timeout(&self, limit: Duration) -> Self {
        let mut other = self.clone();
        if let Driver::Sqlite(address, _) = &mut other.driver {
            *address = address.clone().busy_timeout(limit);
        }
        other
    }

    /// The same connections with half as many prepared statements each, for a server that has no room for more. `None` if
    /// there is nothing to save.
    pub(crate) fn with_fewer_statements(&self) -> Option<Self> {
        let mut fewer = self.clone();
        fewer.statement_cache = (self.statement_cache / 2).max(SMALLEST_STATEMENT_CACHE);
        if fewer.statement_cache >= self.statement_cache {
            return None;
        }
        match &mut fewer.driver {
            Driver::MySql(address) => *address = address.clone().statement_cache_capacity(fewer.statement_cache),
            // Neither has a limit.
            Driver::Sqlite(..) | Driver::Postgres(_) => return None,
        }
        Some(fewer)
    }

    /// How many prepared statements each connection keeps.
    pub(crate) fn statement_cache(&self) -> usize {
        self.statement_cache
    }

    pub(crate) fn url(&self) -> &DatabaseUrl {
        &self.url
    }

    /// Opens a connection, ready for statements, within this time.
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
            // A resolver that does not answer looks like a server that does not.
            DbErrorKind::Lost | DbErrorKind::Silent if self.is_unresolvable(limit).await => DbErrorKind::NameResolution,
            kind => kind,
        };
        match self.tls_failure(kind, &source) {
            Some(text) => Err(ConnectFailure::new(DbErrorKind::Tls, sqlx::Error::Tls(text.into()))),
            None => Err(ConnectFailure::new(kind, source)),
        }
    }

    async fn open(&self) -> Result<DriverConnection, sqlx::Error> {
        match &self.driver {
            Driver::Sqlite(address, file) => {
                if let Some(file) = file {
                    file.prepare()?;
                }
                let opened = address.connect().await.map_err(|error| match (DbErrorKind::of_driver(&error), file) {
                    (DbErrorKind::NoSuchDatabase | DbErrorKind::ReadOnly, Some(file)) => {
                        file.explain(&io::Error::other(error)).into()
                    }
                    _ => error,
                });
                let mut opened = opened?;
                self.session.set_sqlite(&mut opened).await?;
                Ok(DriverConnection::new(OpenDriver::Sqlite(opened), None))
            }
            Driver::Postgres(address) => {
                let (opened, socket) = self.sockets.find(address.connect()).await;
                let mut opened = opened?;
                self.session.set_postgres(&mut opened, address).await?;
                let driver = OpenDriver::Postgres(opened, self.session.of_transaction());
                Ok(DriverConnection::new(driver, socket).with_lock_timeout(self.session.lock_timeout()))
            }
            Driver::MySql(address) => {
                let (opened, socket) = self.sockets.find(address.connect()).await;
                let mut opened = opened?;
                self.session.set_mysql(&mut opened, address).await?;
                let session = mysql_session(&mut opened).await?;
                Ok(DriverConnection::new(OpenDriver::MySql(opened), socket).with_session(session))
            }
        }
    }

    /// What went wrong with TLS, with the name and the file that it is about.
    fn tls_failure(&self, kind: DbErrorKind, source: &sqlx::Error) -> Option<String> {
        if matches!(source, sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Configuration(_))
            && let Err(unreadable) = self.url.check_files()
        {
            // It was readable at the start.
            return Some(unreadable.to_string());
        }
        if kind != DbErrorKind::Tls {
            return None;
        }
        let (cause, host) = (root_cause(source), self.url.host().unwrap_or("localhost"));
        let file = match (is_refused_by_server(source), self.url.tls_certificate(), self.url.tls_authority()) {
            (true, Some(certificate), _) => format!(", client certificate {}", certificate.display()),
            (false, _, Some(authority)) => format!(", authorities of {}", authority.display()),
            _ => String::new(),
        };
        Some(format!("{cause} (host {host}{file})"))
    }

    /// Checks that the file of an SQLite database is still the one that was opened; a server has none.
    ///
    /// # Errors
    ///
    /// [`DbErrorKind::NoSuchDatabase`], and what happened to the file.
    pub(crate) fn check_file(&self) -> Result<(), ConnectFailure> {
        let Driver::Sqlite(_, Some(file)) = &self.driver else { return Ok(()) };
        file.check().map_err(|error| ConnectFailure::new(DbErrorKind::NoSuchDatabase, error))
    }

    /// The driver's error does not say that it is the resolver's, so the resolver is asked again.
    async fn is_unresolvable(&self, limit: Duration) -> bool {
        let Some(host) = self.url.host_name() else { return false };
        !matches!(timeout(limit.min(RESOLVE_TIMEOUT), tokio::net::lookup_host((host, 0))).await, Ok(Ok(_)))
    }

    /// A separate SeaORM connection, for code that takes nothing else, such as `sea-orm-migration`.
    pub(crate) fn database_connection(&self, acquire: Duration) -> DatabaseConnection {
        // A change of the schema may take its time.
        let session = self.session.unlimited();
        match &self.driver {
            Driver::Sqlite(address, _) => {
                let pool = SqlitePoolOptions::new().max_connections(1).acquire_timeout(acquire);
                SqlxSqliteConnector::from_sqlx_sqlite_pool(pool.connect_lazy_with(address.clone()))
            }
            Driver::Postgres(address) => {
                let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(acquire);
                let own = address.clone();
                let pool = pool.after_connect(move |raw, _| {
                    let (session, address) = (session.clone(), own.clone());
                    Box::pin(async move { session.set_postgres(raw, &address).await })
                });
                SqlxPostgresConnector::from_sqlx_postgres_pool(pool.connect_lazy_with(address.clone()))
            }
            Driver::MySql(address) => {
                let pool = MySqlPoolOptions::new().max_connections(1).acquire_timeout(acquire);
                let own = address.clone();
                let pool = pool.after_connect(move |raw, _| {
                    let (session, address) = (session.clone(), own.clone());
                    Box::pin(async move { session.set_mysql(raw, &address).await })
                });
                SqlxMySqlConnector::from_sqlx_mysql_pool(pool.connect_lazy_with(address.clone()))
            }
        }
    }

    /// What sessions are set to, and what was found about them.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }
}

fn logging<O: sqlx::ConnectOptions>(address: O) -> O {
    address.log_statements(LevelFilter::Debug).log_slow_statements(LevelFilter::Warn, SLOW_STATEMENT)
}

/// What the pool knows of a session. It has no id on MariaDB, whose `max_statement_time` holds for every statement.
async fn mysql_session(raw: &mut MySqlConnection) -> Result<MySqlSession, sqlx::Error> {
    let sql = "SELECT CAST(/*M!100101 NULL + */ CONNECTION_ID() AS UNSIGNED), CONCAT('' /*!50720 , @@server_uuid */), \
               CAST(@@max_allowed_packet AS UNSIGNED), CAST(@@innodb_lock_wait_timeout AS UNSIGNED)";
    let row = raw.fetch_one(sql).await?;
    let (number, server): (Option<u64>, String) = (row.try_get(0)?, row.try_get(1)?);
    let (largest, lock_timeout): (u64, u64) = (row.try_get(2)?, row.try_get(3)?);
    let mut digest = DefaultHasher::new();
    server.hash(&mut digest);
    let server = digest.finish();
    Ok(MySqlSession {
        id: number.and_then(NonZeroU64::new).map(|number| SessionId { server, number }),
        largest: usize::try_from(largest).unwrap_or(usize::MAX),
        lock_timeout: Duration::from_secs(lock_timeout),
    })
}
