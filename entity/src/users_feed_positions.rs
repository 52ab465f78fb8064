//! The `users_feed_positions` table.

use sea_orm::entity::prelude::*;

/// A row of `users_feed_positions`: an event of the feed.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "users_feed_positions")]
pub struct Model {
    /// Its position: without gaps, in the order of commits.
    #[sea_orm(primary_key, auto_increment = false)]
    pub number: i64,
    /// The entry of the journal.
    pub journal_id: i64,
}

impl ActiveModelBehavior for ActiveModel {}
