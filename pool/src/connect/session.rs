//! What every connection's session is set to.
//!
//! Servers, databases and roles have defaults, and some of them change what a statement or a commit means. Whatever the
//! pool and the operations on it rely on is therefore set on each new connection, in one round trip, or looked at and
//! refused. A default that can only make a statement fail, with an error that says so, is the operator's choice.
//!
//! | engine | setting | what a hostile default does | here |
//! |---|---|---|---|
//! | MySQL | `autocommit` | single statements are never committed; reads keep an old snapshot | set: 1 |
//! | MySQL | `completion_type` | COMMIT opens another transaction, or closes the connection | set: `NO_CHAIN` |
//! | MySQL | isolation level | reads see what is rolled back later; reads take locks | set: `REPEATABLE READ` |
//! | MySQL | `sql_mode` | values are cut to fit; quotes, backslashes, empty strings mean something else | set, as a whole |
//! | MySQL | `sql_select_limit` | results end early | set: no limit |
//! | MySQL | `sql_safe_updates`, `max_join_size` | statements are refused | set: off |
//! | MySQL | `sql_auto_is_null` | `IS NULL` finds the row that was inserted last | set: 0 |
//! | MySQL | `unique_checks`, `foreign_key_checks` | duplicates are accepted | set: 1 |
//! | MySQL | `max_sort_length` | long values are sorted by their beginning | set: at least 2048 |
//! | MySQL | `time_zone`, character sets | other moments, other characters | set: UTC, the URL's or utf8mb4 |
//! | MySQL | `default_storage_engine` | tables without transactions | set: InnoDB |
//! | MySQL | `innodb_lock_wait_timeout`, `lock_wait_timeout` | waits outlast the statement's limit | set: a second more at most |
//! | MySQL | `init_connect` | any of these, before us | undone by the above |
//! | MySQL | `transaction_read_only` | writes fail: read-only | respected |
//! | MySQL | `innodb_rollback_on_timeout`, `innodb_snapshot_isolation` | conflicts are found otherwise | both ways work |
//! | MySQL | `innodb_flush_log_at_trx_commit` | a crash takes acknowledged commits back | warned of once |
//! | MySQL | `wsrep_sync_wait`, `wsrep_on`, `wait_timeout` | stale reads on Galera; idle connections end | respected |
//! | PostgreSQL | `synchronous_commit` | `off`: a crash takes acknowledged commits back | set: not `off` |
//! | PostgreSQL | `default_transaction_isolation` | every read can fail for conflicts | set: `read committed` |
//! | PostgreSQL | `transform_null_equals`, `standard_conforming_strings` | expressions mean something else | set |
//! | PostgreSQL | `exit_on_error` | each refused statement ends the connection | set: off |
//! | PostgreSQL | `statement_timeout` | statements never end, or too early | set |
//! | PostgreSQL | `client_encoding`, `DateStyle`, `TimeZone` | other characters, other moments | set by the driver |
//! | PostgreSQL | `default_transaction_read_only` | writes fail: read-only | respected |
//! | PostgreSQL | `search_path`, `row_security`, `default_tablespace` | which tables and rows there are | respected |
//! | PostgreSQL | `lock_timeout`, `transaction_timeout`, `idle_*_timeout` | statements or connections end early | respected |
//! | PostgreSQL | `bytea_output`, `extra_float_digits`, `array_nulls`, ... | text formats | irrelevant: values are binary |
//! | PostgreSQL | `fsync`, `full_page_writes` | a crash takes acknowledged commits back | warned of once |
//! | SQLite | `synchronous`, `foreign_keys`, `busy_timeout` | compiled-in defaults | set by the driver |
//! | SQLite | `encoding` (of the file) | UTF-16 sorts otherwise | refused |
//! | SQLite | `journal_mode` (of the file) | cannot always be changed to WAL: readers wait for writers | warned of once |
//!
//! Behind a connection pooler in transaction mode there is no session to set: see the module `pooler`.
//!
//! What only a statement can ask for (`defer_foreign_keys`, `query_only`, `case_sensitive_like`, ...) is asked for by no one.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use sea_orm::sqlx::{
    self, AssertSqlSafe, Row as _,
    mysql::{MySqlConnectOptions, MySqlConnection},
    postgres::{PgConnectOptions, PgConnection},
    sqlite::SqliteConnection,
};

use super::pooler::{self, Pooler};
use crate::error_kind::PoolError;

/// How long the server lets a statement run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// As long as the server's own default says.
    Default,
    /// As long as it takes.
    Never,
    After(Duration),
}

/// What is set on each new connection.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    limit: Limit,
    found: Arc<OnceLock<Found>>,
}

/// What the first connection has shown.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// The limit of a statement; zero if there is none.
    statement_timeout: Duration,
    /// PostgreSQL's own limit of a wait for a lock; zero if there is none.
    lock_timeout: Duration,
    /// Connections that the server takes from all clients together.
    max_connections: Option<u32>,
    pooler: Option<Pooler>,
}

