//! Schema changes, one file each, with the way back.
//!
//! [`up`] and [`down`] hold a lock of the database for as long as they work, so that any number of processes may start
//! at once on an empty database: one migrates, the others wait and find nothing left to do.

mod m20261121_000001_create_users;
mod m20261121_000002_create_idempotency_keys;
mod m20261121_000003_index_names_and_emails;
mod m20261121_000004_widen_answers;

use sea_orm_migration::{
    prelude::*,
    sea_orm::{
        ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, SqliteTransactionMode, Statement,
        TransactionOptions, TransactionTrait,
    },
};

pub use sea_orm_migration::MigrationStatus;

/// The changes, oldest first.
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261121_000001_create_users::Migration),
            Box::new(m20261121_000002_create_idempotency_keys::Migration),
            Box::new(m20261121_000003_index_names_and_emails::Migration),
            Box::new(m20261121_000004_widen_answers::Migration),
        ]
    }
}

/// A column for a moment, to the microsecond.
fn moment(name: impl IntoIden, backend: DbBackend) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    match backend {
        // MySQL's TIMESTAMP ends in 2038, and DATETIME drops fractions unless told otherwise.
        DbBackend::MySql => column.custom("datetime(6)"),
        _ => column.timestamp_with_time_zone(),
    };
    column.not_null().take()
}

/// Any number that nothing else in the database locks.
const POSTGRES_LOCK: i64 = 0x7573_6572_7361_7069;
const MYSQL_LOCK: &str = "users-api.migration";
const MYSQL_LOCK_SECONDS: i32 = 60;

/// Applies what is pending. Gives the number of changes applied.
///
/// # Errors
///
/// Whatever the database refuses.
pub async fn up(db: &DatabaseConnection) -> Result<usize, DbErr> {
    let locked = lock(db).await?;
    let pending = Migrator::get_pending_migrations(&locked).await?.len();
    Migrator::up(&locked, None).await?;
    unlock(locked).await?;
    Ok(pending)
}

/// Takes back the newest `steps` changes, or all with `None`. Gives the number of changes taken back.
///
/// # Errors
///
/// Whatever the database refuses.
pub async fn down(db: &DatabaseConnection, steps: Option<u32>) -> Result<usize, DbErr> {
    let locked = lock(db).await?;
    let before = Migrator::get_applied_migrations(&locked).await?.len();
    Migrator::down(&locked, steps).await?;
    let after = Migrator::get_applied_migrations(&locked).await?.len();
    unlock(locked).await?;
    Ok(before - after)
}

/// Every change by name, oldest first, and whether it is applied. Writes nothing.
///
/// # Errors
///
/// Whatever the database refuses.
pub async fn status(db: &DatabaseConnection) -> Result<Vec<(String, MigrationStatus)>, DbErr> {
    let migrations = Migrator::get_migration_with_status_read_only(db).await?;
    Ok(migrations.iter().map(|migration| (migration.name().to_owned(), migration.status())).collect())
}

/// A transaction that nobody else can hold at the same time. On MySQL a schema change commits by itself, so there it
/// serves only to keep to the one connection that owns the lock.
async fn lock(db: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let transaction = db
        .begin_with_options(TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        })
        .await?;
    match transaction.get_database_backend() {
        DbBackend::Postgres => {
            // A change may take its time. For the transaction: a connection pooler may keep nothing for longer.
            transaction.execute_unprepared("SET LOCAL statement_timeout = 0").await?;
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
                "SELECT GET_LOCK(?, ?)",
                [MYSQL_LOCK.into(), MYSQL_LOCK_SECONDS.into()],
            );
            let row = transaction.query_one_raw(lock).await?;
            let got: Option<i64> = match row {
                Some(row) => row.try_get_by_index(0)?,
                None => None,
            };
            if got != Some(1) {
                return Err(DbErr::Migration(format!(
                    "another process has been migrating for more than {MYSQL_LOCK_SECONDS} s"
                )));
            }
        }
        // SQLite: `BEGIN IMMEDIATE` is the lock.
        _ => {}
    }
    Ok(transaction)
}

async fn unlock(transaction: DatabaseTransaction) -> Result<(), DbErr> {
    if transaction.get_database_backend() == DbBackend::MySql {
        let unlock = Statement::from_sql_and_values(DbBackend::MySql, "SELECT RELEASE_LOCK(?)", [MYSQL_LOCK.into()]);
        transaction.execute_raw(unlock).await?;
    }
    transaction.commit().await
}
