//! From URL and options to a connection.

use std::time::Duration;

use log::LevelFilter;
use sea_orm::{
    DatabaseConnection, SqlxMySqlConnector, SqlxPostgresConnector, SqlxSqliteConnector,
    sqlx::{
        self, ConnectOptions as _,
        mysql::{MySqlConnectOptions, MySqlPoolOptions},
        postgres::{PgConnectOptions, PgPoolOptions},
        sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
    },
};
use tokio::time::timeout;

use crate::{
    DatabaseUrl, Engine, Fault, PoolOptions,
    raw::Raw,
    session::{Session, bare_mysql},
};

const SLOW_STATEMENT: Duration = Duration::from_secs(1);

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
    session: Session,
}

#[derive(Clone)]
enum Driver {
    // Parsed once: an in-memory database is told from another by its parsed options.
    Sqlite(SqliteConnectOptions),
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
                Driver::Sqlite(logging(address))
            }
            Engine::Postgres => {
                let mut address: PgConnectOptions = url.expose().parse()?;
                // Floats are none of ours, and poolers refuse a startup parameter that they do not know.
                address = address.extra_float_digits(None);
                if address.get_application_name().is_none() {
                    // What the URL asks for goes first.
                    address = address.application_name(&options.application_name);
                }
                Driver::Postgres(logging(address))
            }
            Engine::MySql => Driver::MySql(bare_mysql(logging(url.expose().parse::<MySqlConnectOptions>()?))),
        };
        Ok(Self { url: url.clone(), driver, session: Session::new(options.statement_timeout) })
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
            Fault::Lost if self.is_unresolvable(limit).await => Fault::NameResolution,
            fault => fault,
        };
        Err(DialError { fault, source })
    }

    async fn open(&self) -> Result<Raw, sqlx::Error> {
        match &self.driver {
            Driver::Sqlite(address) => {
                let mut raw = address.connect().await?;
                self.session.set_sqlite(&mut raw).await?;
                Ok(Raw::Sqlite(raw))
            }
            Driver::Postgres(address) => {
                let mut raw = address.connect().await?;
                self.session.set_postgres(&mut raw, address).await?;
                Ok(Raw::Postgres(raw, self.session.of_transaction()))
            }
            Driver::MySql(address) => {
                let mut raw = address.connect().await?;
                self.session.set_mysql(&mut raw, address).await?;
                Ok(Raw::MySql(raw))
            }
        }
    }

    /// The resolver's error has no kind of its own, so it is asked again.
    async fn is_unresolvable(&self, limit: Duration) -> bool {
        match self.url.host_name() {
            Some(host) => matches!(timeout(limit, tokio::net::lookup_host((host, 0))).await, Ok(Err(_))),
            None => false,
        }
    }

    /// A SeaORM connection of its own, for what takes no other: `sea-orm-migration`.
    pub(crate) fn direct(&self, acquire: Duration) -> DatabaseConnection {
        // A change of the schema may take its time.
        let session = self.session.unlimited();
        match &self.driver {
            Driver::Sqlite(address) => {
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
