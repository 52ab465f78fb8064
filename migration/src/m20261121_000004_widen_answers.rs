//! Larger stored responses: those of bulk operations exceed MySQL's plain `blob` (64 KiB).

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        resize(manager, "mediumblob").await
    }

    /// Deletes responses that no longer fit, with their keys.
    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() == DbBackend::MySql {
            let db = manager.get_connection();
            db.execute_unprepared("DELETE FROM idempotency_keys WHERE LENGTH(answer) > 65535").await?;
        }
        resize(manager, "blob").await
    }
}

/// The other engines have a single type, without a limit.
async fn resize(manager: &SchemaManager<'_>, to: &str) -> Result<(), DbErr> {
    if manager.get_database_backend() == DbBackend::MySql {
        let alter = format!("ALTER TABLE idempotency_keys MODIFY answer {to} NOT NULL");
        manager.get_connection().execute_unprepared(&alter).await?;
    }
    Ok(())
}
