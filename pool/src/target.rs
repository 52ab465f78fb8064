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
        self, ConnectOptions as _, Connection as _, Executor as _, Row as _,
        mysql::{MySqlConnectOptions, MySqlConnection, MySqlPoolOptions},
        postgres::{PgConnectOptions, PgPoolOptions},
        sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
    },
};
use tokio::time::timeout;

use crate::{
    DatabaseUrl, Engine, Fault, PoolOptions,
    fault::{is_refused_by_server, mysql_number},
    file::DatabaseFile,
    health::words,
    peek::SocketFinder,
    raw::{self, MySqlSession, Raw, SessionId},
    session::{Session, bare_mysql},
    url::DriverOptions,
};

const SLOW_STATEMENT: Duration = Duration::from_secs(1);
/// How long the resolver may take to say whether it was the name that could not be resolved.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
pub(crate) struct DialError {
    pub(crate) fault: Fault,
    #[source]
    pub(crate) source: sqlx::Error,
}

/// Where connections go, and how they are set up. It cannot be shown: the driver's options hold the password in the open.
#[derive(Clone)]
pub(crate) struct Target {
    url: DatabaseUrl,
    driver: Driver,
    sockets: Arc<SocketFinder>,
    session: Session,
}

#[derive(Clone)]
enum Driver {
    // Parsed once: an in-memory database is told from another by its parsed options. It has no file.
    Sqlite(SqliteConnectOptions, Option<Arc<DatabaseFile>>),
    Postgres(PgConnectOptions),
    MySql(MySqlConnectOptions),
}

impl Target {
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
        Self { url: url.clone(), driver, sockets, session: Session::new(options.statement_timeout) }
    }

    pub(crate) fn url(&self) -> &DatabaseUrl {
        &self.url
    }

    /// Opens a connection, ready for statements.
    pub(crate) async fn dial(&self, limit: Duration) -> Result<Raw, DialError> {
        let source = match timeout(limit, self.open()).await {
            Ok(Ok(raw)) => return Ok(raw),
            Ok(Err(error)) => error,
            Err(_) => silence(),
        };
        let fault = match Fault::of_driver(&source) {
            _ if self.url.engine() == Engine::Sqlite && matches!(source, sqlx::Error::Io(_)) => Fault::NoSuchDatabase,
            // A resolver that does not answer looks like a server that does not.
            Fault::Lost | Fault::Silent if self.is_unresolvable(limit).await => Fault::NameResolution,
            fault => fault,
        };
        match self.tls_failure(fault, &source) {
            Some(text) => Err(DialError { fault: Fault::Tls, source: sqlx::Error::Tls(text.into()) }),
            None => Err(DialError { fault, source }),
        }
    }

    async fn open(&self) -> Result<Raw, sqlx::Error> {
        match &self.driver {
            Driver::Sqlite(address, file) => {
                if let Some(file) = file {
                    file.prepare()?;
                }
                let opened = address.connect().await.map_err(|error| match (Fault::of_driver(&error), file) {
                    (Fault::NoSuchDatabase | Fault::ReadOnly, Some(file)) => {
                        file.explain(&io::Error::other(error)).into()
                    }
                    _ => error,
                });
                let mut opened = opened?;
                self.session.set_sqlite(&mut opened).await?;
                Ok(Raw::new(raw::Driver::Sqlite(opened), None))
            }
            Driver::Postgres(address) => {
                let (opened, socket) = self.sockets.find(address.connect()).await;
                let mut opened = opened?;
                self.session.set_postgres(&mut opened, address).await?;
                Ok(Raw::new(raw::Driver::Postgres(opened, self.session.of_transaction()), socket))
            }
            Driver::MySql(address) => {
                let (opened, socket) = self.sockets.find(address.connect()).await;
                let mut opened = opened?;
                self.session.set_mysql(&mut opened, address).await?;
                let session = mysql_session(&mut opened).await?;
                Ok(Raw::new(raw::Driver::MySql(opened), socket).with_session(session))
            }
        }
    }

    /// What went wrong with TLS, with the name and the file that it is about.
    fn tls_failure(&self, fault: Fault, source: &sqlx::Error) -> Option<String> {
        if matches!(source, sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Configuration(_))
            && let Err(unreadable) = self.url.check_files()
        {
            // It was readable at the start.
            return Some(unreadable.to_string());
        }
        if fault != Fault::Tls {
            return None;
        }
        let (cause, host) = (words(source), self.url.host().unwrap_or("localhost"));
        let file = match (is_refused_by_server(source), self.url.tls_certificate(), self.url.tls_authority()) {
            (true, Some(certificate), _) => format!(", client certificate {}", certificate.display()),
            (false, _, Some(authority)) => format!(", authorities of {}", authority.display()),
            _ => String::new(),
        };
        Some(format!("{cause} (host {host}{file})"))
    }

    /// Whether the database is still where it was opened; always so for a server.
    ///
    /// # Errors
    ///
    /// [`Fault::NoSuchDatabase`], and what happened to its file.
    pub(crate) fn check_file(&self) -> Result<(), DialError> {
        let Driver::Sqlite(_, Some(file)) = &self.driver else { return Ok(()) };
        file.check().map_err(|error| DialError { fault: Fault::NoSuchDatabase, source: error.into() })
    }

    /// A connection to kill statements over.
    pub(crate) async fn killer(&self) -> Result<Killer, sqlx::Error> {
        let Driver::MySql(address) = &self.driver else {
            return Err(sqlx::Error::InvalidArgument("only MySQL needs it".to_owned()));
        };
        let (opened, _) = self.sockets.find(address.connect()).await;
        let mut raw = opened?;
        let own = mysql_session(&mut raw).await?;
        Ok(Killer { raw, server: own.id.map(|own| own.server) })
    }

    /// The resolver's error has no kind of its own, so it is asked again.
    async fn is_unresolvable(&self, limit: Duration) -> bool {
        let Some(host) = self.url.host_name() else { return false };
        !matches!(timeout(limit.min(RESOLVE_TIMEOUT), tokio::net::lookup_host((host, 0))).await, Ok(Ok(_)))
    }

    /// A SeaORM connection of its own, for what takes no other: `sea-orm-migration`.
    pub(crate) fn direct(&self, acquire: Duration) -> DatabaseConnection {
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

pub(crate) fn silence() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the server did not answer"))
}

