//! The `users_presence` table.

use sea_orm::entity::prelude::*;

/// A row of `users_presence`: a user has WebSockets on a process.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "users_presence")]
pub struct Model {
    /// The id of the user.
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: Uuid,
    /// The process.
    #[sea_orm(primary_key, auto_increment = false)]
    pub process: String,
    /// Since when it has had at least one, UTC.
    pub since: DateTimeUtc,
}

impl ActiveModelBehavior for ActiveModel {}
