//! The `users_api_keys` table.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{create_table_with_index, nullable_timestamp_column, timestamp_column};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(DeriveIden)]
enum UsersApiKeys {
    Table,
    Id,
    Digest,
    Name,
    Scopes,
    CreatedAt,
    ExpiresAt,
    RevokedAt,
    ReplacedBy,
    LastUsedAt,
}

const DIGEST_INDEX: &str = "users_api_keys_digest_uq";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        let mut table = Table::create();
        table
            .table(UsersApiKeys::Table)
            .if_not_exists()
            .col(ColumnDef::new(UsersApiKeys::Id).string_len(12).not_null().primary_key())
            .col(ColumnDef::new(UsersApiKeys::Digest).binary_len(32).not_null())
            .col(ColumnDef::new(UsersApiKeys::Name).string_len(100).not_null())
            .col(ColumnDef::new(UsersApiKeys::Scopes).string_len(500).not_null())
            .col(timestamp_column(UsersApiKeys::CreatedAt, backend))
            .col(nullable_timestamp_column(UsersApiKeys::ExpiresAt, backend))
            .col(nullable_timestamp_column(UsersApiKeys::RevokedAt, backend))
            .col(ColumnDef::new(UsersApiKeys::ReplacedBy).string_len(12))
            .col(nullable_timestamp_column(UsersApiKeys::LastUsedAt, backend));
        let mut index = Index::create();
        index.name(DIGEST_INDEX).col(UsersApiKeys::Digest).unique();
        if backend == DbBackend::MySql {
            // Ids differ by case.
            table.character_set("utf8mb4").collate("utf8mb4_bin");
        }
        create_table_with_index(manager, table, index, UsersApiKeys::Table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(UsersApiKeys::Table).to_owned()).await
    }
}
