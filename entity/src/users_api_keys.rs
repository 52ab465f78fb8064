//! The `users_api_keys` table.

use sea_orm::entity::prelude::*;

/// A row of `users_api_keys`: an API key of a client, without its secret.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "users_api_keys")]
pub struct Model {
    /// The part of the key by which it is found.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// SHA-256 of the key.
    pub digest: Vec<u8>,
    /// The purpose of the key.
    pub name: String,
    /// The names of its scopes, separated by spaces.
    pub scopes: String,
    /// When it was created, UTC.
    pub created_at: DateTimeUtc,
    /// When it expires, UTC.
    pub expires_at: Option<DateTimeUtc>,
    /// When it was revoked, UTC.
    pub revoked_at: Option<DateTimeUtc>,
    /// The id of the key that replaces it.
    pub replaced_by: Option<String>,
    /// When it was last used, UTC, accurate to about a minute.
    pub last_used_at: Option<DateTimeUtc>,
}

impl ActiveModelBehavior for ActiveModel {}
