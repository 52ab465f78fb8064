//! One connection of a driver, and SeaORM's statements on it.

use std::{num::NonZeroU64, sync::Arc};

use futures_util::TryStreamExt;
use sea_orm::{
    AccessMode, DbBackend, ExecResult, QueryResult, Statement, TransactionOptions, Value,
    sea_query::Values,
    sqlx::{
        self, AssertSqlSafe, Connection as _, Executor as _, SqlSafeStr as _, SqlStr, mysql::MySqlConnection,
        postgres::PgConnection, sqlite::SqliteConnection,
    },
};
use sea_query_sqlx::SqlxValues;

use crate::peek::Socket;

type Result<T> = std::result::Result<T, sqlx::Error>;

/// A connection of one of the engines, owned: dropping it closes its socket at once.
#[derive(Debug)]
pub(crate) struct Raw {
    driver: Driver,
    socket: Option<Socket>,
    /// What is known of a session of MySQL.
    session: Option<MySqlSession>,
}

#[derive(Debug)]
pub(crate) enum Driver {
    Sqlite(SqliteConnection),
    /// With what each transaction has to set, where a pooler in transaction mode keeps no session.
    Postgres(PgConnection, Option<Arc<str>>),
    MySql(MySqlConnection),
}

/// A session of MySQL, as `KILL QUERY` knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionId {
    /// A digest of the server's own id: another server may have the same number.
    pub(crate) server: u64,
    pub(crate) number: NonZeroU64,
}

/// What is known of a session of MySQL or MariaDB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MySqlSession {
    /// To end statements in, if the server does not limit all of them itself.
    pub(crate) id: Option<SessionId>,
    /// Bytes of the largest statement that the server takes.
    pub(crate) largest: usize,
}

/// A statement that was not sent: the server would close the connection while it is still coming in, and the reason would be
/// lost.
#[derive(Debug, thiserror::Error)]
#[error("the statement has {size} bytes, and the server's max_allowed_packet is {largest}")]
pub(crate) struct TooLarge {
    size: usize,
    largest: usize,
}

/// The same expression for whichever driver it is.
macro_rules! on {
    ($raw:expr, $connection:ident => $body:expr) => {
        match $raw {
            Driver::Sqlite($connection) => $body,
            Driver::Postgres($connection, _) => $body,
            Driver::MySql($connection) => $body,
        }
    };
}

impl Raw {
    pub(crate) fn new(driver: Driver, socket: Option<Socket>) -> Self {
        Self { driver, socket, session: None }
    }

    pub(crate) fn with_session(self, session: MySqlSession) -> Self {
        Self { session: Some(session), ..self }
    }

    /// The session to end statements in, if the server does not limit all of them itself.
    pub(crate) fn session(&self) -> Option<SessionId> {
        self.session.and_then(|session| session.id)
    }

    /// Whether the server takes statements of this size.
    fn check_size(&self, sql: &str, values: Option<&Values>) -> Result<()> {
        let Some(MySqlSession { largest, .. }) = self.session else { return Ok(()) };
        // Text and values are sent one after the other.
        let size = sql.len().max(values.map_or(0, |values| values.iter().map(size_of).sum()));
        if size < largest { Ok(()) } else { Err(sqlx::Error::Encode(Box::new(TooLarge { size, largest }))) }
    }

    pub(crate) fn backend(&self) -> DbBackend {
        match self.driver {
            Driver::Sqlite(_) => DbBackend::Sqlite,
            Driver::Postgres(..) => DbBackend::Postgres,
            Driver::MySql(_) => DbBackend::MySql,
        }
    }

    /// Whether the server has sent something that no statement has asked for: as a rule, that it closes the connection.
    pub(crate) fn has_unread(&self) -> bool {
        self.socket.is_some_and(Socket::has_unread)
    }

    /// Whether a statement outside of a transaction meets a session that nothing was set for.
    pub(crate) fn needs_transaction(&self) -> bool {
        matches!(self.driver, Driver::Postgres(_, Some(_)))
    }

    pub(crate) async fn execute(&mut self, statement: Statement) -> Result<ExecResult> {
        self.check_size(&statement.sql, statement.values.as_ref())?;
        let (sql, values) = parts(statement);
        on!(&mut self.driver, raw => sqlx::query_with(sql, values).execute(raw).await.map(ExecResult::from))
    }

    pub(crate) async fn execute_unprepared(&mut self, sql: &str) -> Result<ExecResult> {
        self.check_size(sql, None)?;
        let sql = AssertSqlSafe(sql.to_owned());
        on!(&mut self.driver, raw => raw.execute(sql).await.map(ExecResult::from))
    }

    pub(crate) async fn query_one(&mut self, statement: Statement) -> Result<Option<QueryResult>> {
        self.check_size(&statement.sql, statement.values.as_ref())?;
        let (sql, values) = parts(statement);
        on!(&mut self.driver, raw => {
            let mut rows = sqlx::query_with(sql, values).fetch(raw);
            let first = rows.try_next().await?;
            // To the end: an error may come after the first row. SQLite commits a single statement there.
            while rows.try_next().await?.is_some() {}
            Ok(first.map(QueryResult::from))
        })
    }

