//! From URL and options to SeaORM's pool.

use std::time::Duration;

use log::LevelFilter;
use sea_orm::{
    ConnectOptions, Database, DatabaseConnection, DbErr, RuntimeErr,
    sqlx::{
        self, ConnectOptions as _, Connection as _, Executor as _,
        mysql::MySqlConnection,
        postgres::{PgConnectOptions, PgConnection},
        sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
    },
};
use tokio::time::{Instant, sleep, timeout};

use crate::{ConnectError, DatabaseUrl, Engine, InvalidOption, PoolOptions};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
const SLOW_STATEMENT: Duration = Duration::from_secs(1);

/// The options as this database can bear them.
pub(crate) fn fitted(url: &DatabaseUrl, options: &PoolOptions) -> Result<PoolOptions, InvalidOption> {
    options.validate()?;
    let mut options = options.clone();
    if url.is_in_memory() {
        // An in-memory database dies with its last connection, so there is one, and it stays.
        (options.max, options.min) = (1, 1);
        (options.idle, options.lifetime) = (Duration::ZERO, Duration::ZERO);
    }
    Ok(options)
}

/// Waits until the database answers, then opens the pool on it.
pub(crate) async fn open(url: &DatabaseUrl, options: &PoolOptions) -> Result<DatabaseConnection, ConnectError> {
    let began = Instant::now();
    let unreachable = |cause| ConnectError::Unreachable { url: url.to_string(), waited: began.elapsed(), cause };
    let mut pause = FIRST_PAUSE;
    loop {
        let left = options.acquire.saturating_sub(began.elapsed());
        let cause = match timeout(left, say_hello(url, options)).await {
            Ok(Ok(())) => break,
            Ok(Err(error)) if is_final(&error) => return Err(unreachable(connection_error(error))),
            Ok(Err(error)) => error,
            Err(_) => return Err(unreachable(connection_error(silence()))),
        };
        let left = options.acquire.saturating_sub(began.elapsed());
        if left <= pause {
            // The last cause says more than a time-out would.
            sleep(left).await;
            return Err(unreachable(connection_error(cause)));
        }
        if pause == FIRST_PAUSE {
            tracing::warn!(%url, error = %cause, wait = ?options.acquire, "the database is not there yet; waiting for it");
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Database::connect(connect_options(url, options)).await.map_err(unreachable)
}

/// One connection, opened and closed: sqlx's pool keeps the true cause of a failure to itself.
async fn say_hello(url: &DatabaseUrl, options: &PoolOptions) -> Result<(), sqlx::Error> {
    match url.engine() {
        Engine::Sqlite => {
            let address: SqliteConnectOptions = url.expose().parse()?;
            sqlite_options(address, options.acquire).connect().await?.close().await
        }
        Engine::Postgres => PgConnection::connect(url.expose()).await?.close().await,
        Engine::MySql => MySqlConnection::connect(url.expose()).await?.close().await,
    }
}

/// Whether trying again cannot help: the server answered, and what it refused does not change by itself.
fn is_final(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Configuration(_) => true,
        sqlx::Error::Database(error) => match error.code().as_deref() {
            // PostgreSQL: authentication refused, no such database.
            Some("28000" | "28P01" | "3D000") => true,
            // SQLite: cannot open the file, not a database.
            Some("14" | "26") if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() => true,
            _ => error
                .try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()
                // MySQL: access denied to the database, to the server; no such database.
                .is_some_and(|error| matches!(error.number(), 1044 | 1045 | 1049)),
        },
        _ => false,
    }
}

fn connection_error(error: sqlx::Error) -> DbErr {
    DbErr::Conn(RuntimeErr::SqlxError(error.into()))
}

fn silence() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the server did not answer"))
}

fn connect_options(url: &DatabaseUrl, options: &PoolOptions) -> ConnectOptions {
    let unless_zero = |duration: Duration| (!duration.is_zero()).then_some(duration);
    let mut connect = ConnectOptions::new(url.expose());
    connect
        .max_connections(options.max)
        .min_connections(options.min)
        .acquire_timeout(options.acquire)
        .idle_timeout(unless_zero(options.idle))
        .max_lifetime(unless_zero(options.lifetime))
        .test_before_acquire_if_idle_for(options.validate_after)
        .sqlx_logging_level(LevelFilter::Debug)
        .sqlx_slow_statements_logging_settings(LevelFilter::Warn, SLOW_STATEMENT);
    match url.engine() {
        Engine::Sqlite => {
            let busy = options.acquire;
            connect.map_sqlx_sqlite_opts(move |address| sqlite_options(address, busy));
        }
        Engine::Postgres => {
            let name = options.application_name.clone();
            connect.map_sqlx_postgres_opts(move |address: PgConnectOptions| match address.get_application_name() {
                // What the URL asks for goes first.
                Some(_) => address,
                None => address.application_name(&name),
            });
            if let Some(limit) = unless_zero(options.statement_timeout) {
                connect.statement_timeout(limit);
            }
        }
        Engine::MySql => {
            if let Some(limit) = unless_zero(options.statement_timeout) {
                connect.map_sqlx_mysql_pool_opts(move |pool| {
                    pool.after_connect(move |connection, _| {
                        Box::pin(async move { connection.execute(statement_limit(limit)).await.map(drop) })
                    })
                });
            }
        }
    }
    connect
}

/// Readers and one writer at a time side by side, and nothing acknowledged that a power cut could take back.
fn sqlite_options(address: SqliteConnectOptions, busy_timeout: Duration) -> SqliteConnectOptions {
    address
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(busy_timeout)
        .foreign_keys(true)
}

/// MariaDB and MySQL know the limit by different names and units; each reads its own executable comment only.
fn statement_limit(limit: Duration) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(format!(
        "SET SESSION wait_timeout = @@SESSION.wait_timeout \
         /*M!100101 , max_statement_time = {seconds} */ /*!50708 , max_execution_time = {milliseconds} */",
        seconds = limit.as_secs_f64(),
        milliseconds = limit.as_millis(),
    ))
}
