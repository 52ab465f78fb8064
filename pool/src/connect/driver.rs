//! A driver connection, and SeaORM statements on it.

mod transaction;

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use futures_util::{
    StreamExt, TryStreamExt,
    future::ready,
    stream::{self, BoxStream},
};
use sea_orm::{
    DbBackend, ExecResult, QueryResult, Statement, Value,
    sea_query::Values,
    sqlx::{self, AssertSqlSafe, Connection as _, Executor as _, Row as _, SqlSafeStr as _, SqlStr},
};
use sea_query_sqlx::SqlxValues;

use super::{hooks::BeforeRoundTrip, hosts::HostConnection, socket::Socket};
use crate::error_kind::{DbErrorKind, PoolError, mysql_number};

type Result<T> = std::result::Result<T, sqlx::Error>;

/// An owned connection of one of the drivers. Dropping it closes its socket immediately.
pub(crate) struct DriverConnection {
    driver: Driver,
    socket: Option<Socket>,
    session: ServerSession,
    /// Whether a transaction has changed the session's lock timeout (MySQL).
    has_other_lock_timeout: bool,
    before_round_trip: Option<BeforeRoundTrip>,
    /// The host that it is connected to, if the URL has several.
    host: Option<HostConnection>,
}

impl std::fmt::Debug for DriverConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DriverConnection").field("driver", &self.driver).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(super) enum Driver {
    #[cfg(feature = "sqlite")]
    Sqlite(sqlx::sqlite::SqliteConnection),
    /// With the settings that each transaction applies, if a pooler in transaction mode keeps no session.
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

/// Identifies a session on its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionId {
    /// A digest of the server's identity: another server may use the same session number.
    pub(crate) server: u64,
    pub(crate) number: NonZeroU64,
}

/// A connection's session on the server, and its limits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ServerSession {
    /// `None` behind a pooler in transaction mode, where each transaction may use another session.
    pub(super) id: Option<SessionId>,
    /// Whether the pool has to kill statements that exceed the statement timeout, because the server does not limit all
    /// of them (MySQL).
    pub(super) pool_enforces_timeout: bool,
    /// Size limit of a statement in bytes, if the server reports one.
    pub(super) max_statement_size: Option<usize>,
    /// The lock timeout of the session; zero if there is none.
    pub(super) lock_timeout: Duration,
}

/// Evaluates the same expression for each driver, on a mutable reference to its connection.
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

