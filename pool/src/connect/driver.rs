//! One connection of a driver, and SeaORM's statements on it.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use futures_util::{
    TryStreamExt,
    future::ready,
    stream::{self, BoxStream},
};
#[cfg(feature = "sqlite")]
use sea_orm::AccessMode;
use sea_orm::{
    DbBackend, ExecResult, QueryResult, Statement, TransactionOptions, Value,
    sea_query::Values,
    sqlx::{self, AssertSqlSafe, Connection as _, Executor as _, Row as _, SqlSafeStr as _, SqlStr},
};
use sea_query_sqlx::SqlxValues;

use super::socket::Socket;
use crate::error_kind::{PoolError, mysql_number};

type Result<T> = std::result::Result<T, sqlx::Error>;

/// A connection of one of the engines, owned: dropping it closes its socket at once.
#[derive(Debug)]
pub(crate) struct DriverConnection {
    driver: Driver,
    socket: Option<Socket>,
    session: ServerSession,
    /// Whether another limit is in force, which outlasts the transaction (MySQL).
    has_other_lock_timeout: bool,
}

#[derive(Debug)]
pub(super) enum Driver {
    #[cfg(feature = "sqlite")]
    Sqlite(sqlx::sqlite::SqliteConnection),
    /// With what each transaction has to set, where a pooler in transaction mode keeps no session.
    #[cfg(feature = "postgres")]
    Postgres(sqlx::postgres::PgConnection, Option<Arc<str>>),
    #[cfg(feature = "mysql")]
    MySql(sqlx::mysql::MySqlConnection),
}

/// A borrowed connection of one of the drivers.
#[derive(Debug)]
pub(super) enum DriverMut<'a> {
    #[cfg(feature = "sqlite")]
    Sqlite(&'a mut sqlx::sqlite::SqliteConnection),
    #[cfg(feature = "postgres")]
    Postgres(&'a mut sqlx::postgres::PgConnection),
    #[cfg(feature = "mysql")]
    MySql(&'a mut sqlx::mysql::MySqlConnection),
}

/// A session as the server itself knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionId {
    /// A digest of the server's own identity: another server may have the same number.
    pub(crate) server: u64,
    pub(crate) number: NonZeroU64,
}

/// What is known of a session of a server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ServerSession {
    /// None behind a pooler in transaction mode, where each transaction may meet another session.
    pub(super) id: Option<SessionId>,
    /// Whether the pool has to kill statements that run too long, since the server does not limit all of them (MySQL).
    pub(super) is_limited_by_pool: bool,
    /// Bytes of the largest statement that the server takes, if it says so.
    pub(super) largest: Option<usize>,
    /// The session's own limit of a wait for a lock; zero if there is none.
    pub(super) lock_timeout: Duration,
}

/// The same expression for each driver, on a mutable reference to its connection.
macro_rules! on {
    ($kind:ident, $driver:expr, $connection:ident => $body:expr) => {
        match $driver {
            #[cfg(feature = "sqlite")]
            $kind::Sqlite($connection) => $body,
            #[cfg(feature = "postgres")]
            $kind::Postgres($connection, ..) => $body,
            #[cfg(feature = "mysql")]
            $kind::MySql($connection) => $body,
        }
    };
}

/// SeaORM's statements, on an owned connection and on a borrowed one alike. A macro, since one method that called the other
/// would keep its future inside its own, and copy both.
macro_rules! statements {
    ($visibility:vis, $kind:ident, $own:ident => $driver:expr) => {
        $visibility async fn execute(&mut self, statement: Statement) -> Result<ExecResult> {
            let $own = self;
            $own.check_size(&statement.sql, statement.values.as_ref())?;
            let (sql, values) = parts(statement);
            on!($kind, $driver, connection => {
                sqlx::query_with(sql, values).execute(&mut *connection).await.map(ExecResult::from)
            })
        }

        $visibility async fn execute_unprepared(&mut self, sql: &str) -> Result<ExecResult> {
            let $own = self;
            $own.check_size(sql, None)?;
            let sql = AssertSqlSafe(sql.to_owned());
            on!($kind, $driver, connection => connection.execute(sql).await.map(ExecResult::from))
        }

        $visibility async fn query_one(&mut self, statement: Statement) -> Result<Option<QueryResult>> {
            let $own = self;
            $own.check_size(&statement.sql, statement.values.as_ref())?;
            let (sql, values) = parts(statement);
            on!($kind, $driver, connection => {
                let mut rows = sqlx::query_with(sql, values).fetch(&mut *connection);
                let first = rows.try_next().await?;
                // To the end: an error may come after the first row. SQLite commits a single statement there.
                while rows.try_next().await?.is_some() {}
                Ok(first.map(QueryResult::from))
            })
        }

        $visibility async fn query_all(&mut self, statement: Statement) -> Result<Vec<QueryResult>> {
            let $own = self;
            $own.check_size(&statement.sql, statement.values.as_ref())?;
            let (sql, values) = parts(statement);
            on!($kind, $driver, connection => {
                let rows = sqlx::query_with(sql, values).fetch_all(&mut *connection).await?;
                Ok(rows.into_iter().map(QueryResult::from).collect())
            })
        }
    };
}

