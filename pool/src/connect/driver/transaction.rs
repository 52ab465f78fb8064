//! Transactions and savepoints on a driver connection, and the lock timeout that a transaction may change.

use std::time::Duration;

#[cfg(feature = "sqlite")]
use sea_orm::AccessMode;
use sea_orm::{TransactionOptions, sqlx};

use super::{Driver, DriverConnection};

type Result<T> = std::result::Result<T, sqlx::Error>;

impl DriverConnection {
    /// Begins a transaction, or sets a savepoint inside the open one. `lock_timeout` applies to the transaction if it
    /// is shorter than that of the session.
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
                // Everything in one round trip.
                let lock = lock_timeout.map(|limit| format!("; SET LOCAL lock_timeout = {}", limit.as_millis()));
                let lock = lock.unwrap_or_default();
                let sql = match settings {
                    None => format!("BEGIN{level}{mode}{lock}"),
                    Some(settings) => {
                        // `settings` would set the default isolation level too late for this transaction.
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
                // Applies to the next transaction only.
                let level = if level.is_empty() { level } else { format!("SET TRANSACTION{level}; ") };
                let lock = lock_timeout.map(|limit| {
                    self.has_other_lock_timeout = true;
                    format!("SET innodb_lock_wait_timeout = {}; ", limit.as_secs().max(1))
                });
                self.run(format!("{}{level}START TRANSACTION{mode}", lock.unwrap_or_default())).await
            }
            #[cfg(feature = "sqlite")]
            Driver::Sqlite(_) => {
                // A deferred transaction that becomes a writer ignores the busy timeout.
                let keyword = match (options.sqlite_transaction_mode, options.access_mode) {
                    (Some(mode), _) => mode.sqlite_keyword(),
                    (None, Some(AccessMode::ReadOnly)) => "DEFERRED",
                    (None, _) => "IMMEDIATE",
                };
                self.run(format!("BEGIN {keyword}")).await
            }
        }
    }

    /// Commits the transaction, or releases its newest savepoint.
    pub(crate) async fn commit(&mut self, depth: u32) -> Result<()> {
        match depth {
            0 | 1 => self.end_transaction("COMMIT").await,
            _ => self.run(format!("RELEASE SAVEPOINT orm_pool_{}", depth - 1)).await,
        }
    }

    /// Rolls back the transaction, or to its newest savepoint.
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
        let ended = self.run(format!("{sql}; {}", self.reset_lock_timeout_sql())).await;
        self.has_other_lock_timeout = ended.is_err();
        ended
    }

    fn reset_lock_timeout_sql(&self) -> String {
        format!("SET innodb_lock_wait_timeout = {}", self.session.lock_timeout.as_secs().max(1))
    }

    /// Whether a transaction has left the session with another lock timeout than its default.
    pub(crate) fn has_other_lock_timeout(&self) -> bool {
        self.has_other_lock_timeout
    }

    /// Restores the default lock timeout of the session.
    pub(crate) async fn restore_lock_timeout(&mut self) -> Result<()> {
        self.run(self.reset_lock_timeout_sql()).await?;
        self.has_other_lock_timeout = false;
        Ok(())
    }
}
