//! Table ownership: users-api owns the tables that match its migrations exactly.
//!
//! A database may contain a `users` table of another application (every Sequelize tutorial creates one). `CREATE TABLE
//! IF NOT EXISTS` would adopt it, and `migrate down` would drop it with its rows. So before anything is changed, each
//! table is compared with what its migration creates. The marker is the name of an index or constraint that only
//! users-api uses, together with all columns of the first version; it needs no state beside the schema itself.

use sea_orm_migration::sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement};

use crate::Error;

/// A table that a migration creates.
struct OwnTable {
    name: &'static str,
    created_by: &'static str,
    /// The columns at its creation.
    columns: &'static [&'static str],
    /// The index or constraint that identifies it.
    marker: &'static str,
}

const TABLES: [OwnTable; 12] = [
    OwnTable {
        name: "users",
        created_by: "m20261121_000001_create_users",
        columns: &["id", "name", "email", "email_key", "version", "created_at", "updated_at"],
        marker: "users_email_key_uq",
    },
    OwnTable {
        name: "idempotency_keys",
        created_by: "m20261121_000002_create_idempotency_keys",
        columns: &["key_hash", "fingerprint", "answer", "expires_at"],
        marker: "idempotency_keys_expires_at_ix",
    },
    OwnTable {
        name: "users_api_keys",
        created_by: "m20261129_000005_create_users_api_keys",
        columns: &[
            "id",
            "digest",
            "name",
            "scopes",
            "created_at",
            "expires_at",
            "revoked_at",
            "replaced_by",
            "last_used_at",
        ],
        marker: "users_api_keys_digest_uq",
    },
    OwnTable {
        name: "users_journal",
        created_by: "m20261129_000006_create_users_journal",
        columns: &[
            "id",
            "user_id",
            "version",
            "action",
            "changed",
            "actor",
            "request_id",
            "changed_at",
            "name",
            "email",
            "created_at",
        ],
        marker: "users_journal_user_ix",
    },
    OwnTable {
        name: "users_feed",
        created_by: "m20261129_000007_create_users_feed",
        columns: &["id", "epoch", "number", "floor"],
        marker: "users_feed_pk",
    },
    OwnTable {
        name: "users_feed_pending",
        created_by: "m20261129_000008_create_users_feed_pending",
        columns: &["changed_at", "version", "user_id"],
        marker: "users_feed_pending_pk",
    },
    OwnTable {
        name: "users_feed_positions",
        created_by: "m20261129_000009_create_users_feed_positions",
        columns: &["number", "journal_id"],
        marker: "users_feed_positions_pk",
    },
    OwnTable {
        name: "users_messages",
        created_by: "m20261129_000010_create_users_messages",
        columns: &["number", "user_id", "data"],
        marker: "users_messages_user_ix",
    },
    OwnTable {
        name: "users_tickets",
        created_by: "m20261129_000011_create_users_tickets",
        columns: &["digest", "user_id", "actor", "key_id", "valid_until", "scope", "expires_at"],
        marker: "users_tickets_expires_at_ix",
    },
    OwnTable {
        name: "users_presence",
        created_by: "m20261129_000012_create_users_presence",
        columns: &["user_id", "process", "since"],
        marker: "users_presence_process_ix",
    },
    OwnTable {
        name: "users_processes",
        created_by: "m20261129_000013_create_users_processes",
        columns: &["process", "seen_ms"],
        marker: "users_processes_pk",
    },
    OwnTable {
        name: "users_exports",
        created_by: "m20261130_000014_create_users_exports",
        columns: &["name", "exported", "holder", "held_ms"],
        marker: "users_exports_pk",
    },
];

/// Tables that SQLite does not need.
const NOT_IN_SQLITE: [&str; 2] = ["users_feed_pending", "users_feed_positions"];

/// Returns whether the migrations create a table on an engine.
#[must_use]
pub fn is_created_on(backend: DbBackend, table: &str) -> bool {
    backend != DbBackend::Sqlite || !NOT_IN_SQLITE.contains(&table)
}