impl DriverMut<'_> {
    pub(super) fn backend(&self) -> DbBackend {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => DbBackend::Sqlite,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => DbBackend::Postgres,
            #[cfg(feature = "mysql")]
            Self::MySql(_) => DbBackend::MySql,
        }
    }

    /// What a new connection is set up with is small.
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "as of an owned connection")]
    fn check_size(&self, _: &str, _: Option<&Values>) -> Result<()> {
        Ok(())
    }

    statements!(pub(super), DriverMut, own => own.reborrow());

    fn reborrow(&mut self) -> DriverMut<'_> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(connection) => DriverMut::Sqlite(connection),
            #[cfg(feature = "postgres")]
            Self::Postgres(connection) => DriverMut::Postgres(connection),
            #[cfg(feature = "mysql")]
            Self::MySql(connection) => DriverMut::MySql(connection),
        }
    }
}

impl DriverConnection {
    pub(super) fn new(driver: Driver, socket: Option<Socket>) -> Self {
        Self { driver, socket, session: ServerSession::default(), has_other_lock_timeout: false }
    }

    pub(super) fn with_session(self, session: ServerSession) -> Self {
        Self { session, ..self }
    }

    /// The session, and whether the pool has to kill statements in it that run too long.
    pub(crate) fn session(&self) -> Option<(SessionId, bool)> {
        self.session.id.map(|id| (id, self.session.is_limited_by_pool))
    }

    /// Whether the server takes statements of this size.
    fn check_size(&self, sql: &str, values: Option<&Values>) -> Result<()> {
        let Some(largest) = self.session.largest else { return Ok(()) };
        // Text and values are sent one after the other.
        let size = sql.len().max(values.map_or(0, |values| values.iter().map(size_of).sum()));
        if size < largest { Ok(()) } else { Err(PoolError::too_large(size, largest)) }
    }

