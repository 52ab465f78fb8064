//! Keys for searching and sorting names and emails: without case, in the order of code points.

use sea_orm_migration::{
    prelude::*,
    sea_orm::{DbBackend, ExprTrait, QueryResult, prelude::Uuid},
};
use unicode_normalization::UnicodeNormalization;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(Clone, Copy, DeriveIden)]
enum Users {
    Table,
    Id,
    Name,
    NameKey,
    LastWordKey,
}

const NAME_KEY_INDEX: &str = "users_name_key_ix";
const LAST_WORD_KEY_INDEX: &str = "users_last_word_key_ix";
/// Rows that are updated at a time.
const CHUNK: u64 = 1000;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        match manager.get_database_backend() {
            DbBackend::MySql => {
                // One statement, which is applied completely or not at all: MySQL has no transactions for schema
                // changes.
                if !manager.has_column("users", "name_key").await? {
                    let keys = keys(manager.get_database_backend());
                    let alter = Table::alter()
                        .table(Users::Table)
                        .add_column(keys.0)
                        .add_column(keys.1)
                        .to_string(MysqlQueryBuilder);
                    let (name, last) = (NAME_KEY_INDEX, LAST_WORD_KEY_INDEX);
                    let indexes = format!("ADD INDEX {name} (name_key, id), ADD INDEX {last} (last_word_key)");
                    db.execute_unprepared(&format!("{alter}, {indexes}")).await?;
                }
            }
            backend => {
                let (name_key, last_word_key) = keys(backend);
                for column in [name_key, last_word_key] {
                    manager.alter_table(Table::alter().table(Users::Table).add_column(column).take()).await?;
                }
                let index = |name: &str| Index::create().name(name).table(Users::Table).take();
                manager.create_index(index(NAME_KEY_INDEX).col(Users::NameKey).col(Users::Id).take()).await?;
                manager.create_index(index(LAST_WORD_KEY_INDEX).col(Users::LastWordKey).take()).await?;
                if backend == DbBackend::Postgres {
                    db.execute_unprepared(r#"ALTER TABLE users ALTER email_key TYPE varchar(512) COLLATE "C""#).await?;
                }
            }
        }
        fill(manager).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        match manager.get_database_backend() {
            DbBackend::MySql => {
                // An index on this column alone is dropped with it.
                let drop = format!(
                    "ALTER TABLE users DROP INDEX {NAME_KEY_INDEX}, DROP COLUMN name_key, DROP COLUMN last_word_key"
                );
                manager.get_connection().execute_unprepared(&drop).await?;
            }
            backend => {
                for index in [NAME_KEY_INDEX, LAST_WORD_KEY_INDEX] {
                    manager.drop_index(Index::drop().name(index).table(Users::Table).to_owned()).await?;
                }
                for column in [Users::NameKey, Users::LastWordKey] {
                    manager.alter_table(Table::alter().table(Users::Table).drop_column(column).take()).await?;
                }
                if backend == DbBackend::Postgres {
                    let collate = r#"ALTER TABLE users ALTER email_key TYPE varchar(512) COLLATE "default""#;
                    manager.get_connection().execute_unprepared(collate).await?;
                }
            }
        }
        Ok(())
    }
}

/// Returns the new columns. A name has at most 200 characters; in lower case one character may become two.
fn keys(backend: DbBackend) -> (ColumnDef, ColumnDef) {
    let column = |name: Users| {
        let mut column = ColumnDef::new(name);
        match backend {
            // The order of code points, regardless of the server's locale.
            DbBackend::Postgres => column.custom(r#"varchar(400) COLLATE "C""#),
            _ => column.string_len(400),
        };
        column.not_null().default("").take()
    };
    (column(Users::NameKey), column(Users::LastWordKey))
}

/// Sets the keys of rows that have none; it may run again.
async fn fill(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let db = manager.get_connection();
    let mut missing = Query::select();
    missing
        .columns([Users::Id, Users::Name])
        .from(Users::Table)
        .and_where(Expr::col(Users::NameKey).eq(""))
        .limit(CHUNK);
    loop {
        let rows: Vec<QueryResult> = db.query_all(&missing).await?;
        for row in &rows {
            let (id, name): (Uuid, String) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
            // The same keys as the service makes; copied here because a migration must not change.
            let key: String = name.to_lowercase().chars().map(|c| if c == 'ς' { 'σ' } else { c }).nfc().collect();
            let last_word_key = match key.rsplit_once(char::is_whitespace) {
                Some((others, last)) => format!("{last} {}", others.trim_end()),
                None => key.clone(),
            };
            let mut update = Query::update();
            update
                .table(Users::Table)
                .values([(Users::NameKey, key.into()), (Users::LastWordKey, last_word_key.into())])
                .and_where(Expr::col(Users::Id).eq(id));
            db.execute(&update).await?;
        }
        if rows.is_empty() {
            return Ok(());
        }
    }
}
