//! The `users_processes` table: the processes that have WebSockets of users, until they are no longer alive.

use sea_orm_migration::prelude::*;

use crate::create_table;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(DeriveIden)]
enum UsersProcesses {
    Table,
    Process,
    SeenMs,
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create();
        table
            .table(UsersProcesses::Table)
            .if_not_exists()
            .col(ColumnDef::new(UsersProcesses::Process).string_len(32).not_null())
            .col(ColumnDef::new(UsersProcesses::SeenMs).big_integer().not_null())
            .primary_key(Index::create().name("users_processes_pk").col(UsersProcesses::Process));
        create_table(manager, table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(UsersProcesses::Table).to_owned()).await
    }
}
