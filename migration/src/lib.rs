//! Schema migrations, one file each, with a way back.
//!
//! [`up`] and [`down`] hold a database lock while they run, so that any number of processes may start concurrently on
//! an empty database: one migrates, the others wait and find nothing to do.
//!
//! They change only tables that they created: before anything is written, `ownership` compares every table that has one
//! of their names with what its migration creates. `history` records the applied migrations in a table that no other
//! application uses.

mod history;
mod m20261121_000001_create_users;
mod m20261121_000002_create_idempotency_keys;
mod m20261121_000003_index_names_and_emails;
mod m20261121_000004_widen_answers;
mod m20261129_000005_create_users_api_keys;
mod m20261129_000006_create_users_journal;
mod m20261129_000007_create_users_feed;
mod m20261129_000008_create_users_feed_pending;
mod m20261129_000009_create_users_feed_positions;
mod m20261129_000010_create_users_messages;
mod m20261129_000011_create_users_tickets;
mod m20261129_000012_create_users_presence;
mod m20261129_000013_create_users_processes;
mod m20261130_000014_create_users_exports;
mod ownership;

use std::pin::{Pin, pin};

use futures_util::{
    FutureExt,
    future::{Either, FusedFuture, select},
};
use sea_orm_migration::{
    prelude::*,
    sea_orm::{
        ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, SqliteTransactionMode, Statement,
        TransactionOptions, TransactionTrait,
    },
};

pub use self::ownership::{is_created_on, table_names};

/// An error while reading or changing the schema.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A table of another application has the name of a table of users-api.
    #[error(
        "the table {table} exists, but users-api did not create it (its columns: {}); nothing was changed. Use another \
         database or schema, or rename the table and load its rows with `users-api import` (docs/OPERATIONS.md)",
        columns.join(", ")
    )]
    ForeignTable {
        /// The table's name.
        table: &'static str,
        /// Its columns.
        columns: Vec<String>,
    },
    /// The history says that a table was created, but it does not exist.
    #[error(
        "the table {table} is missing, although the history in {history} says that it was created; nothing was changed. \
         Restore it from a backup or, to start without users, drop the table {history}",
        history = history::TABLE
    )]
    MissingTable {
        /// The table's name.
        table: &'static str,
    },
    /// Another process held the migration lock for too long.
    #[error("another process has held the migration lock for more than {MYSQL_LOCK_SECONDS} s")]
    Locked,
    /// The database returned an error.
    #[error(transparent)]
    Database(#[from] DbErr),
}

/// The result of [`up`] or [`down`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Number of migrations that were applied or reverted.
    pub changed: usize,
    /// Whether it was stopped before all of them were done.
    pub is_stopped: bool,
}

impl Progress {
    const NOTHING: Self = Self { changed: 0, is_stopped: true };
}

/// The migrations, oldest first.
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migration_table_name() -> DynIden {
        history::table()
    }

    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261121_000001_create_users::Migration),
            Box::new(m20261121_000002_create_idempotency_keys::Migration),
            Box::new(m20261121_000003_index_names_and_emails::Migration),
            Box::new(m20261121_000004_widen_answers::Migration),
            Box::new(m20261129_000005_create_users_api_keys::Migration),
            Box::new(m20261129_000006_create_users_journal::Migration),
            Box::new(m20261129_000007_create_users_feed::Migration),
            Box::new(m20261129_000008_create_users_feed_pending::Migration),
            Box::new(m20261129_000009_create_users_feed_positions::Migration),
            Box::new(m20261129_000010_create_users_messages::Migration),
            Box::new(m20261129_000011_create_users_tickets::Migration),
            Box::new(m20261129_000012_create_users_presence::Migration),
            Box::new(m20261129_000013_create_users_processes::Migration),
            Box::new(m20261130_000014_create_users_exports::Migration),
        ]
    }
}

/// Creates a table whose only index is its primary key.
async fn create_table(manager: &SchemaManager<'_>, mut table: TableCreateStatement) -> Result<(), DbErr> {
    if manager.get_database_backend() == DbBackend::MySql {
        table.engine("InnoDB");
    }
    manager.create_table(table).await
}

