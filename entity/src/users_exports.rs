//! The `users_exports` table.

use sea_orm::entity::prelude::*;

/// A row of `users_exports`: how far the feed has been copied to another system, and by which process.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "users_exports")]
pub struct Model {
    /// The name of the export.
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    /// The position of the last event that was copied; empty before the first one.
    pub exported: String,
    /// The random id of the process that copies; empty without one.
    pub holder: String,
    /// When that process was last alive, by the clock of the database: milliseconds since 1970.
    pub held_ms: i64,
}

impl ActiveModelBehavior for ActiveModel {}
