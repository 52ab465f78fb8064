//! Many users looked up with one statement.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use entity::users::Column;
use orm_pool::Connection;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, QueryFilter, QuerySelect, QueryTrait, Value,
    sea_query::{Expr, postgres_array::NotU8},
};
use uuid::Uuid;

use super::row::{self, COLUMNS};
use crate::domain::User;

/// The users with these ids, in their order.
pub(super) async fn by_ids(db: Connection, ids: Arc<[Uuid]>) -> Result<Vec<Option<User>>, DbErr> {
    let select = row::select().filter(is_one_of(db.get_database_backend(), Column::Id, &ids));
    let rows = db.query_all(&select.into_query()).await?;
    let users = rows.iter().map(|row| row::user(row, 0).map(|user| (user.id.as_uuid(), user)));
    in_order(&ids, users)
}

/// The users with these normalised emails, in their order.
pub(super) async fn by_email_keys(db: Connection, keys: Arc<[String]>) -> Result<Vec<Option<User>>, DbErr> {
    let select =
        row::select().column(Column::EmailKey).filter(is_one_of(db.get_database_backend(), Column::EmailKey, &keys));
    let rows = db.query_all(&select.into_query()).await?;
    let users = rows.iter().map(|row| Ok((row.try_get_by_index(COLUMNS.len())?, row::user(row, 0)?)));
    in_order(&keys, users)
}

fn in_order<K: Eq + Hash>(
    keys: &[K],
    users: impl Iterator<Item = Result<(K, User), DbErr>>,
) -> Result<Vec<Option<User>>, DbErr> {
    let mut found: HashMap<K, User> = users.collect::<Result<_, _>>()?;
    Ok(keys.iter().map(|key| found.remove(key)).collect())
}

/// Whether a column has one of these values, in few shapes: each is a prepared statement on each connection.
pub(in crate::service) fn is_one_of<V>(backend: DbBackend, column: impl ColumnTrait, values: &[V]) -> Expr
where
    V: Into<Value> + Clone + NotU8,
{
    match (backend, values) {
        (_, [value]) => column.eq(value.clone()),
        (DbBackend::Postgres, values) => column.eq_any(values.iter().cloned()),
        (_, values) => {
            // Up to the next power of two: the last one stands for the missing ones.
            let last = values.last().into_iter().cycle();
            column.is_in(values.iter().chain(last).take(values.len().next_power_of_two()).cloned())
        }
    }
}
