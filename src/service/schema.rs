//! The schema: migrations on a connection of the pool, and checks of the server and the database user.

pub use migration::Progress;
use migration::is_created_on;
use orm_pool::{Connection, DbErrorKind, Engine, Pool};
use sea_orm::{ConnectionTrait, DbErr, Statement};

use super::error::Cause;

/// A migration of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The migration's name, which begins with its date.
    pub name: String,
    /// Whether it is applied.
    pub applied: bool,
}

/// Why the schema could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum SchemaFailure {
    /// A migration failed, or the migrations could not start: a table conflicts or is missing, or another process holds
    /// the lock.
    #[error(transparent)]
    Migration(#[from] migration::Error),
    /// The server is too old.
    #[error("the database server is {found}; users-api needs {needed} or newer")]
    Version {
        /// The server's version, as it reports it.
        found: String,
        /// The oldest supported version.
        needed: &'static str,
    },
    /// The database cannot store every name.
    #[error(
        "the database's encoding is {0}, which cannot store every name; recreate it with \
         CREATE DATABASE ... TEMPLATE template0 ENCODING 'UTF8'"
    )]
    Encoding(String),
    /// The server rejects statements as large as those of bulk operations.
    #[error("the server's max_allowed_packet is {0} bytes; users-api needs at least {LARGEST_STATEMENT}")]
    Packet(i64),
    /// The database user lacks a privilege that the service needs.
    #[error("the database user needs SELECT, INSERT, UPDATE and DELETE on {table}")]
    Privilege {
        /// The table.
        table: &'static str,
        /// The server's error.
        #[source]
        cause: Cause,
    },
    /// No connection was available, or it broke.
    #[error("the schema could not be read or changed")]
    Pool(#[source] Cause),
}

impl From<orm_pool::Error> for SchemaFailure {
    fn from(error: orm_pool::Error) -> Self {
        Self::Pool(Cause(error))
    }
}

/// Bytes of a statement that writes 1000 rows of maximum length (5 KB each), with a margin.
const LARGEST_STATEMENT: i64 = 8 << 20;

/// The tables, and a column of each that the service updates.
const PROBES: [(&str, &str); 12] = [
    ("users", "version"),
    ("idempotency_keys", "answer"),
    ("users_api_keys", "name"),
    ("users_journal", "name"),
    ("users_feed", "number"),
    ("users_feed_pending", "version"),
    ("users_feed_positions", "number"),
    ("users_messages", "data"),
    ("users_tickets", "scope"),
    ("users_presence", "since"),
    ("users_processes", "seen_ms"),
    ("users_exports", "held_ms"),
];

/// Returns statements that change nothing, but together need every privilege that the service needs on a table.
fn probes(table: &str, column: &str) -> [String; 4] {
    [
        format!("SELECT {column} FROM {table} WHERE 1 = 0"),
        format!("INSERT INTO {table} SELECT * FROM {table} WHERE 1 = 0"),
        format!("UPDATE {table} SET {column} = {column} WHERE 1 = 0"),
        format!("DELETE FROM {table} WHERE 1 = 0"),
    ]
}

/// The schema of the database behind the pool.
#[derive(Clone, Debug)]
pub struct SchemaService {
    pool: Pool,
}

impl SchemaService {
    /// Creates the service on this pool.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Applies the pending migrations and returns how many were applied. Any number of processes may call it
    /// concurrently. When `stop` completes, it ends as soon as it is safe.
    ///
    /// # Errors
    ///
    /// [`SchemaFailure`].
    pub async fn up(&self, stop: impl Future<Output = ()> + Send + 'static) -> Result<Progress, SchemaFailure> {
        self.pool.with_database_connection("schema.up", |db| async move { Ok(migration::up(&db, stop).await?) }).await
    }