/// Creates a table with an index. On MySQL it is one statement, because nothing could undo the first of two.
async fn create_table_with_index(
    manager: &SchemaManager<'_>,
    mut table: TableCreateStatement,
    mut index: IndexCreateStatement,
    name: impl IntoIden,
) -> Result<(), DbErr> {
    if manager.get_database_backend() == DbBackend::MySql {
        return manager.create_table(table.index(&mut index).engine("InnoDB").take()).await;
    }
    manager.create_table(table).await?;
    manager.create_index(index.table(name.into_iden()).if_not_exists().take()).await
}

/// Returns a timestamp column with microsecond precision that is never NULL.
fn timestamp_column(name: impl IntoIden, backend: DbBackend) -> ColumnDef {
    nullable_timestamp_column(name, backend).not_null().take()
}

/// Returns a timestamp column with microsecond precision.
fn nullable_timestamp_column(name: impl IntoIden, backend: DbBackend) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    match backend {
        // MySQL's TIMESTAMP ends in 2038, and DATETIME without a precision drops fractions.
        DbBackend::MySql => column.custom("datetime(6)"),
        _ => column.timestamp_with_time_zone(),
    };
    column
}

/// An arbitrary number that nothing else in the database locks.
const POSTGRES_LOCK: i64 = 0x7573_6572_7361_7069;
/// Followed by a digest of the database's name: these locks are per server, which may host several databases of
/// users-api.
const MYSQL_LOCK: &str = "users-api.migration.";
const MYSQL_LOCK_SECONDS: i32 = 60;

/// Applies the pending migrations and returns how many were applied.
///
/// When `stop` completes, it ends as soon as it is safe: immediately, with everything rolled back, where migrations are
/// transactional; on MySQL after the running migration, because half of one could not be undone.
///
/// # Errors
///
/// [`Error`]. A table that users-api did not create is detected before anything is changed.
pub async fn up(db: &DatabaseConnection, stop: impl Future<Output = ()>) -> Result<Progress, Error> {
    let mut stop = pin!(stop.fuse());
    let prepare = async {
        let locked = lock(db).await?;
        ownership::check(&locked, &history::applied(&locked).await?).await?;
        history::adopt(&locked).await?;
        let pending = Migrator::get_pending_migrations_read_only(&locked).await?.len();
        Ok::<_, Error>((locked, pending))
    };
    let Some(prepared) = unless_stopped(prepare, stop.as_mut()).await else { return Ok(Progress::NOTHING) };
    let (locked, pending) = prepared?;
    let mut applied = 0;
    // If nothing is pending, nothing is run: it takes privileges that a service does not need once its schema exists.
    while applied < pending {
        if !step(&locked, Migrator::up(&locked, Some(1)), stop.as_mut()).await? {
            return end(locked, applied, true).await;
        }
        applied += 1;
    }
    end(locked, applied, false).await
}

/// Reverts the newest `steps` migrations, or all with `None`, and returns how many were reverted.
///
/// # Errors
///
/// [`Error`]. A table that users-api did not create is detected before anything is changed.
pub async fn down(
    db: &DatabaseConnection,
    steps: Option<u32>,
    stop: impl Future<Output = ()>,
) -> Result<Progress, Error> {
    let mut stop = pin!(stop.fuse());
    let prepare = async {
        let locked = lock(db).await?;
        let applied = history::applied(&locked).await?;
        ownership::check(&locked, &applied).await?;
        history::adopt(&locked).await?;
        Ok::<_, Error>((locked, applied))
    };
    let Some(prepared) = unless_stopped(prepare, stop.as_mut()).await else { return Ok(Progress::NOTHING) };
    let (locked, mut reverted) = prepared?;
    let count = steps.map_or(reverted.len(), |steps| reverted.len().min(steps as usize));
    let mut is_stopped = false;
    for _ in 0..count {
        if !step(&locked, Migrator::down(&locked, Some(1)), stop.as_mut()).await? {
            is_stopped = true;
            break;
        }
    }
    if is_stopped && is_transactional(&locked) {
        return end(locked, 0, true).await;
    }
    let remaining = history::own_versions(&locked).await?;
    reverted.retain(|version| !remaining.contains(version));
    history::delete_shared(&locked, &reverted).await?;
    end(locked, reverted.len(), is_stopped).await
}

