//! What is read of a row. By place: on a page of twenty, looking names up costs more than reading the values.

use entity::users::{Column, Entity};
use sea_orm::{
    DbErr, EntityTrait, QueryResult, QuerySelect, Select, Value,
    sea_query::{Expr, Func, FunctionCall, ValueType},
};
use uuid::Uuid;

use crate::domain::User;

/// In the order in which [`user`] reads them.
pub(super) const COLUMNS: [Column; 6] =
    [Column::Id, Column::Name, Column::Email, Column::Version, Column::CreatedAt, Column::UpdatedAt];

/// Users with the columns that are read, in their order.
pub(super) fn select() -> Select<Entity> {
    Entity::find().select_only().columns(COLUMNS)
}

/// Reads a user from the columns that begin at this place.
pub(super) fn user(row: &QueryResult, first: usize) -> Result<User, DbErr> {
    let id: Uuid = row.try_get_by_index(first)?;
    Ok(User {
        id: id.into(),
        name: row.try_get_by_index(first + 1)?,
        email: row.try_get_by_index(first + 2)?,
        version: row.try_get_by_index(first + 3)?,
        created_at: row.try_get_by_index(first + 4)?,
        updated_at: row.try_get_by_index(first + 5)?,
    })
}

/// Values as rows of one column, in one parameter, however many (PostgreSQL).
pub(super) fn unnest<V: Into<Value> + ValueType>(values: impl Iterator<Item = V>) -> FunctionCall {
    let values = values.map(Into::into).collect();
    Func::cust("unnest").arg(Expr::val(Value::Array(V::array_type(), Some(Box::new(values)))))
}
