//! Reads users from rows by column index: on a page of twenty, looking up the names costs more than reading the values.

use entity::users::{Column, Entity};
use sea_orm::{DbErr, EntityTrait, QueryResult, QuerySelect, Select};
use uuid::Uuid;

use crate::domain::{Email, Name, User, Version};

/// The columns, in the order in which [`read_user`] reads them.
pub(super) const COLUMNS: [Column; 6] =
    [Column::Id, Column::Name, Column::Email, Column::Version, Column::CreatedAt, Column::UpdatedAt];

/// Returns a query for users that selects [`COLUMNS`].
pub(super) fn select() -> Select<Entity> {
    Entity::find().select_only().columns(COLUMNS)
}

/// Reads a user from the columns that begin at this index.
pub(super) fn read_user(row: &QueryResult, first: usize) -> Result<User, DbErr> {
    let id: Uuid = row.try_get_by_index(first)?;
    Ok(User {
        id: id.into(),
        name: Name::from_stored(row.try_get_by_index(first + 1)?),
        email: Email::from_stored(row.try_get_by_index(first + 2)?),
        version: Version::from_stored(row.try_get_by_index(first + 3)?),
        created_at: row.try_get_by_index(first + 4)?,
        updated_at: row.try_get_by_index(first + 5)?,
    })
}