/// A connection that kills statements in other sessions of the same server.
pub(crate) struct Killer {
    raw: MySqlConnection,
    server: Option<u64>,
}

impl Killer {
    /// Kills the statement that runs in this session. Succeeds if the session has already ended.
    pub(crate) async fn kill(&mut self, session: SessionId) -> Result<(), sqlx::Error> {
        const NO_SUCH_SESSION: u16 = 1094;
        if self.server != Some(session.server) {
            // After a failover, or behind a balancer. The session's number may be somebody else's there.
            return Err(sqlx::Error::Io(io::Error::other("another server answers at the database's address")));
        }
        let kill = sqlx::AssertSqlSafe(format!("KILL QUERY {}", session.number));
        match self.raw.execute(kill).await {
            Err(error) if mysql_number(&error) != Some(NO_SUCH_SESSION) => Err(error),
            _ => Ok(()),
        }
    }

    /// Closes the connection; errors are ignored, since the server cleans up the session anyway.
    pub(crate) async fn close(self) {
        drop(self.raw.close().await);
    }
}

/// What is to be known of a session. It has no id on MariaDB, whose `max_statement_time` holds for every statement.
async fn mysql_session(raw: &mut MySqlConnection) -> Result<MySqlSession, sqlx::Error> {
    let sql = "SELECT CAST(/*M!100101 NULL + */ CONNECTION_ID() AS UNSIGNED), CONCAT('' /*!50720 , @@server_uuid */), \
               CAST(@@max_allowed_packet AS UNSIGNED)";
    let row = raw.fetch_one(sql).await?;
    let (number, server, largest): (Option<u64>, String, u64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let mut digest = DefaultHasher::new();
    server.hash(&mut digest);
    let server = digest.finish();
    Ok(MySqlSession {
        id: number.and_then(NonZeroU64::new).map(|number| SessionId { server, number }),
        largest: usize::try_from(largest).unwrap_or(usize::MAX),
    })
}