/// Returns the names of all tables, in the order of their creation.
pub fn table_names() -> impl Iterator<Item = &'static str> {
    TABLES.iter().map(|table| table.name)
}

/// Returns the tables that the migrations create on an engine.
fn tables(backend: DbBackend) -> impl Iterator<Item = &'static OwnTable> {
    TABLES.iter().filter(move |table| is_created_on(backend, table.name))
}

/// The table that exists under the name of one of ours.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Ours,
    Foreign { columns: Vec<String> },
}

/// Checks that users-api created every table that has one of its names, and that no table that `applied` created is
/// missing.
///
/// # Errors
///
/// [`Error::ForeignTable`], [`Error::MissingTable`], or an error of the database.
pub(crate) async fn check(db: &impl ConnectionTrait, applied: &[String]) -> Result<(), Error> {
    for table in tables(db.get_database_backend()) {
        match inspect(db, table).await? {
            Found::Foreign { columns } => return Err(Error::ForeignTable { table: table.name, columns }),
            Found::Nothing if applied.iter().any(|version| version == table.created_by) => {
                return Err(Error::MissingTable { table: table.name });
            }
            Found::Nothing | Found::Ours => {}
        }
    }
    Ok(())
}

/// Whether the table that this migration created exists and is owned by users-api; `true` for migrations that create
/// none.
pub(crate) async fn has_table_of(db: &impl ConnectionTrait, migration: &str) -> Result<bool, DbErr> {
    match tables(db.get_database_backend()).find(|table| table.created_by == migration) {
        Some(table) => Ok(inspect(db, table).await? == Found::Ours),
        None => Ok(true),
    }
}

/// Whether a relation of this name exists in the schema where the tables are created.
pub(crate) async fn exists(db: &impl ConnectionTrait, name: &str) -> Result<bool, DbErr> {
    Ok(!query_strings(db, columns_query(db.get_database_backend()), &[name]).await?.is_empty())
}

async fn inspect(db: &impl ConnectionTrait, table: &OwnTable) -> Result<Found, DbErr> {
    let columns = query_strings(db, columns_query(db.get_database_backend()), &[table.name]).await?;
    // A relation without columns, such as a sequence, occupies the name as well.
    let Some(columns) = (!columns.is_empty()).then(|| columns.into_iter().flatten().collect::<Vec<_>>()) else {
        return Ok(Found::Nothing);
    };
    let marker = match db.get_database_backend() {
        // A primary key has no other name there.
        DbBackend::MySql if table.marker.ends_with("_pk") => "PRIMARY",
        _ => table.marker,
    };
    let marker = query_strings(db, marker_query(db.get_database_backend()), &[table.name, marker]).await?;
    let is_ours = !marker.is_empty() && table.columns.iter().all(|column| columns.iter().any(|it| it == column));
    Ok(if is_ours { Found::Ours } else { Found::Foreign { columns } })
}

/// Returns the query for the columns of a relation in the schema where the tables are created.
fn columns_query(backend: DbBackend) -> &'static str {
    match backend {
        // The catalog, because information_schema hides what this user may not read.
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

/// Returns the query for the marker of a table.
fn marker_query(backend: DbBackend) -> &'static str {
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
        // SQLite records the name of a constraint only in the SQL text of the table.
        _ => "SELECT name FROM sqlite_master WHERE lower(tbl_name) = ? AND instr(sql, ?) > 0",
    }
}

async fn query_strings(db: &impl ConnectionTrait, sql: &str, values: &[&str]) -> Result<Vec<Option<String>>, DbErr> {
    let values = values.iter().map(|value| (*value).into()).collect::<Vec<_>>();
    let query = Statement::from_sql_and_values(db.get_database_backend(), sql, values);
    db.query_all_raw(query).await?.iter().map(|row| row.try_get_by_index(0)).collect()
}
