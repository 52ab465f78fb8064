//! Session settings of every connection.
//!
//! Servers, databases and roles have defaults, and some of them change what a statement or a commit means. Every
//! setting that the pool and its operations rely on is therefore set on each new connection, in one round trip, or
//! checked and refused. Defaults that can only make a statement fail, with an error that says so, are left to the
//! operator.
//!
//! | engine | setting | effect of an unsuitable default | what the pool does |
//! |---|---|---|---|
//! | MySQL | `autocommit` | single statements are never committed; reads see an old snapshot | sets 1 |
//! | MySQL | `completion_type` | COMMIT opens another transaction, or closes the connection | sets `NO_CHAIN` |
//! | MySQL | isolation level | dirty reads; reads that take locks | sets `REPEATABLE READ` |
//! | MySQL | `sql_mode` | values are truncated; quotes, backslashes, empty strings change meaning | sets all of it |
//! | MySQL | `sql_select_limit` | results are truncated | sets no limit |
//! | MySQL | `sql_safe_updates`, `max_join_size` | statements are rejected | turns them off |
//! | MySQL | `sql_auto_is_null` | `IS NULL` finds the last inserted row | sets 0 |
//! | MySQL | `unique_checks`, `foreign_key_checks` | duplicates are accepted | sets 1 |
//! | MySQL | `max_sort_length` | long values are sorted by a prefix | sets at least 2048 |
//! | MySQL | `time_zone`, character sets | times and characters are converted | sets UTC, the URL's or utf8mb4 |
//! | MySQL | `default_storage_engine` | tables without transactions | sets InnoDB |
//! | MySQL | `innodb_lock_wait_timeout`, `lock_wait_timeout` | waits outlast the statement timeout | adds 1 s at most |
//! | MySQL | `init_connect` | any of these, before the pool's settings | overrides it |
//! | MySQL | `transaction_read_only` | writes fail: read-only | keeps it |
//! | MySQL | `innodb_rollback_on_timeout`, `innodb_snapshot_isolation` | conflicts differ | supports both |
//! | MySQL | `innodb_flush_log_at_trx_commit` | a crash loses acknowledged commits | warns once |
//! | MySQL | `wsrep_sync_wait`, `wsrep_on`, `wait_timeout` | stale reads on Galera; idle connections end | keeps them |
//! | PostgreSQL | `synchronous_commit` | `off`: a crash loses acknowledged commits | sets `on` if `off` |
//! | PostgreSQL | `default_transaction_isolation` | every read can fail with a conflict | sets `read committed` |
//! | PostgreSQL | `transform_null_equals`, `standard_conforming_strings` | expressions change meaning | sets them |
//! | PostgreSQL | `exit_on_error` | each rejected statement ends the connection | turns it off |
//! | PostgreSQL | `statement_timeout` | statements never time out, or too early | sets it |
//! | PostgreSQL | `client_encoding`, `DateStyle`, `TimeZone` | times and characters are converted | set by the driver |
//! | PostgreSQL | `default_transaction_read_only` | writes fail: read-only | keeps it |
//! | PostgreSQL | `search_path`, `row_security`, `default_tablespace` | other tables or rows are visible | keeps them |
//! | PostgreSQL | `lock_timeout`, `transaction_timeout`, `idle_*_timeout` | statements or connections end early | keeps them |
//! | PostgreSQL | `bytea_output`, `extra_float_digits`, `array_nulls`, ... | text formats | none: values are binary |
//! | PostgreSQL | `fsync`, `full_page_writes` | a crash loses acknowledged commits | warns once |
//! | SQLite | `synchronous`, `foreign_keys`, `busy_timeout` | compiled-in defaults | set by the driver |
//! | SQLite | `encoding` (of the file) | UTF-16 sorts differently | refuses the file |
//! | SQLite | `journal_mode` (of the file) | cannot always be changed to WAL: readers wait for writers | warns once |
//!
//! Behind a connection pooler in transaction mode there is no session to set: see [`pooler`](super::pooler).
//!
//! Settings that only a statement can change (`defer_foreign_keys`, `query_only`, `case_sensitive_like`, ...) keep
//! their defaults.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::pooler::Pooler;