    pub(crate) async fn query_all(&mut self, statement: Statement) -> Result<Vec<QueryResult>> {
        self.check_size(&statement.sql, statement.values.as_ref())?;
        let (sql, values) = parts(statement);
        on!(&mut self.driver, raw => {
            let rows = sqlx::query_with(sql, values).fetch_all(raw).await?;
            Ok(rows.into_iter().map(QueryResult::from).collect())
        })
    }

    pub(crate) async fn ping(&mut self) -> Result<()> {
        on!(&mut self.driver, raw => raw.ping().await)
    }

    /// Says goodbye to the server, then closes.
    pub(crate) async fn close(self) -> Result<()> {
        on!(self.driver, raw => raw.close().await)
    }

    /// Begins a transaction, or sets a savepoint inside the one that is open.
    pub(crate) async fn begin(&mut self, depth: u32, options: &TransactionOptions) -> Result<()> {
        if depth > 0 {
            return self.run(format!("SAVEPOINT orm_pool_{depth}")).await;
        }
        let level = options.isolation_level.map(|level| format!(" ISOLATION LEVEL {level}")).unwrap_or_default();
        let mode = options.access_mode.map(|mode| format!(" {mode}")).unwrap_or_default();
        match &self.driver {
            Driver::Postgres(_, None) => self.run(format!("BEGIN{level}{mode}")).await,
            Driver::Postgres(_, Some(settings)) => {
                // In one round trip. The session's own default of the level cannot be set in time.
                let level = if level.is_empty() { " ISOLATION LEVEL READ COMMITTED" } else { &level };
                let sql = format!("BEGIN{level}{mode}; {settings}");
                let outcome = self.run(sql).await;
                if matches!(outcome, Err(sqlx::Error::Database(_))) {
                    self.run("ROLLBACK".to_owned()).await?;
                }
                outcome
            }
            Driver::MySql(_) => {
                if !level.is_empty() {
                    // Holds for the next transaction only.
                    self.run(format!("SET TRANSACTION{level}")).await?;
                }
                self.run(format!("START TRANSACTION{mode}")).await
            }
            Driver::Sqlite(_) => {
                // A deferred transaction that turns into a writer ignores the busy time-out.
                let keyword = match (options.sqlite_transaction_mode, options.access_mode) {
                    (Some(mode), _) => mode.sqlite_keyword(),
                    (None, Some(AccessMode::ReadOnly)) => "DEFERRED",
                    (None, _) => "IMMEDIATE",
                };
                self.run(format!("BEGIN {keyword}")).await
            }
        }
    }

    /// Commits the transaction, or releases the newest of its savepoints.
    pub(crate) async fn commit(&mut self, depth: u32) -> Result<()> {
        match depth {
            0 | 1 => self.run("COMMIT".to_owned()).await,
            _ => self.run(format!("RELEASE SAVEPOINT orm_pool_{}", depth - 1)).await,
        }
    }

    /// Rolls the transaction back, or back to the newest of its savepoints.
    pub(crate) async fn rollback(&mut self, depth: u32) -> Result<()> {
        match depth {
            0 | 1 => self.run("ROLLBACK".to_owned()).await,
            _ => self.run(format!("ROLLBACK TO SAVEPOINT orm_pool_{}", depth - 1)).await,
        }
    }

    async fn run(&mut self, sql: String) -> Result<()> {
        on!(&mut self.driver, raw => raw.execute(AssertSqlSafe(sql)).await.map(drop))
    }

    /// How many connections the server takes from everybody together; `None` for an embedded engine.
    pub(crate) async fn server_limit(&mut self) -> Result<Option<u32>> {
        let sql = match self.driver {
            Driver::Sqlite(_) => return Ok(None),
            Driver::Postgres(..) => {
                "SELECT current_setting('max_connections')::bigint \
                 - current_setting('superuser_reserved_connections')::bigint"
            }
            Driver::MySql(_) => "SELECT CAST(@@max_connections AS SIGNED)",
        };
        let row = self.query_one(Statement::from_string(self.backend(), sql)).await?;
        let limit: Option<i64> = row.and_then(|row| row.try_get_by_index(0).ok());
        Ok(limit.and_then(|limit| u32::try_from(limit).ok()))
    }
}

/// Bytes of a value on the wire, at the most.
fn size_of(value: &Value) -> usize {
    match value {
        Value::String(Some(text)) => text.len(),
        Value::Bytes(Some(bytes)) => bytes.len(),
        _ => 16,
    }
}

fn parts(statement: Statement) -> (SqlStr, SqlxValues) {
    let values: Vec<Value> = statement.values.map_or_else(Vec::new, |values| values.0);
    (AssertSqlSafe(statement.sql).into_sql_str(), SqlxValues(Values(values)))
}
