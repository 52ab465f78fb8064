//! The `users_processes` table.

use sea_orm::entity::prelude::*;

/// A row of `users_processes`: a process that has WebSockets of users.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "users_processes")]
pub struct Model {
    /// A random id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub process: String,
    /// When it was last alive, by the clock of the database: milliseconds since 1970.
    pub seen_ms: i64,
}

impl ActiveModelBehavior for ActiveModel {}