/// SeaORM statements on owned and on borrowed connections. A macro, because a method that called the other would store
/// its future inside its own and copy both.
macro_rules! statements {
    ($visibility:vis, $kind:ident, $this:ident => $driver:expr) => {
        $visibility async fn execute(&mut self, statement: Statement) -> Result<ExecResult> {
            let $this = self;
            $this.prepare(&statement.sql, statement.values.as_ref()).await?;
            let (sql, values) = parts(statement);
            on!($kind, $driver, connection => {
                sqlx::query_with(sql, values).execute(&mut *connection).await.map(ExecResult::from)
            })
        }

        $visibility async fn execute_unprepared(&mut self, sql: &str) -> Result<ExecResult> {
            let $this = self;
            $this.prepare(sql, None).await?;
            let sql = AssertSqlSafe(sql.to_owned());
            on!($kind, $driver, connection => connection.execute(sql).await.map(ExecResult::from))
        }

        $visibility async fn query_one(&mut self, statement: Statement) -> Result<Option<QueryResult>> {
            let $this = self;
            $this.prepare(&statement.sql, statement.values.as_ref()).await?;
            let (sql, values) = parts(statement);
            on!($kind, $driver, connection => {
                let mut rows = sqlx::query_with(sql, values).fetch(&mut *connection);
                let first = rows.try_next().await?;
                // Read to the end: an error may follow the first row, and SQLite commits a single statement only there.
                while rows.try_next().await?.is_some() {}
                Ok(first.map(QueryResult::from))
            })
        }

        $visibility async fn query_all(&mut self, statement: Statement) -> Result<Vec<QueryResult>> {
            let $this = self;
            $this.prepare(&statement.sql, statement.values.as_ref()).await?;
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

    /// Nothing to do: the statements that set up a new connection are small, and part of its round trips.
    #[expect(clippy::unused_async, reason = "the signature of an owned connection")]
    async fn prepare(&self, _: &str, _: Option<&Values>) -> Result<()> {
        Ok(())
    }

    statements!(pub(super), DriverMut, this => this.reborrow());

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
        Self {
            driver,
            socket,
            session: ServerSession::default(),
            has_other_lock_timeout: false,
            before_round_trip: None,
            host: None,
        }
    }

    pub(super) fn with_session(self, session: ServerSession) -> Self {
        Self { session, ..self }
    }

    pub(super) fn before_round_trip(self, before_round_trip: Option<BeforeRoundTrip>) -> Self {
        Self { before_round_trip, ..self }
    }

    pub(super) fn of_host(self, host: HostConnection) -> Self {
        Self { host: Some(host), ..self }
    }

    /// Returns the host that it is connected to, if the URL has several.
    pub(crate) fn host(&self) -> Option<usize> {
        self.host.as_ref().map(HostConnection::host)
    }

    /// Records a response of the server.
    pub(crate) fn host_responded(&self) {
        if let Some(host) = &self.host {
            host.responded();
        }
    }

    /// Records that the host cannot be used, if there are others.
    pub(crate) fn host_failed(&self, kind: DbErrorKind, detail: &str) {
        if let Some(host) = &self.host {
            host.failed(kind, detail);
        }
    }

    /// Returns the session, and whether the pool has to enforce the statement timeout in it.
    pub(crate) fn session(&self) -> Option<(SessionId, bool)> {
        self.session.id.map(|id| (id, self.session.pool_enforces_timeout))
    }

    /// Checks a statement, and awaits the hook of the application.
    async fn prepare(&self, sql: &str, values: Option<&Values>) -> Result<()> {
        self.check_size(sql, values)?;
        self.round_trip().await;
        Ok(())
    }

    async fn round_trip(&self) {
        if let Some(hook) = &self.before_round_trip {
            hook().await;
        }
    }

    /// Checks that the server accepts a statement of this size.
    fn check_size(&self, sql: &str, values: Option<&Values>) -> Result<()> {
        let Some(limit) = self.session.max_statement_size else { return Ok(()) };
        // SQL text and values are sent in separate packets.
        let size = sql.len().max(values.map_or(0, |values| values.iter().map(size_of).sum()));
        if size < limit { Ok(()) } else { Err(PoolError::too_large(size, limit)) }
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

    /// Whether the server has sent something unsolicited: usually that it is closing the connection.
    pub(crate) fn has_unread(&self) -> bool {
        self.socket.is_some_and(Socket::has_unread)
    }

    /// Whether statements outside a transaction would run in a session without the pool's settings.
    pub(crate) fn needs_transaction(&self) -> bool {
        match self.driver {
            #[cfg(feature = "postgres")]
            Driver::Postgres(_, Some(_)) => true,
            _ => false,
        }
    }

    statements!(pub(crate), Driver, this => &mut this.driver);

    /// Streams the rows of a query.
    pub(crate) fn stream(&mut self, statement: Statement) -> BoxStream<'_, Result<QueryResult>> {
        if let Err(error) = self.check_size(&statement.sql, statement.values.as_ref()) {
            return Box::pin(stream::once(ready(Err(error))));
        }
        let (sql, values) = parts(statement);
        let before = self.before_round_trip.clone();
        let rows: BoxStream<'_, Result<QueryResult>> = on!(Driver, &mut self.driver, connection => {
            Box::pin(sqlx::query_with(sql, values).fetch(connection).map_ok(QueryResult::from))
        });
        match before {
            Some(hook) => Box::pin(
                stream::once(async move {
                    hook().await;
                    rows
                })
                .flatten(),
            ),
            None => rows,
        }
    }

    pub(crate) async fn ping(&mut self) -> Result<()> {
        self.round_trip().await;
        on!(Driver, &mut self.driver, connection => connection.ping().await)
    }

    /// Closes the connection gracefully: notifies the server, then closes the socket.
    pub(crate) async fn close(self) -> Result<()> {
        on!(Driver, self.driver, connection => connection.close().await)
    }

    async fn run(&mut self, sql: String) -> Result<()> {
        self.round_trip().await;
        match &mut self.driver {
            // As a statement with parameters, of which it has none, it is prepared once per connection.
            #[cfg(feature = "sqlite")]
            Driver::Sqlite(connection) => sqlx::query(AssertSqlSafe(sql)).execute(connection).await.map(drop),
            #[cfg(feature = "postgres")]
            Driver::Postgres(connection, ..) => connection.execute(AssertSqlSafe(sql)).await.map(drop),
            #[cfg(feature = "mysql")]
            Driver::MySql(connection) => connection.execute(AssertSqlSafe(sql)).await.map(drop),
        }
    }

    /// Returns those of the given sessions that, according to the server, have been waiting for their next statement
    /// for a second or more. Sessions of other servers are skipped.
    pub(crate) async fn idle_sessions(&mut self, sessions: &[SessionId]) -> Result<Vec<SessionId>> {
        let server = self.session.id.map(|id| id.server);
        let candidates: Vec<SessionId> =
            sessions.iter().copied().filter(|session| Some(session.server) == server).collect();
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        let numbers: Vec<String> = candidates.iter().map(|session| session.number.to_string()).collect();
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
        self.round_trip().await;
        let idle: Vec<u64> = on!(Driver, &mut self.driver, connection => {
            let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection).await?;
            let numbers = rows.iter().map(|row| row.try_get::<i64, _>(0).map(i64::unsigned_abs));
            numbers.collect::<Result<_>>()?
        });
        Ok(candidates.into_iter().filter(|session| idle.contains(&session.number.get())).collect())
    }

    /// Cancels the statement that runs in another session of the same server. Succeeds if that session has already
    /// ended.
    pub(crate) async fn kill_statement(&mut self, session: SessionId) -> Result<()> {
        const NO_SUCH_SESSION: u16 = 1094;
        if self.session.id.map(|id| id.server) != Some(session.server) {
            // After a failover, or behind a load balancer, the number may belong to another client's session.
            return Err(sqlx::Error::Io(std::io::Error::other("another server responds at the database's address")));
        }
        match self.run(format!("KILL QUERY {}", session.number)).await {
            Err(error) if mysql_number(&error) != Some(NO_SUCH_SESSION) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Returns the maximum size of a value on the wire, in bytes.
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
