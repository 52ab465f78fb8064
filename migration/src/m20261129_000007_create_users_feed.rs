//! The `users_feed` table: one row with the state of the feed.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::create_table;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(DeriveIden)]
enum UsersFeed {
    Table,
    Id,
    Epoch,
    Number,
    Floor,
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create();
        table
            .table(UsersFeed::Table)
            .if_not_exists()
            .col(ColumnDef::new(UsersFeed::Id).integer().not_null())
            .col(ColumnDef::new(UsersFeed::Epoch).string_len(32).not_null())
            .col(ColumnDef::new(UsersFeed::Number).big_integer().not_null())
            .col(ColumnDef::new(UsersFeed::Floor).big_integer().not_null())
            .primary_key(Index::create().name("users_feed_pk").col(UsersFeed::Id));
        if manager.get_database_backend() == DbBackend::MySql {
            table.character_set("utf8mb4").collate("utf8mb4_bin");
        }
        create_table(manager, table).await?;
        // Skipped if a first attempt has inserted it: MySQL does not undo the table.
        let first = Query::select()
            .exprs([Expr::val(1), Expr::val(""), Expr::val(0), Expr::val(0)])
            .and_where(Expr::exists(Query::select().column(UsersFeed::Id).from(UsersFeed::Table).take()).not())
            .take();
        let columns = [UsersFeed::Id, UsersFeed::Epoch, UsersFeed::Number, UsersFeed::Floor];
        let mut insert = Query::insert();
        insert.into_table(UsersFeed::Table).columns(columns);
        insert.select_from(first).map_err(|error| DbErr::Custom(error.to_string()))?;
        manager.execute(insert).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(UsersFeed::Table).to_owned()).await
    }
}
