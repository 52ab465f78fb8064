//! The `users_feed_positions` table: the order of the changes in the feed. SQLite needs none, because there the ids of the
//! journal are the positions.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::create_table;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(DeriveIden)]
enum UsersFeedPositions {
    Table,
    Number,
    JournalId,
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() == DbBackend::Sqlite {
            return Ok(());
        }
        let mut table = Table::create();
        table
            .table(UsersFeedPositions::Table)
            .if_not_exists()
            .col(ColumnDef::new(UsersFeedPositions::Number).big_integer().not_null())
            .col(ColumnDef::new(UsersFeedPositions::JournalId).big_integer().not_null())
            .primary_key(Index::create().name("users_feed_positions_pk").col(UsersFeedPositions::Number));
        create_table(manager, table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() == DbBackend::Sqlite {
            return Ok(());
        }
        manager.drop_table(Table::drop().table(UsersFeedPositions::Table).to_owned()).await
    }
}
