//! The `idempotency_keys` table.

use sea_orm_migration::prelude::*;

use crate::{create_table_with_index, timestamp_column};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(DeriveIden)]
enum IdempotencyKeys {
    Table,
    KeyHash,
    Fingerprint,
    Answer,
    ExpiresAt,
}

const EXPIRES_AT_INDEX: &str = "idempotency_keys_expires_at_ix";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        let mut table = Table::create();
        table
            .table(IdempotencyKeys::Table)
            .if_not_exists()
            .col(ColumnDef::new(IdempotencyKeys::KeyHash).binary_len(32).not_null().primary_key())
            .col(ColumnDef::new(IdempotencyKeys::Fingerprint).binary_len(32).not_null())
            .col(ColumnDef::new(IdempotencyKeys::Answer).blob().not_null())
            .col(timestamp_column(IdempotencyKeys::ExpiresAt, backend));
        // Expired keys are found by this index, in small batches.
        let mut index = Index::create();
        index.name(EXPIRES_AT_INDEX).col(IdempotencyKeys::ExpiresAt);
        create_table_with_index(manager, table, index, IdempotencyKeys::Table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(IdempotencyKeys::Table).to_owned()).await
    }
}
