//! From URL and options to a connection.

use std::{io, sync::Arc, time::Duration};

use log::LevelFilter;
use sea_orm::{
    DatabaseConnection, SqlxMySqlConnector, SqlxPostgresConnector, SqlxSqliteConnector,
    sqlx::{
        self, ConnectOptions as _, Connection as _, Executor as _, Row as _,
        mysql::{MySqlConnectOptions, MySqlPoolOptions},
        postgres::{PgConnectOptions, PgPoolOptions},
        sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
    },
};
use tokio::time::timeout;

use crate::{
    DatabaseUrl, Engine, Fault, PoolOptions,
    fault::mysql_number,
    file::DatabaseFile,
    peek::SocketFinder,
    raw::{self, Raw, SessionId},
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
    statement_timeout: Duration,
}

#[derive(Clone)]
enum Driver {
    // Parsed once: an in-memory database is told from another by its parsed options. It has no file.
    Sqlite(SqliteConnectOptions, Option<Arc<DatabaseFile>>),
    Postgres(PgConnectOptions),
    MySql(MySqlConnectOptions),
}

impl Target {
    pub(crate) fn new(url: &DatabaseUrl, options: &PoolOptions) -> Result<Self, sqlx::Error> {
        let driver = match url.engine() {
            Engine::Sqlite => {
                let address: SqliteConnectOptions = url.expose().parse()?;
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
            Engine::Postgres => {
                let mut address: PgConnectOptions = url.expose().parse()?;
                if address.get_application_name().is_none() {
                    // What the URL asks for goes first.
                    address = address.application_name(&options.application_name);
                }
                if !options.statement_timeout.is_zero() {
                    let limit = options.statement_timeout.as_millis().to_string();
                    address = address.options([("statement_timeout", limit)]);
                }
                Driver::Postgres(logging(address))
            }
            Engine::MySql => Driver::MySql(logging(url.expose().parse::<MySqlConnectOptions>()?)),
        };
        let port = match &driver {
            Driver::Sqlite(..) => 0,
            Driver::Postgres(address) => address.get_port(),
            Driver::MySql(address) => address.get_port(),
        };
        let sockets = Arc::new(SocketFinder::new(port));
        Ok(Self { url: url.clone(), driver, sockets, statement_timeout: options.statement_timeout })
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
        Err(DialError { fault, source })
    }

    async fn open(&self) -> Result<Raw, sqlx::Error> {
        match &self.driver {
            Driver::Sqlite(address, file) => {
                let Some(file) = file else { return Ok(Raw::new(raw::Driver::Sqlite(address.connect().await?), None)) };
                file.prepare()?;
                let opened = address.connect().await.map_err(|error| match Fault::of_driver(&error) {
                    Fault::NoSuchDatabase | Fault::ReadOnly => file.explain(io::Error::other(error)).into(),
                    _ => error,
                });
                Ok(Raw::new(raw::Driver::Sqlite(opened?), None))
            }
            Driver::Postgres(address) => {
                let (opened, socket) = self.sockets.find(address.connect()).await;
                Ok(Raw::new(raw::Driver::Postgres(opened?), socket))
            }
            Driver::MySql(address) => {
                let (opened, socket) = self.sockets.find(address.connect()).await;
                let mut opened = opened?;
                let mut session = None;
                if !self.statement_timeout.is_zero() {
                    opened.execute(statement_limit(self.statement_timeout)).await?;
                    let id: Option<u64> = opened.fetch_one(UNLIMITED_SESSION).await?.try_get(0)?;
                    session = id.and_then(SessionId::new);
                }
                Ok(Raw::new(raw::Driver::MySql(opened), socket).with_session(session))
            }
        }
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

    /// Ends the statement that runs in each of these sessions, over a connection of its own. A session that has ended
    /// meanwhile is no error.
    pub(crate) async fn kill_statements(&self, sessions: &[SessionId]) -> Result<(), sqlx::Error> {
        const NO_SUCH_SESSION: u16 = 1094;
        let Driver::MySql(address) = &self.driver else { return Ok(()) };
        let (opened, _) = self.sockets.find(address.connect()).await;
        let mut raw = opened?;
        for session in sessions {
            let killed = raw.execute(sqlx::AssertSqlSafe(format!("KILL QUERY {session}"))).await;
            if let Err(error) = killed
                && mysql_number(&error) != Some(NO_SUCH_SESSION)
            {
                return Err(error);
            }
        }
        raw.close().await
    }

    /// The resolver's error has no kind of its own, so it is asked again.
    async fn is_unresolvable(&self, limit: Duration) -> bool {
        let Some(host) = self.url.host_name() else { return false };
        !matches!(timeout(limit.min(RESOLVE_TIMEOUT), tokio::net::lookup_host((host, 0))).await, Ok(Ok(_)))
    }

    /// A SeaORM connection of its own, for what takes no other: `sea-orm-migration`.
    pub(crate) fn direct(&self, acquire: Duration) -> DatabaseConnection {
        match &self.driver {
            Driver::Sqlite(address, _) => {
                let pool = SqlitePoolOptions::new().max_connections(1).acquire_timeout(acquire);
                SqlxSqliteConnector::from_sqlx_sqlite_pool(pool.connect_lazy_with(address.clone()))
            }
            Driver::Postgres(address) => {
                let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(acquire);
                // A change of the schema may take its time; the last word on an option counts.
                let address = address.clone().options([("statement_timeout", "0")]);
                SqlxPostgresConnector::from_sqlx_postgres_pool(pool.connect_lazy_with(address))
            }
            Driver::MySql(address) => {
                let pool = MySqlPoolOptions::new().max_connections(1).acquire_timeout(acquire);
                SqlxMySqlConnector::from_sqlx_mysql_pool(pool.connect_lazy_with(address.clone()))
            }
        }
    }
}

fn logging<O: sqlx::ConnectOptions>(address: O) -> O {
    address.log_statements(LevelFilter::Debug).log_slow_statements(LevelFilter::Warn, SLOW_STATEMENT)
}

pub(crate) fn silence() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the server did not answer"))
}

/// The id of a session whose writes have no limit, as in MySQL. `max_statement_time` of MariaDB, which gives NULL here,
/// holds for every statement.
const UNLIMITED_SESSION: &str = "SELECT CAST(/*M!100101 NULL + */ CONNECTION_ID() AS UNSIGNED)";

/// MariaDB and MySQL know the limit by different names and units; each reads its own executable comment only.
fn statement_limit(limit: Duration) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(format!(
        "SET SESSION wait_timeout = @@SESSION.wait_timeout \
         /*M!100101 , max_statement_time = {seconds} */ /*!50708 , max_execution_time = {milliseconds} */",
        seconds = limit.as_secs_f64(),
        milliseconds = limit.as_millis(),
    ))
}
