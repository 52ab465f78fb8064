//! The `users_tickets` table.

use sea_orm::entity::prelude::*;

/// A row of `users_tickets`: lets a browser open one WebSocket.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "users_tickets")]
pub struct Model {
    /// SHA-256 of the ticket.
    #[sea_orm(primary_key, auto_increment = false)]
    pub digest: Vec<u8>,
    /// The user whose events and messages are read; `None` for the events of all users.
    pub user_id: Option<Uuid>,
    /// The caller that requested the ticket.
    #[sea_orm(column_type = "Text")]
    pub actor: String,
    /// The id of the API key that requested it.
    pub key_id: Option<String>,
    /// When the access token that requested it expires, UTC.
    pub valid_until: Option<DateTimeUtc>,
    /// The scope that permitted it.
    pub scope: String,
    /// When the ticket expires, UTC.
    pub expires_at: DateTimeUtc,
}

impl ActiveModelBehavior for ActiveModel {}
