//! The `users_exports` table: how far the feed has been copied to other systems.

use sea_orm_migration::prelude::*;

use crate::create_table;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(DeriveIden)]
enum UsersExports {
    Table,
    Name,
    Exported,
    Holder,
    HeldMs,
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create();
        table
            .table(UsersExports::Table)
            .if_not_exists()
            .col(ColumnDef::new(UsersExports::Name).string_len(249).not_null())
            .col(ColumnDef::new(UsersExports::Exported).string_len(64).not_null())
            .col(ColumnDef::new(UsersExports::Holder).string_len(32).not_null())
            .col(ColumnDef::new(UsersExports::HeldMs).big_integer().not_null())
            .primary_key(Index::create().name("users_exports_pk").col(UsersExports::Name));
        create_table(manager, table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(UsersExports::Table).to_owned()).await
    }
}