/// Runs one migration. Returns `false` if `stop` completed first.
async fn step(
    locked: &DatabaseTransaction,
    migration: impl Future<Output = Result<(), DbErr>>,
    mut stop: Pin<&mut impl FusedFuture<Output = ()>>,
) -> Result<bool, DbErr> {
    if stop.is_terminated() || stop.as_mut().now_or_never().is_some() {
        return Ok(false);
    }
    if !is_transactional(locked) {
        migration.await?;
        return Ok(true);
    }
    unless_stopped(migration, stop).await.transpose().map(|done| done.is_some())
}

/// Runs `work`, unless `stop` completes first; then `work` is dropped.
async fn unless_stopped<T>(work: impl Future<Output = T>, stop: Pin<&mut impl FusedFuture<Output = ()>>) -> Option<T> {
    match select(pin!(work), stop).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(((), _)) => None,
    }
}

/// Whether migrations are part of the transaction that holds the lock. MySQL commits before and after each schema
/// change.
fn is_transactional(locked: &DatabaseTransaction) -> bool {
    locked.get_database_backend() != DbBackend::MySql
}

/// Commits the changes, unless it was stopped before the end and they can be rolled back.
async fn end(locked: DatabaseTransaction, changed: usize, is_stopped: bool) -> Result<Progress, Error> {
    if is_stopped && is_transactional(&locked) {
        // Closing the connection rolls back as well, and no one has to wait for it.
        drop(locked);
        return Ok(Progress::NOTHING);
    }
    unlock(locked).await?;
    Ok(Progress { changed, is_stopped })
}

/// Returns every migration by name, oldest first, and whether it is applied. Writes nothing.
///
/// # Errors
///
/// [`Error`], also for a table that users-api did not create.
pub async fn status(db: &DatabaseConnection) -> Result<Vec<(String, bool)>, Error> {
    let applied = history::applied(db).await?;
    ownership::check(db, &applied).await?;
    let migrations = Migrator::migrations();
    Ok(migrations.iter().map(|it| (it.name().to_owned(), applied.iter().any(|name| name == it.name()))).collect())
}

/// Begins a transaction that only one process can hold at a time. On MySQL schema changes commit implicitly, so there
/// it only keeps all statements on the connection that owns the lock.
async fn lock(db: &DatabaseConnection) -> Result<DatabaseTransaction, Error> {
    let transaction = db
        .begin_with_options(TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        })
        .await?;
    match transaction.get_database_backend() {
        DbBackend::Postgres => {
            // Schema changes can take long. Set for the transaction only: a connection pooler may keep no settings
            // beyond it.
            transaction.execute_unprepared("SET LOCAL statement_timeout = 0").await?;
            // Otherwise the server would keep working for a process that was stopped, or keep it queued for a lock.
            // PostgreSQL 14 and later.
            let check_client = "SELECT set_config('client_connection_check_interval', '1s', true) FROM pg_settings \
                          WHERE name = 'client_connection_check_interval' AND version() LIKE '%linux%'";
            transaction.execute_unprepared(check_client).await?;
            let lock = Statement::from_sql_and_values(
                DbBackend::Postgres,
                "SELECT pg_advisory_xact_lock($1)",
                [POSTGRES_LOCK.into()],
            );
            transaction.execute_raw(lock).await?;
        }
        DbBackend::MySql => {
            let lock = Statement::from_sql_and_values(
                DbBackend::MySql,
                "SELECT GET_LOCK(CONCAT(?, LEFT(SHA2(DATABASE(), 256), 32)), ?)",
                [MYSQL_LOCK.into(), MYSQL_LOCK_SECONDS.into()],
            );
            let row = transaction.query_one_raw(lock).await?;
            let acquired: Option<i64> = match row {
                Some(row) => row.try_get_by_index(0)?,
                None => None,
            };
            if acquired != Some(1) {
                return Err(Error::Locked);
            }
        }
        // SQLite: `BEGIN IMMEDIATE` is the lock.
        _ => {}
    }
    Ok(transaction)
}

async fn unlock(transaction: DatabaseTransaction) -> Result<(), DbErr> {
    if transaction.get_database_backend() == DbBackend::MySql {
        let unlock = Statement::from_sql_and_values(
            DbBackend::MySql,
            "SELECT RELEASE_LOCK(CONCAT(?, LEFT(SHA2(DATABASE(), 256), 32)))",
            [MYSQL_LOCK.into()],
        );
        transaction.execute_raw(unlock).await?;
    }
    transaction.commit().await
}
