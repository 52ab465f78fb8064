//! The `users_messages` table.

use sea_orm::entity::prelude::*;

/// A row of `users_messages`: a message to a user. It has an entry in the journal, with the number as negative version.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "users_messages")]
pub struct Model {
    /// Increases with the time at which it was sent.
    #[sea_orm(primary_key, auto_increment = false)]
    pub number: i64,
    /// The id of the user.
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: Uuid,
    /// JSON.
    #[sea_orm(column_type = "Text")]
    pub data: String,
}

impl ActiveModelBehavior for ActiveModel {}
