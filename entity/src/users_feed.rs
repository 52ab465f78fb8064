//! The `users_feed` table.

use sea_orm::entity::prelude::*;

/// The only row of `users_feed`: the state of the feed.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "users_feed")]
pub struct Model {
    /// 1.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i32,
    /// The epoch: only positions of the same epoch are comparable. Empty while the feed is disabled.
    pub epoch: String,
    /// The position of the latest event. Not used on SQLite.
    pub number: i64,
    /// The position before that of the oldest event that is still available.
    pub floor: i64,
}

impl ActiveModelBehavior for ActiveModel {}
