//! Many users looked up with one statement.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use entity::users::{Column, Entity, Model};
use orm_pool::Connection;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, QueryFilter, Value,
    sea_query::{Expr, postgres_array::NotU8},
};
use uuid::Uuid;

use crate::domain::User;

/// The users with these ids, in their order.
pub(super) async fn by_ids(db: Connection, ids: Arc<[Uuid]>) -> Result<Vec<Option<User>>, DbErr> {
    let rows = Entity::find().filter(is_one_of(&db, Column::Id, &ids)).all(&db).await?;
    Ok(in_order(&ids, rows, |row| row.id))
}

/// The users with these normalised emails, in their order.
pub(super) async fn by_email_keys(db: Connection, keys: Arc<[String]>) -> Result<Vec<Option<User>>, DbErr> {
    let rows = Entity::find().filter(is_one_of(&db, Column::EmailKey, &keys)).all(&db).await?;
    Ok(in_order(&keys, rows, |row| row.email_key.clone()))
}

fn in_order<K: Eq + Hash>(keys: &[K], rows: Vec<Model>, key: impl Fn(&Model) -> K) -> Vec<Option<User>> {
    let mut found: HashMap<K, Model> = rows.into_iter().map(|row| (key(&row), row)).collect();
    keys.iter().map(|key| found.remove(key).map(User::from)).collect()
}

/// Whether a column has one of these values, in few shapes: each is a prepared statement on each connection.
fn is_one_of<V>(db: &impl ConnectionTrait, column: Column, values: &[V]) -> Expr
where
    V: Into<Value> + Clone + NotU8,
{
    match (db.get_database_backend(), values) {
        (_, [value]) => column.eq(value.clone()),
        (DbBackend::Postgres, values) => column.eq_any(values.iter().cloned()),
        (_, values) => {
            // Up to the next power of two: the last one stands for the missing ones.
            let last = values.last().into_iter().cycle();
            column.is_in(values.iter().chain(last).take(values.len().next_power_of_two()).cloned())
        }
    }
}
