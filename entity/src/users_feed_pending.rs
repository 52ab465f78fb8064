//! The `users_feed_pending` table.

use sea_orm::entity::prelude::*;

/// A row of `users_feed_pending`: a change that has no position in the feed yet. It names an entry of the journal.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "users_feed_pending")]
pub struct Model {
    /// When the change was made, UTC.
    #[sea_orm(primary_key, auto_increment = false)]
    pub changed_at: DateTimeUtc,
    /// The version that it created.
    #[sea_orm(primary_key, auto_increment = false)]
    pub version: i64,
    /// The id of the user.
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: Uuid,
}

impl ActiveModelBehavior for ActiveModel {}