/// The statement timeout of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatementTimeout {
    /// The default of the server.
    ServerDefault,
    /// No timeout.
    Unlimited,
    After(Duration),
}

/// The requirements of a new connection, beyond its address.
#[derive(Clone, Copy)]
pub(super) struct ConnectParams<'a> {
    pub(super) session: &'a Session,
    /// Replaces the password of the URL.
    pub(super) password: Option<&'a str>,
    /// Refuses a server that is read-only or, as a node of a Galera cluster, not ready.
    pub(super) must_accept_writes: bool,
}

/// Session settings of the pool's connections.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    requested_timeout: StatementTimeout,
    server: Arc<OnceLock<ServerInfo>>,
}

/// Facts about the server, found by the first connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ServerInfo {
    /// The statement timeout in force; zero if there is none.
    pub(super) statement_timeout: Duration,
    /// The lock timeout of PostgreSQL; zero if there is none.
    pub(super) lock_timeout: Duration,
    /// The server's connection limit for all clients together.
    pub(super) max_connections: Option<u32>,
    pub(super) pooler: Option<Pooler>,
}

impl Session {
    /// Creates session settings with this statement timeout; zero keeps the server's default.
    pub(super) fn new(statement_timeout: Duration) -> Self {
        let requested_timeout = if statement_timeout.is_zero() {
            StatementTimeout::ServerDefault
        } else {
            StatementTimeout::After(statement_timeout)
        };
        Self { requested_timeout, server: Arc::default() }
    }

    /// Returns a copy without a statement timeout.
    pub(super) fn unlimited(&self) -> Self {
        Self { requested_timeout: StatementTimeout::Unlimited, ..self.clone() }
    }

    pub(super) fn requested_timeout(&self) -> StatementTimeout {
        self.requested_timeout
    }

    /// Whether no connection has recorded the facts about the server yet.
    pub(super) fn needs_probe(&self) -> bool {
        self.server.get().is_none()
    }

    /// Returns the statement timeout that was found to be in force; zero if there is none.
    pub(crate) fn statement_timeout(&self) -> Duration {
        self.server.get().map(|server| server.statement_timeout).unwrap_or_default()
    }

    /// Returns the pooler that was detected in front of the database.
    pub(crate) fn pooler(&self) -> Option<Pooler> {
        self.server.get().and_then(|server| server.pooler)
    }

    /// Returns the lock timeout of PostgreSQL; zero if there is none.
    pub(super) fn lock_timeout(&self) -> Duration {
        self.server.get().map(|server| server.lock_timeout).unwrap_or_default()
    }

    /// Returns the server's connection limit for all clients together; `None` for an embedded engine.
    pub(crate) fn max_connections(&self) -> Option<u32> {
        self.server.get().and_then(|server| server.max_connections)
    }

    /// Records what a connection has found. Returns whether it was the first.
    pub(super) fn record(&self, server: ServerInfo) -> bool {
        if self.server.set(server).is_err() {
            return false;
        }
        if server.pooler.is_some() {
            tracing::info!("connection pooler in transaction mode detected; each operation runs in a transaction");
        }
        let in_force = server.statement_timeout;
        if let StatementTimeout::After(requested) = self.requested_timeout
            && server.max_connections.is_some()
            && in_force.abs_diff(requested) > Duration::from_millis(1)
        {
            tracing::warn!(?requested, ?in_force, "the server does not apply the requested statement_timeout");
        }
        true
    }
}

/// Returns a digest of what identifies a server.
pub(super) fn digest(server: impl Hash) -> u64 {
    let mut digest = DefaultHasher::new();
    server.hash(&mut digest);
    digest.finish()
}

pub(super) fn whole_millis(limit: Duration) -> u128 {
    limit.as_millis().max(1)
}

pub(super) fn warn_not_durable(setting: &str, value: &str) {
    tracing::warn!(
        setting,
        value,
        "the server does not flush each commit to disk; a crash can lose acknowledged writes"
    );
}
