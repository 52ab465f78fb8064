//! The `idempotency_keys` table.

use sea_orm::entity::prelude::*;

/// A row of `idempotency_keys`: an answer that is given again to whoever asks again with the same key.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "idempotency_keys")]
pub struct Model {
    /// SHA-256 of the operation, the caller's scope and the key.
    #[sea_orm(primary_key, auto_increment = false)]
    pub key_hash: Vec<u8>,
    /// SHA-256 of what was asked for.
    pub fingerprint: Vec<u8>,
    /// The answer, in the form of the edge that gives it.
    pub answer: Vec<u8>,
    /// From when on the key is free again, UTC.
    pub expires_at: DateTimeUtc,
}

impl ActiveModelBehavior for ActiveModel {}
