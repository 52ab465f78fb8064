//! Which tables are ours: those that look exactly as our migrations made them.
//!
//! A database may hold a `users` table of another application (every Sequelize tutorial makes one). `CREATE TABLE IF NOT
//! EXISTS` would adopt it, and `migrate down` would drop it with its rows. So before anything is changed, each table is
//! compared with what its migration creates. The mark is the name of an index or constraint that only our migration uses,
//! together with all columns of the first version; it needs no state beside the schema itself.

use sea_orm_migration::sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement};

use crate::Error;

/// A table that a migration creates.
struct OwnTable {
    name: &'static str,
    created_by: &'static str,
    /// The columns that it has from its beginning.
    columns: &'static [&'static str],
    /// The index or constraint by which it is known.
    mark: &'static str,
}

const TABLES: [OwnTable; 2] = [
    OwnTable {
        name: "users",
        created_by: "m20261121_000001_create_users",
        columns: &["id", "name", "email", "email_key", "version", "created_at", "updated_at"],
        mark: "users_email_key_uq",
    },
    OwnTable {
        name: "idempotency_keys",
        created_by: "m20261121_000002_create_idempotency_keys",
        columns: &["key_hash", "fingerprint", "answer", "expires_at"],
        mark: "idempotency_keys_expires_at_ix",
    },
];

/// What stands in the place of one of our tables.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Ours,
    Foreign { columns: Vec<String> },
}

/// Checks that every table with one of our names was created by our migrations, and that none of those that `applied`
/// created is missing.
///
/// # Errors
///
/// [`Error::ForeignTable`], [`Error::MissingTable`], or whatever the database refuses.
pub(crate) async fn check(db: &impl ConnectionTrait, applied: &[String]) -> Result<(), Error> {
    for table in &TABLES {
        match look(db, table).await? {
            Found::Foreign { columns } => return Err(Error::ForeignTable { table: table.name, columns }),
            Found::Nothing if applied.iter().any(|version| version == table.created_by) => {
                return Err(Error::MissingTable { table: table.name });
            }
            Found::Nothing | Found::Ours => {}
        }
    }
    Ok(())
}

/// Whether the table that this migration created exists and is ours; `true` for migrations that create none.
pub(crate) async fn has_table_of(db: &impl ConnectionTrait, migration: &str) -> Result<bool, DbErr> {
    match TABLES.iter().find(|table| table.created_by == migration) {
        Some(table) => Ok(look(db, table).await? == Found::Ours),
        None => Ok(true),
    }
}

/// Whether the schema where our tables are created has a relation of this name.
pub(crate) async fn exists(db: &impl ConnectionTrait, name: &str) -> Result<bool, DbErr> {
    Ok(!texts(db, columns_of(db.get_database_backend()), &[name]).await?.is_empty())
}

async fn look(db: &impl ConnectionTrait, table: &OwnTable) -> Result<Found, DbErr> {
    let columns = texts(db, columns_of(db.get_database_backend()), &[table.name]).await?;
    // A relation without columns, such as a sequence, takes the name as well.
    let Some(columns) = (!columns.is_empty()).then(|| columns.into_iter().flatten().collect::<Vec<_>>()) else {
        return Ok(Found::Nothing);
    };
    let is_marked = !texts(db, mark_of(db.get_database_backend()), &[table.name, table.mark]).await?.is_empty();
    let is_ours = is_marked && table.columns.iter().all(|column| columns.iter().any(|it| it == column));
    Ok(if is_ours { Found::Ours } else { Found::Foreign { columns } })
}

/// Lists the columns of a relation in the schema where our tables are created.
fn columns_of(backend: DbBackend) -> &'static str {
    match backend {
        // The catalog, and not information_schema, which hides what this user may not read.
        DbBackend::Postgres => {
            "SELECT a.attname::text FROM pg_catalog.pg_class c \
             LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
             WHERE c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = current_schema()) \
             AND c.relname = $1 ORDER BY a.attnum"
        }
        DbBackend::MySql => {
            "SELECT CAST(column_name AS CHAR) FROM information_schema.columns \
             WHERE table_schema = DATABASE() AND table_name = ? ORDER BY ordinal_position"
        }
        _ => "SELECT name FROM pragma_table_info(?)",
    }
}

/// Finds the mark of a table.
fn mark_of(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Postgres => {
            "SELECT i.relname::text FROM pg_catalog.pg_index x \
             JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid JOIN pg_catalog.pg_class c ON c.oid = x.indrelid \
             WHERE c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = current_schema()) \
             AND c.relname = $1 AND i.relname = $2"
        }
        DbBackend::MySql => {
            "SELECT CAST(index_name AS CHAR) FROM information_schema.statistics \
             WHERE table_schema = DATABASE() AND table_name = ? AND index_name = ? AND seq_in_index = 1"
        }
        // The constraint of a table is known by its text only.
        _ => "SELECT name FROM sqlite_master WHERE lower(tbl_name) = ? AND instr(sql, ?) > 0",
    }
}

async fn texts(db: &impl ConnectionTrait, sql: &str, values: &[&str]) -> Result<Vec<Option<String>>, DbErr> {
    let values = values.iter().map(|value| (*value).into()).collect::<Vec<_>>();
    let query = Statement::from_sql_and_values(db.get_database_backend(), sql, values);
    db.query_all_raw(query).await?.iter().map(|row| row.try_get_by_index(0)).collect()
}
