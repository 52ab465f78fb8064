//! The `users_feed_pending` table: changes that have no position yet. SQLite needs none, because there the journal is in
//! the order of commits.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{create_table, timestamp_column};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(DeriveIden)]
enum UsersFeedPending {
    Table,
    ChangedAt,
    Version,
    UserId,
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        let mut user_id = ColumnDef::new(UsersFeedPending::UserId);
        match backend {
            DbBackend::Sqlite => return Ok(()),
            DbBackend::Postgres => user_id.uuid(),
            _ => user_id.binary_len(16),
        };
        let mut table = Table::create();
        table
            .table(UsersFeedPending::Table)
            .if_not_exists()
            .col(timestamp_column(UsersFeedPending::ChangedAt, backend))
            .col(ColumnDef::new(UsersFeedPending::Version).big_integer().not_null())
            .col(user_id.not_null())
            // In this order the versions of each user ascend: a change is never older than the one before it.
            .primary_key(
                Index::create()
                    .name("users_feed_pending_pk")
                    .col(UsersFeedPending::ChangedAt)
                    .col(UsersFeedPending::Version)
                    .col(UsersFeedPending::UserId),
            );
        create_table(manager, table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() == DbBackend::Sqlite {
            return Ok(());
        }
        manager.drop_table(Table::drop().table(UsersFeedPending::Table).to_owned()).await
    }
}