    pub(super) fn borrow(&mut self) -> DriverMut<'_> {
        match &mut self.driver {
            #[cfg(feature = "sqlite")]
            Driver::Sqlite(connection) => DriverMut::Sqlite(connection),
            #[cfg(feature = "postgres")]
            Driver::Postgres(connection, _) => DriverMut::Postgres(connection),
            #[cfg(feature = "mysql")]
            Driver::MySql(connection) => DriverMut::MySql(connection),
        }
    }

    pub(crate) fn backend(&self) -> DbBackend {
        match self.driver {
            #[cfg(feature = "sqlite")]
            Driver::Sqlite(_) => DbBackend::Sqlite,
            #[cfg(feature = "postgres")]
            Driver::Postgres(..) => DbBackend::Postgres,
            #[cfg(feature = "mysql")]
            Driver::MySql(_) => DbBackend::MySql,
        }
    }

    /// Whether the server has sent something that no statement has asked for: as a rule, that it closes the connection.
    pub(crate) fn has_unread(&self) -> bool {
        self.socket.is_some_and(Socket::has_unread)
    }

    /// Whether a statement outside of a transaction meets a session that nothing was set for.
    pub(crate) fn needs_transaction(&self) -> bool {
        match self.driver {
            #[cfg(feature = "postgres")]
            Driver::Postgres(_, Some(_)) => true,
            _ => false,
        }
    }

    statements!(pub(crate), Driver, own => &mut own.driver);

    /// The rows of a query, as they come.
    pub(crate) fn stream(&mut self, statement: Statement) -> BoxStream<'_, Result<QueryResult>> {
        if let Err(error) = self.check_size(&statement.sql, statement.values.as_ref()) {
            return Box::pin(stream::once(ready(Err(error))));
        }
        let (sql, values) = parts(statement);
        on!(Driver, &mut self.driver, connection => {
            Box::pin(sqlx::query_with(sql, values).fetch(connection).map_ok(QueryResult::from))
        })
    }

    pub(crate) async fn ping(&mut self) -> Result<()> {
        on!(Driver, &mut self.driver, connection => connection.ping().await)
    }

    /// Tells the server, then closes the socket.
    pub(crate) async fn close(self) -> Result<()> {
        on!(Driver, self.driver, connection => connection.close().await)
    }

    /// Begins a transaction, or sets a savepoint inside the one that is open. A transaction may wait for locks for less time
    /// than its session.
    pub(crate) async fn begin(
        &mut self,
        depth: u32,
        options: &TransactionOptions,
        lock_timeout: Option<Duration>,
    ) -> Result<()> {
        if depth > 0 {
            return self.run(format!("SAVEPOINT orm_pool_{depth}")).await;
        }
        let level = options.isolation_level.map(|level| format!(" ISOLATION LEVEL {level}")).unwrap_or_default();
        let mode = options.access_mode.map(|mode| format!(" {mode}")).unwrap_or_default();
        let lock_timeout =
            lock_timeout.filter(|limit| self.session.lock_timeout.is_zero() || *limit < self.session.lock_timeout);
        match &self.driver {
            #[cfg(feature = "postgres")]
            Driver::Postgres(_, settings) => {
                // In one round trip.
                let lock = lock_timeout.map(|limit| format!("; SET LOCAL lock_timeout = {}", limit.as_millis()));
                let lock = lock.unwrap_or_default();
                let sql = match settings {
                    None => format!("BEGIN{level}{mode}{lock}"),
                    Some(settings) => {
                        // The session's own default of the level cannot be set in time.
                        let level = if level.is_empty() { " ISOLATION LEVEL READ COMMITTED" } else { &level };
                        format!("BEGIN{level}{mode}; {settings}{lock}")
                    }
                };
                let outcome = self.run(sql).await;
                if matches!(outcome, Err(sqlx::Error::Database(_))) {
                    self.run("ROLLBACK".to_owned()).await?;
                }
                outcome
            }
            #[cfg(feature = "mysql")]
            Driver::MySql(_) => {
                // Holds for the next transaction only.
                let level = if level.is_empty() { level } else { format!("SET TRANSACTION{level}; ") };
                let lock = lock_timeout.map(|limit| {
                    self.has_other_lock_timeout = true;
                    format!("SET innodb_lock_wait_timeout = {}; ", limit.as_secs().max(1))
                });
                self.run(format!("{}{level}START TRANSACTION{mode}", lock.unwrap_or_default())).await
            }
            #[cfg(feature = "sqlite")]
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
            0 | 1 => self.end_transaction("COMMIT").await,
            _ => self.run(format!("RELEASE SAVEPOINT orm_pool_{}", depth - 1)).await,
        }
    }

    /// Rolls the transaction back, or back to the newest of its savepoints.
    pub(crate) async fn rollback(&mut self, depth: u32) -> Result<()> {
        match depth {
            0 | 1 => self.end_transaction("ROLLBACK").await,
            _ => self.run(format!("ROLLBACK TO SAVEPOINT orm_pool_{}", depth - 1)).await,
        }
    }

    async fn end_transaction(&mut self, sql: &str) -> Result<()> {
        if !self.has_other_lock_timeout {
            return self.run(sql.to_owned()).await;
        }
        let ended = self.run(format!("{sql}; {}", self.own_lock_timeout())).await;
        self.has_other_lock_timeout = ended.is_err();
        ended
    }

    fn own_lock_timeout(&self) -> String {
        format!("SET innodb_lock_wait_timeout = {}", self.session.lock_timeout.as_secs().max(1))
    }

    /// Whether a transaction has left another limit of a wait for a lock than the session's own.
    pub(crate) fn has_other_lock_timeout(&self) -> bool {
        self.has_other_lock_timeout
    }

    /// Gives the session its own limit of a wait for a lock again.
    pub(crate) async fn restore_lock_timeout(&mut self) -> Result<()> {
        self.run(self.own_lock_timeout()).await?;
        self.has_other_lock_timeout = false;
        Ok(())
    }

    async fn run(&mut self, sql: String) -> Result<()> {
        on!(Driver, &mut self.driver, connection => connection.execute(AssertSqlSafe(sql)).await.map(drop))
    }

    /// Which of these sessions have been idle for a second or more, as the server says: it waits for their next statement.
    /// Sessions of other servers are not judged.
    pub(crate) async fn idle_sessions(&mut self, sessions: &[SessionId]) -> Result<Vec<SessionId>> {
        let own = self.session.id.map(|own| own.server);
        let here: Vec<SessionId> = sessions.iter().copied().filter(|session| Some(session.server) == own).collect();
        if here.is_empty() {
            return Ok(Vec::new());
        }
        let numbers: Vec<String> = here.iter().map(|session| session.number.to_string()).collect();
        let numbers = numbers.join(", ");
        let sql = match self.backend() {
            DbBackend::Postgres => format!(
                "SELECT pid::bigint FROM pg_stat_activity WHERE pid IN ({numbers}) AND state LIKE 'idle%' \
                 AND state_change < clock_timestamp() - interval '1 second'"
            ),
            _ => format!(
                "SELECT CAST(ID AS SIGNED) FROM information_schema.PROCESSLIST WHERE ID IN ({numbers}) \
                 AND COMMAND = 'Sleep' AND TIME > 1"
            ),
        };
        let idle: Vec<u64> = on!(Driver, &mut self.driver, connection => {
            let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection).await?;
            let numbers = rows.iter().map(|row| row.try_get::<i64, _>(0).map(i64::unsigned_abs));
            numbers.collect::<Result<_>>()?
        });
        Ok(here.into_iter().filter(|session| idle.contains(&session.number.get())).collect())
    }

    /// Ends the statement that runs in another session of the same server. Succeeds if that session has already ended.
    pub(crate) async fn kill_statement(&mut self, session: SessionId) -> Result<()> {
        const NO_SUCH_SESSION: u16 = 1094;
        if self.session.id.map(|own| own.server) != Some(session.server) {
            // After a failover, or behind a balancer: there the number may belong to another client's session.
            return Err(sqlx::Error::Io(std::io::Error::other("another server answers at the database's address")));
        }
        match self.run(format!("KILL QUERY {}", session.number)).await {
            Err(error) if mysql_number(&error) != Some(NO_SUCH_SESSION) => Err(error),
            _ => Ok(()),
        }
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
