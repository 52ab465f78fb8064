//! The `users` table.

use sea_orm::entity::prelude::*;

/// Name of the unique index on [`Model::email_key`], by which a violation is told from any other.
pub const EMAIL_KEY_INDEX: &str = "users_email_key_uq";

/// A row of `users`.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "users")]
pub struct Model {
    /// UUIDv7, made by the application: says to the microsecond when the row was made.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// The name, trimmed and in NFC.
    pub name: String,
    /// The name without regard to case: by this it is found and sorted.
    pub name_key: String,
    /// The same with the last word first.
    pub last_word_key: String,
    /// The email as it was typed.
    pub email: String,
    /// The email's normalised form, unique.
    pub email_key: String,
    /// 1 at creation, one more with each change.
    pub version: i64,
    /// When the row was made, UTC, to the microsecond.
    pub created_at: DateTimeUtc,
    /// When the row was last changed, UTC, to the microsecond.
    pub updated_at: DateTimeUtc,
}

impl ActiveModelBehavior for ActiveModel {}
