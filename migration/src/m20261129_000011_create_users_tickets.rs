//! The `users_tickets` table: tickets for WebSockets, until they are used.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{create_table_with_index, nullable_timestamp_column, timestamp_column};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(DeriveIden)]
enum UsersTickets {
    Table,
    Digest,
    UserId,
    Actor,
    KeyId,
    ValidUntil,
    Scope,
    ExpiresAt,
}

const EXPIRY_INDEX: &str = "users_tickets_expires_at_ix";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        let mut user_id = ColumnDef::new(UsersTickets::UserId);
        match backend {
            DbBackend::Postgres => user_id.uuid(),
            _ => user_id.binary_len(16),
        };
        let mut table = Table::create();
        table
            .table(UsersTickets::Table)
            .if_not_exists()
            .col(ColumnDef::new(UsersTickets::Digest).binary_len(32).not_null().primary_key())
            .col(user_id)
            .col(ColumnDef::new(UsersTickets::Actor).text().not_null())
            .col(ColumnDef::new(UsersTickets::KeyId).string_len(12))
            .col(nullable_timestamp_column(UsersTickets::ValidUntil, backend))
            .col(ColumnDef::new(UsersTickets::Scope).string_len(20).not_null())
            .col(timestamp_column(UsersTickets::ExpiresAt, backend));
        if backend == DbBackend::MySql {
            // Ids of keys differ by case.
            table.character_set("utf8mb4").collate("utf8mb4_bin");
        }
        let mut index = Index::create();
        index.name(EXPIRY_INDEX).col(UsersTickets::ExpiresAt);
        create_table_with_index(manager, table, index, UsersTickets::Table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(UsersTickets::Table).to_owned()).await
    }
}
