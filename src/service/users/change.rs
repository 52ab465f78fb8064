//! Statements that change a single row.

use entity::users::{COLUMN, Column, Entity, Model};
use sea_orm::{ActiveModelTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter, QuerySelect};

use super::create;
use crate::{
    domain::{Precondition, UserId, Version},
    service::{Error, error::database},
};

/// Reads a row, checks the precondition, and locks the row until the transaction ends. SQLite has no row locks and
/// needs none: the transaction is the only writer.
pub(super) async fn find_for_update(
    transaction: &impl ConnectionTrait,
    id: UserId,
    precondition: &Precondition,
) -> Result<Model, Error> {
    let row = Entity::find_by_id(id.as_uuid()).lock_exclusive().one(transaction).await.map_err(database)?;
    let row = row.ok_or(Error::NotFound)?;
    let current = Version::from_stored(row.version);
    if precondition.holds(current) { Ok(row) } else { Err(Error::PreconditionFailed { current }) }
}

/// Deletes a row. The DELETE itself checks the version, as in [`update_row`].
pub(super) async fn delete_row(transaction: &impl ConnectionTrait, row: &Model) -> Result<(), Error> {
    let delete = Entity::delete_many().filter(COLUMN.id.eq(row.id)).filter(COLUMN.version.eq(row.version));
    match delete.exec(transaction).await.map_err(database)?.rows_affected {
        1 => Ok(()),
        _ => Err(Error::VersionConflict),
    }
}

/// Updates a row from version `from`. The UPDATE itself checks the version, because on a multi-primary cluster a lock
/// on this node does not stop a writer on another one.
pub(super) async fn update_row(transaction: &impl ConnectionTrait, next: &Model, from: i64) -> Result<(), Error> {
    let mut row = next.clone().into_active_model().reset_all();
    row.not_set(Column::Id);
    row.not_set(Column::CreatedAt);
    let written = Entity::update_many()
        .set(row)
        .filter(COLUMN.id.eq(next.id))
        .filter(COLUMN.version.eq(from))
        .exec(transaction)
        .await;
    match written {
        Ok(written) if written.rows_affected == 1 => Ok(()),
        Ok(_) => Err(Error::VersionConflict),
        Err(error) if create::is_email_taken(transaction, next, &error).await.map_err(database)? => {
            Err(Error::EmailTaken)
        }
        Err(error) => Err(database(error)),
    }
}
