//! The `users_journal` table.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{create_table_with_index, timestamp_column};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(DeriveIden)]
enum UsersJournal {
    Table,
    Id,
    UserId,
    Version,
    Action,
    Changed,
    Actor,
    RequestId,
    ChangedAt,
    Name,
    Email,
    CreatedAt,
}

const USER_INDEX: &str = "users_journal_user_ix";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        let mut user_id = ColumnDef::new(UsersJournal::UserId);
        match backend {
            DbBackend::Postgres => user_id.uuid(),
            _ => user_id.binary_len(16),
        };
        let mut table = Table::create();
        table
            .table(UsersJournal::Table)
            .if_not_exists()
            // The order of inserts, not of commits. Ids are never reused.
            .col(ColumnDef::new(UsersJournal::Id).big_integer().not_null().auto_increment().primary_key())
            .col(user_id.not_null())
            .col(ColumnDef::new(UsersJournal::Version).big_integer().not_null())
            .col(ColumnDef::new(UsersJournal::Action).string_len(10).not_null())
            .col(ColumnDef::new(UsersJournal::Changed).string_len(20).not_null())
            // The subject of an access token can be long.
            .col(ColumnDef::new(UsersJournal::Actor).text().not_null())
            .col(ColumnDef::new(UsersJournal::RequestId).string_len(128))
            .col(timestamp_column(UsersJournal::ChangedAt, backend))
            // The user after the change. Erased when the user is deleted.
            .col(ColumnDef::new(UsersJournal::Name).string_len(200))
            .col(ColumnDef::new(UsersJournal::Email).string_len(254))
            .col(timestamp_column(UsersJournal::CreatedAt, backend));
        if backend == DbBackend::MySql {
            table.character_set("utf8mb4").collate("utf8mb4_bin");
        }
        let mut index = Index::create();
        index.name(USER_INDEX).col(UsersJournal::UserId).col(UsersJournal::Version);
        create_table_with_index(manager, table, index, UsersJournal::Table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(UsersJournal::Table).to_owned()).await
    }
}
