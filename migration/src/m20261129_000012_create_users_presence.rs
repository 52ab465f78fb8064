//! The `users_presence` table: which users have WebSockets on which processes.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{create_table_with_index, timestamp_column};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(DeriveIden)]
enum UsersPresence {
    Table,
    UserId,
    Process,
    Since,
}

const PROCESS_INDEX: &str = "users_presence_process_ix";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        let mut user_id = ColumnDef::new(UsersPresence::UserId);
        match backend {
            DbBackend::Postgres => user_id.uuid(),
            _ => user_id.binary_len(16),
        };
        let mut table = Table::create();
        table
            .table(UsersPresence::Table)
            .if_not_exists()
            .col(user_id.not_null())
            .col(ColumnDef::new(UsersPresence::Process).string_len(32).not_null())
            .col(timestamp_column(UsersPresence::Since, backend))
            .primary_key(Index::create().col(UsersPresence::UserId).col(UsersPresence::Process));
        let mut index = Index::create();
        index.name(PROCESS_INDEX).col(UsersPresence::Process);
        create_table_with_index(manager, table, index, UsersPresence::Table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(UsersPresence::Table).to_owned()).await
    }
}
