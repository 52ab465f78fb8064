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
//! Behind a connection pooler in transaction mode there is no session to set: see [`pooler`](super::pooler).
//!
//! What only a statement can ask for (`defer_foreign_keys`, `query_only`, `case_sensitive_like`, ...) is asked for by no one.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::pooler::Pooler;

/// How long the server lets a statement run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
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
pub(super) struct Found {
    /// The limit of a statement; zero if there is none.
    pub(super) statement_timeout: Duration,
    /// PostgreSQL's own limit of a wait for a lock; zero if there is none.
    pub(super) lock_timeout: Duration,
    /// Connections that the server takes from all clients together.
    pub(super) max_connections: Option<u32>,
    pub(super) pooler: Option<Pooler>,
}

impl Session {
    /// Sessions whose statements the server ends after this time; zero leaves that to the server.
    pub(super) fn new(statement_timeout: Duration) -> Self {
        let limit = if statement_timeout.is_zero() { Limit::Default } else { Limit::After(statement_timeout) };
        Self { limit, found: Arc::default() }
    }

    /// The same for statements that may take as long as they need.
    pub(super) fn unlimited(&self) -> Self {
        Self { limit: Limit::Never, ..self.clone() }
    }

    pub(super) fn limit(&self) -> Limit {
        self.limit
    }

    /// Whether no connection has shown yet what is in force.
    pub(super) fn is_unknown(&self) -> bool {
        self.found.get().is_none()
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
    pub(super) fn lock_timeout(&self) -> Duration {
        self.found.get().map(|found| found.lock_timeout).unwrap_or_default()
    }

    /// How many connections the server takes from all clients together; `None` for an embedded engine.
    pub(crate) fn max_connections(&self) -> Option<u32> {
        self.found.get().and_then(|found| found.max_connections)
    }

    /// Notes what a connection has shown. Returns whether it was the first.
    pub(super) fn note(&self, found: Found) -> bool {
        if self.found.set(found).is_err() {
            return false;
        }
        if found.pooler.is_some() {
            tracing::info!("connection pooler in transaction mode found; each operation runs in a transaction");
        }
        let in_force = found.statement_timeout;
        if let Limit::After(asked) = self.limit
            && found.max_connections.is_some()
            && in_force.abs_diff(asked) > Duration::from_millis(1)
        {
            tracing::warn!(?asked, ?in_force, "statement_timeout is not in force");
        }
        true
    }
}

/// A digest of what identifies a server.
pub(super) fn digest(server: impl Hash) -> u64 {
    let mut digest = DefaultHasher::new();
    server.hash(&mut digest);
    digest.finish()
}

pub(super) fn whole_millis(limit: Duration) -> u128 {
    limit.as_millis().max(1)
}

pub(super) fn warn_of_loss(setting: &str, value: &str) {
    tracing::warn!(
        setting,
        value,
        "the server does not flush each commit to disk; a crash can lose acknowledged writes"
    );
}
