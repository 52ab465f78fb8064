//! Finds many users with one statement.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use entity::users::Column;
use orm_pool::Connection;
use sea_orm::{ConnectionTrait, DbErr, QueryFilter, QuerySelect, QueryTrait};
use uuid::Uuid;

use super::row::{self, COLUMNS};
use crate::{domain::User, service::statement::is_one_of};

/// Finds the users with these ids, in the same order.
pub(super) async fn by_ids(db: Connection, ids: Arc<[Uuid]>) -> Result<Vec<Option<User>>, DbErr> {
    let select = row::select().filter(is_one_of(db.get_database_backend(), Column::Id, &ids));
    let rows = db.query_all(&select.into_query()).await?;
    let users = rows.iter().map(|row| row::read_user(row, 0).map(|user| (user.id.as_uuid(), user)));
    in_order(&ids, users)
}

/// Finds the users with these email keys, in the same order.
pub(super) async fn by_email_keys(db: Connection, keys: Arc<[String]>) -> Result<Vec<Option<User>>, DbErr> {
    let select =
        row::select().column(Column::EmailKey).filter(is_one_of(db.get_database_backend(), Column::EmailKey, &keys));
    let rows = db.query_all(&select.into_query()).await?;
    let users = rows.iter().map(|row| Ok((row.try_get_by_index(COLUMNS.len())?, row::read_user(row, 0)?)));
    in_order(&keys, users)
}

fn in_order<K: Eq + Hash>(
    keys: &[K],
    users: impl Iterator<Item = Result<(K, User), DbErr>>,
) -> Result<Vec<Option<User>>, DbErr> {
    let mut found: HashMap<K, User> = users.collect::<Result<_, _>>()?;
    Ok(keys.iter().map(|key| found.remove(key)).collect())
}