    /// Reverts the newest `steps` migrations, or all with `None`, and returns how many were reverted. `stop` is as in
    /// [`up`](Self::up).
    ///
    /// # Errors
    ///
    /// [`SchemaFailure`].
    pub async fn down(
        &self,
        steps: Option<u32>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Progress, SchemaFailure> {
        self.pool
            .with_database_connection(
                "schema.down",
                move |db| async move { Ok(migration::down(&db, steps, stop).await?) },
            )
            .await
    }

    /// Returns all migrations, oldest first. Writes nothing.
    ///
    /// # Errors
    ///
    /// [`SchemaFailure`].
    pub async fn status(&self) -> Result<Vec<Migration>, SchemaFailure> {
        let migrations: Vec<(String, bool)> = self
            .pool
            .with_database_connection("schema.status", |db| async move {
                Ok::<_, SchemaFailure>(migration::status(&db).await?)
            })
            .await?;
        Ok(migrations.into_iter().map(|(name, applied)| Migration { name, applied }).collect())
    }

    /// Checks that the server is supported, accepts large statements and can store every text. Writes nothing.
    ///
    /// # Errors
    ///
    /// [`SchemaFailure::Version`], [`SchemaFailure::Packet`] or [`SchemaFailure::Encoding`].
    pub async fn check_server(&self) -> Result<(), SchemaFailure> {
        let query = match self.pool.engine() {
            // SQLite is part of the binary.
            Engine::Sqlite => return Ok(()),
            Engine::Postgres => {
                "SELECT current_setting('server_version'), current_setting('server_encoding'), NULL::bigint"
            }
            // The migrations set the encoding of the tables.
            Engine::MySql => "SELECT CAST(VERSION() AS CHAR), 'UTF8', CAST(@@max_allowed_packet AS SIGNED)",
        };
        let (version, encoding, packet): (String, String, Option<i64>) = self
            .pool
            .read("schema.check_server", move |db| async move {
                let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), query)).await?;
                let row = row.ok_or_else(|| DbErr::RecordNotFound("the server's version".to_owned()))?;
                Ok::<_, orm_pool::Error>((row.try_get_by_index(0)?, row.try_get_by_index(1)?, row.try_get_by_index(2)?))
            })
            .await?;
        if let Some(needed) = unmet_requirement(self.pool.engine(), &version) {
            return Err(SchemaFailure::Version { found: version, needed });
        }
        if let Some(packet) = packet.filter(|packet| *packet < LARGEST_STATEMENT) {
            return Err(SchemaFailure::Packet(packet));
        }
        if encoding == "UTF8" { Ok(()) } else { Err(SchemaFailure::Encoding(encoding)) }
    }

    /// Checks that the database user has the privileges that the service needs. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`SchemaFailure::Privilege`]; any other error says nothing about privileges and may be transient.
    pub async fn check_privileges(&self) -> Result<(), SchemaFailure> {
        let probe = |db: Connection| async move {
            let backend = db.get_database_backend();
            for (table, column) in PROBES.into_iter().filter(|(table, _)| is_created_on(backend, table)) {
                for statement in probes(table, column) {
                    if let Err(cause) = ConnectionTrait::execute_unprepared(&db, &statement).await {
                        let is_missing = DbErrorKind::of(&cause) == DbErrorKind::PrivilegeMissing;
                        let cause = Cause(cause.into());
                        return Err(if is_missing {
                            SchemaFailure::Privilege { table, cause }
                        } else {
                            SchemaFailure::Pool(cause)
                        });
                    }
                }
            }
            Ok(())
        };
        self.pool.transaction("schema.check_privileges", probe).await
    }
}

/// Returns the oldest supported version if this one is older.
fn unmet_requirement(engine: Engine, version: &str) -> Option<&'static str> {
    let (needed, oldest) = match engine {
        Engine::Sqlite => return None,
        Engine::Postgres => ("PostgreSQL 10", (10, 0)),
        Engine::MySql if version.contains("MariaDB") => ("MariaDB 10.5", (10, 5)),
        Engine::MySql => ("MySQL 8.0", (8, 0)),
    };
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (numbers.next()?, numbers.next().unwrap_or(0));
    (found < oldest).then_some(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_a_probe() {
        let tables: Vec<&str> = migration::table_names().collect();
        assert_eq!(PROBES.map(|(table, _)| table).as_slice(), tables);
    }

    #[test]
    fn old_servers_are_rejected() {
        for (engine, version, needed) in [
            (Engine::Postgres, "9.6.24", Some("PostgreSQL 10")),
            (Engine::Postgres, "10.23", None),
            (Engine::Postgres, "15.18 (Debian 15.18-0+deb12u1)", None),
            (Engine::Postgres, "18beta1", None),
            (Engine::MySql, "10.4.34-MariaDB", Some("MariaDB 10.5")),
            (Engine::MySql, "10.11.6-MariaDB-0+deb12u1", None),
            (Engine::MySql, "11.4.2-MariaDB-log", None),
            (Engine::MySql, "5.7.44-log", Some("MySQL 8.0")),
            (Engine::MySql, "8.0.11-TiDB-v7.5.1", None),
            (Engine::MySql, "9.7.4", None),
        ] {
            assert_eq!(unmet_requirement(engine, version), needed, "{version}");
        }
    }
}
