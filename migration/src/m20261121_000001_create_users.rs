//! The `users` table.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::timestamp_column;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(DeriveIden)]
enum Users {
    Table,
    Id,
    Name,
    Email,
    EmailKey,
    Version,
    CreatedAt,
    UpdatedAt,
}

const EMAIL_KEY_INDEX: &str = "users_email_key_uq";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        let mut table = Table::create();
        table
            .table(Users::Table)
            .if_not_exists()
            .col(id(backend))
            // Lengths are in characters. An email address has at most 254 octets; its key may be longer, because of
            // punycode and lower case.
            .col(ColumnDef::new(Users::Name).string_len(200).not_null())
            .col(ColumnDef::new(Users::Email).string_len(254).not_null())
            .col(ColumnDef::new(Users::EmailKey).string_len(512).not_null())
            .col(ColumnDef::new(Users::Version).big_integer().not_null())
            .col(timestamp_column(Users::CreatedAt, backend))
            .col(timestamp_column(Users::UpdatedAt, backend))
            // Part of CREATE TABLE: on MySQL nothing can come between the two.
            .index(Index::create().name(EMAIL_KEY_INDEX).col(Users::EmailKey).unique());
        match backend {
            // A binary collation: the application decides whether two keys are equal, not the locale of the server.
            DbBackend::MySql => {
                table.engine("InnoDB").character_set("utf8mb4").collate("utf8mb4_bin");
            }
            // Rows are stored in the order of their key, and pages follow it.
            DbBackend::Sqlite => {
                table.extra("WITHOUT ROWID");
            }
            _ => {}
        }
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(Users::Table).to_owned()).await
    }
}

fn id(backend: DbBackend) -> ColumnDef {
    let mut column = ColumnDef::new(Users::Id);
    match backend {
        DbBackend::Postgres => column.uuid(),
        // 16 bytes sort like the text form, in half the space.
        _ => column.binary_len(16),
    };
    column.not_null().primary_key().take()
}
