//! The `users_messages` table: the data of messages to users. Their order is that of their entries in the journal.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::create_table_with_index;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(DeriveIden)]
enum UsersMessages {
    Table,
    Number,
    UserId,
    Data,
}

const USER_INDEX: &str = "users_messages_user_ix";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        let mut user_id = ColumnDef::new(UsersMessages::UserId);
        match backend {
            DbBackend::Postgres => user_id.uuid(),
            _ => user_id.binary_len(16),
        };
        let mut table = Table::create();
        table
            .table(UsersMessages::Table)
            .if_not_exists()
            .col(ColumnDef::new(UsersMessages::Number).big_integer().not_null())
            .col(user_id.not_null())
            .col(ColumnDef::new(UsersMessages::Data).text().not_null())
            .primary_key(Index::create().col(UsersMessages::Number).col(UsersMessages::UserId));
        if backend == DbBackend::MySql {
            table.character_set("utf8mb4").collate("utf8mb4_bin");
        }
        let mut index = Index::create();
        index.name(USER_INDEX).col(UsersMessages::UserId);
        create_table_with_index(manager, table, index, UsersMessages::Table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(UsersMessages::Table).to_owned()).await
    }
}