impl Session {
    /// Sessions whose statements the server ends after this time; zero leaves that to the server.
    pub(crate) fn new(statement_timeout: Duration) -> Self {
        let limit = if statement_timeout.is_zero() { Limit::Default } else { Limit::After(statement_timeout) };
        Self { limit, found: Arc::default() }
    }

    /// The same for statements that may take as long as they need.
    pub(crate) fn unlimited(&self) -> Self {
        Self { limit: Limit::Never, ..self.clone() }
    }

    /// The limit of a statement that was found to be in force; zero if there is none.
    pub(crate) fn statement_timeout(&self) -> Duration {
        self.found.get().map(|found| found.statement_timeout).unwrap_or_default()
    }

    /// The pooler that was found between here and the database.
    pub(crate) fn pooler(&self) -> Option<Pooler> {
        self.found.get().and_then(|found| found.pooler)
    }

    /// PostgreSQL's own limit of a wait for a lock; zero if there is none.
    pub(crate) fn lock_timeout(&self) -> Duration {
        self.found.get().map(|found| found.lock_timeout).unwrap_or_default()
    }

    /// How many connections the server takes from all clients together; `None` for an embedded engine.
    pub(crate) fn max_connections(&self) -> Option<u32> {
        self.found.get().and_then(|found| found.max_connections)
    }

    /// What each transaction has to set for itself, as another one may meet another session.
    pub(crate) fn of_transaction(&self) -> Option<Arc<str>> {
        self.pooler().map(|_| self.postgres_settings(true).into())
    }

    /// Sets a session of PostgreSQL, if a connection has one.
    pub(crate) async fn set_postgres(
        &self,
        raw: &mut PgConnection,
        address: &PgConnectOptions,
    ) -> Result<(), sqlx::Error> {
        let is_first = self.found.get().is_none();
        let pooler = if is_first { pooler::find(raw, address).await? } else { self.pooler() };
        if pooler.is_none() {
            sqlx::raw_sql(AssertSqlSafe(self.postgres_settings(false))).execute(&mut *raw).await?;
        }
        if !is_first {
            return Ok(());
        }
        let settings = if pooler.is_some() { self.postgres_settings(true) } else { "SELECT".to_owned() };
        sqlx::raw_sql(AssertSqlSafe(format!("BEGIN; {settings}"))).execute(&mut *raw).await?;
        let sql = "SELECT s.setting::bigint, l.setting::bigint, \
                   current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint, \
                   current_setting('fsync') || '/' || current_setting('full_page_writes') \
                   FROM pg_settings s, pg_settings l WHERE s.name = 'statement_timeout' AND l.name = 'lock_timeout'";
        let row = sqlx::raw_sql(sql).fetch_one(&mut *raw).await?;
        sqlx::raw_sql("ROLLBACK").execute(raw).await?;
        let (limit, lock, connections, flushes): (i64, i64, i64, String) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
        self.found(Found {
            statement_timeout: Duration::from_millis(limit.unsigned_abs()),
            lock_timeout: Duration::from_millis(lock.unsigned_abs()),
            max_connections: u32::try_from(connections).ok(),
            pooler,
        });
        if flushes != "on/on" {
            warn_of_loss("fsync/full_page_writes", &flushes);
        }
        Ok(())
    }

    /// For the session, or for the transaction that is open.
    fn postgres_settings(&self, is_local: bool) -> String {
        let limit = match self.limit {
            Limit::Default => String::new(),
            Limit::Never => format!(", set_config('statement_timeout', '0', {is_local})"),
            Limit::After(limit) => format!(", set_config('statement_timeout', '{}', {is_local})", whole_millis(limit)),
        };
        format!(
            "SELECT set_config('default_transaction_isolation', 'read committed', {is_local}), \
             set_config('synchronous_commit', \
             coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), {is_local}), \
             set_config('transform_null_equals', 'off', {is_local}), \
             set_config('standard_conforming_strings', 'on', {is_local}), \
             set_config('exit_on_error', 'off', {is_local}){limit}"
        )
    }

    /// Sets a session of MySQL or MariaDB, for a connection that was opened with [`bare_mysql`].
    pub(crate) async fn set_mysql(
        &self,
        raw: &mut MySqlConnection,
        address: &MySqlConnectOptions,
    ) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(self.mysql_settings(address))).execute(&mut *raw).await?;
        if self.found.get().is_some() {
            return Ok(());
        }
        let sql = "SELECT CAST(0 /*M!100101 + @@max_statement_time * 1000 */ /*!50720 + @@max_execution_time */ AS SIGNED), \
                   CAST(@@max_connections AS SIGNED), \
                   CAST(@@innodb_flush_log_at_trx_commit AS SIGNED)";
        let row = sqlx::raw_sql(sql).fetch_one(raw).await?;
        let (limit, connections, flushes): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        self.found(Found {
            statement_timeout: Duration::from_millis(limit.unsigned_abs()),
            lock_timeout: Duration::ZERO,
            max_connections: u32::try_from(connections).ok(),
            pooler: None,
        });
        if flushes != 1 {
            warn_of_loss("innodb_flush_log_at_trx_commit", &flushes.to_string());
        }
        Ok(())
    }

    /// MariaDB and MySQL have other names for some things; each reads its own executable comments only.
    fn mysql_settings(&self, address: &MySqlConnectOptions) -> String {
        let collation = address.get_collation().map(|name| format!(" COLLATE {name}")).unwrap_or_default();
        let limit = match self.limit {
            Limit::Default => String::new(),
            // Later statements on a table queue behind a migration that waits for its lock.
            Limit::Never => format!(
                ", {} /*M!100101 , max_statement_time = 0 */ /*!50720 , max_execution_time = 0 */",
                at_most("lock_wait_timeout", SCHEMA_LOCK_SECONDS)
            ),
            Limit::After(limit) => {
                // The limit of a wait for a lock is whole seconds, and above the statement's own, so that this comes first.
                let seconds = limit.as_secs() + u64::from(limit.subsec_nanos() > 0) + 1;
                format!(
                    ", {}, {} /*M!100101 , max_statement_time = {} */ /*!50720 , max_execution_time = {} */",
                    at_most("innodb_lock_wait_timeout", seconds),
                    at_most("lock_wait_timeout", seconds),
                    limit.as_secs_f64(),
                    whole_millis(limit),
                )
            }
        };
        format!(
            "SET NAMES {charset}{collation}, time_zone = '+00:00', autocommit = 1, completion_type = 'NO_CHAIN', \
             sql_mode = '{SQL_MODE}', \
             sql_select_limit = 18446744073709551615, sql_safe_updates = 0, sql_big_selects = 1, sql_auto_is_null = 0, \
             unique_checks = 1, foreign_key_checks = 1, \
             max_sort_length = CAST(GREATEST(@@SESSION.max_sort_length, {LONGEST_SORTED}) AS UNSIGNED), \
             default_storage_engine = 'InnoDB' \
             /*M!100101 , tx_isolation = 'REPEATABLE-READ' */ /*!50720 , transaction_isolation = 'REPEATABLE-READ' */ {limit}",
            charset = address.get_charset(),
        )
    }

    /// Looks at an SQLite database, whose session the driver has set.
    pub(crate) async fn set_sqlite(&self, raw: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let sql = "SELECT (SELECT encoding FROM pragma_encoding), (SELECT journal_mode FROM pragma_journal_mode)";
        let row = sqlx::raw_sql(sql).fetch_one(raw).await?;
        let (encoding, journal): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        if encoding != "UTF-8" {
            return Err(PoolError::unsuitable(format!(
                "the file stores text as {encoding}, which sorts differently; create it anew with PRAGMA encoding = 'UTF-8'"
            )));
        }
        let is_first = self.found.set(Found::default()).is_ok();
        if is_first && !["wal", "memory"].contains(&journal.as_str()) {
            tracing::warn!(
                journal_mode = journal,
                "SQLite cannot use WAL on this file system; readers and writers block each other"
            );
        }
        Ok(())
    }

    fn found(&self, found: Found) {
        if self.found.set(found).is_err() {
            return;
        }
        if found.pooler.is_some() {
            tracing::info!("connection pooler in transaction mode found; each operation runs in a transaction");
        }
        let in_force = found.statement_timeout;
        if let Limit::After(asked) = self.limit
            && in_force.abs_diff(asked) > Duration::from_millis(1)
        {
            tracing::warn!(?asked, ?in_force, "statement_timeout is not in force");
        }
    }
}

/// The rules that MySQL goes by, as a whole: what does not fit is refused.
const SQL_MODE: &str = "STRICT_ALL_TABLES,STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ZERO_DATE,NO_ZERO_IN_DATE,\
                        NO_ENGINE_SUBSTITUTION,PIPES_AS_CONCAT";
/// How long a migration waits for a table lock.
const SCHEMA_LOCK_SECONDS: u64 = 15;
/// Bytes of a value that MySQL sorts by: 512 characters.
const LONGEST_SORTED: u32 = 2048;

/// A connection to MySQL for which the driver sets nothing: [`Session::set_mysql`] sets all of it in one round trip.
pub(crate) fn bare_mysql(address: MySqlConnectOptions) -> MySqlConnectOptions {
    address.pipes_as_concat(false).no_engine_substitution(false).timezone(None).set_names(false)
}

/// Lowers a setting of MySQL. To MySQL the smaller of two whole numbers may be a decimal, hence the cast.
fn at_most(setting: &str, most: u64) -> String {
    format!("{setting} = CAST(LEAST(@@SESSION.{setting}, {most}) AS UNSIGNED)")
}

fn whole_millis(limit: Duration) -> u128 {
    limit.as_millis().max(1)
}

fn warn_of_loss(setting: &str, value: &str) {
    tracing::warn!(
        setting,
        value,
        "the server does not flush each commit to disk; a crash can lose acknowledged writes"
    );
}
