//! Many users created with one transaction.

use std::{collections::HashSet, sync::Arc};

use entity::users::{Column, Entity, Model};
use orm_pool::{Connection, DbErrorKind};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, IntoActiveModel, Iterable, QueryFilter, QuerySelect,
    QueryTrait, Value,
    sea_query::{Expr, OnConflict, Query, ValueType},
};
use uuid::Uuid;

use super::row::unnest;

/// How often a row is inserted again whose email is alternately taken and free.
const MOST_ATTEMPTS: u32 = 3;

/// What became of one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Created {
    Yes,
    EmailTaken,
}

/// Inserts the rows whose emails are not taken, and tells which those are, in their order.
pub(super) async fn all(db: Connection, models: Arc<[Arc<Model>]>) -> Result<Vec<Created>, DbErr> {
    if let [model] = &*models {
        // Its error is its own.
        let created = match insert(&db, model).await {
            Ok(()) => Created::Yes,
            // Boxed, so that a creation does not carry around what it rarely needs.
            Err(error) if is_unnamed_violation(&db, &error) => Box::pin(after_violation(&db, model, error)).await?,
            Err(error) => return Err(error),
        };
        return Ok(vec![created]);
    }
    let inserted = free_ones(&db, models.iter().map(AsRef::as_ref).collect()).await?;
    let outcome = |id| if inserted.contains(id) { Created::Yes } else { Created::EmailTaken };
    Ok(models.iter().map(|model| outcome(&model.id)).collect())
}

async fn insert(db: &Connection, model: &Model) -> Result<(), DbErr> {
    Entity::insert(model.clone().into_active_model()).exec_without_returning(db).await.map(drop)
}

/// Finds out what MySQL has refused a row for, and inserts it again if its email has become free.
async fn after_violation(db: &Connection, model: &Model, mut error: DbErr) -> Result<Created, DbErr> {
    for _ in 0..MOST_ATTEMPTS {
        if is_taken(db, model, &error).await? {
            return Ok(Created::EmailTaken);
        }
        // The other user was deleted before the SELECT.
        match insert(db, model).await {
            Ok(()) => return Ok(Created::Yes),
            Err(again) if is_unnamed_violation(db, &again) => error = again,
            Err(again) => return Err(again),
        }
    }
    Err(error)
}

/// Whether MySQL has refused a row because its email is taken. Its protocol does not say which key was violated, and its
/// message says so in the server's language. The other engines name the constraint: see [`Error`](crate::service::Error).
pub(super) async fn is_taken(db: &impl ConnectionTrait, row: &Model, error: &DbErr) -> Result<bool, DbErr> {
    if !is_unnamed_violation(db, error) {
        return Ok(false);
    }
    let other = Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::EmailKey.eq(row.email_key.as_str()))
        .filter(Column::Id.ne(row.id))
        // Past the snapshot that a transaction has.
        .lock_shared();
    Ok(other.into_tuple::<Uuid>().one(db).await?.is_some())
}

/// Whether a unique key was violated, and the database does not say which.
fn is_unnamed_violation(db: &impl ConnectionTrait, error: &DbErr) -> bool {
    db.get_database_backend() == DbBackend::MySql && DbErrorKind::of(error) == DbErrorKind::UniqueViolation
}

/// Inserts the rows whose emails are not taken, inside a transaction, and gives their ids.
pub(super) async fn free_ones(db: &Connection, mut models: Vec<&Model>) -> Result<HashSet<Uuid>, DbErr> {
    if models.is_empty() {
        return Ok(HashSet::new());
    }
    // All transactions take the locks of the unique index in the same order, so that none waits for another in a circle.
    // Of two with the same email the first stays the first.
    models.sort_by(|a, b| a.email_key.cmp(&b.email_key));
    match db.get_database_backend() {
        DbBackend::Postgres => by_columns(db, &models).await,
        DbBackend::MySql => where_it_cannot_return(db, &models).await,
        _ => by_rows(db, &models).await,
    }
}

/// PostgreSQL takes each column as one array: a single shape, however many rows.
async fn by_columns(db: &Connection, models: &[&Model]) -> Result<HashSet<Uuid>, DbErr> {
    fn column<V: Into<Value> + ValueType>(models: &[&Model], value: impl Fn(&Model) -> V) -> Expr {
        unnest(models.iter().map(|model| value(model))).into()
    }
    let mut rows = Query::select();
    for each in Column::iter() {
        rows.expr(match each {
            Column::Id => column(models, |model| model.id),
            Column::Name => column(models, |model| model.name.clone()),
            Column::NameKey => column(models, |model| model.name_key.clone()),
            Column::LastWordKey => column(models, |model| model.last_word_key.clone()),
            Column::Email => column(models, |model| model.email.clone()),
            Column::EmailKey => column(models, |model| model.email_key.clone()),
            Column::Version => column(models, |model| model.version),
            Column::CreatedAt => column(models, |model| model.created_at),
            Column::UpdatedAt => column(models, |model| model.updated_at),
        });
    }
    let mut insert = Query::insert();
    insert
        .into_table(Entity)
        .columns(Column::iter())
        .select_from(rows)
        .map_err(|error| DbErr::Custom(error.to_string()))?
        .on_conflict(OnConflict::column(Column::EmailKey).do_nothing().to_owned())
        .returning_col(Column::Id);
    let rows = db.query_all(&insert).await?;
    rows.iter().map(|row| row.try_get_by_index(0)).collect()
}

/// SQLite: as many rows a statement as powers of two go into their number.
async fn by_rows(db: &Connection, models: &[&Model]) -> Result<HashSet<Uuid>, DbErr> {
    let mut inserted = HashSet::with_capacity(models.len());
    for chunk in powers_of_two(models) {
        let mut insert =
            Entity::insert_many(chunk.iter().map(|model| (*model).clone().into_active_model())).into_query();
        insert.on_conflict(OnConflict::column(Column::EmailKey).do_nothing().to_owned()).returning_col(Column::Id);
        for row in db.query_all(&insert).await? {
            inserted.insert(row.try_get_by_index(0)?);
        }
    }
    Ok(inserted)
}

/// MySQL says nothing of single rows. As a rule all emails are free; if not, it keeps those that are, and is asked which.
async fn where_it_cannot_return(db: &Connection, models: &[&Model]) -> Result<HashSet<Uuid>, DbErr> {
    let mut inserted = HashSet::with_capacity(models.len());
    for chunk in powers_of_two(models) {
        let rows = || Entity::insert_many(chunk.iter().map(|model| (*model).clone().into_active_model()));
        match rows().exec_without_returning(db).await {
            Ok(_) => inserted.extend(chunk.iter().map(|model| model.id)),
            // The statement is undone as a whole, the transaction is not.
            Err(error) if DbErrorKind::of(&error) == DbErrorKind::UniqueViolation => {
                rows().on_conflict_do_nothing_on([Column::EmailKey]).exec_without_returning(db).await?;
                let ids = Entity::find()
                    .select_only()
                    .column(Column::Id)
                    .filter(Column::Id.is_in(chunk.iter().map(|model| model.id)));
                inserted.extend(ids.into_tuple::<Uuid>().all(db).await?);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(inserted)
}

/// Rows that are written with one statement, as a power of two: SQLite takes 32,766 parameters, and a row has nine.
const LONGEST_PIECE: u32 = 10;

/// Cuts a slice into pieces whose lengths are powers of two, so that there are few shapes of statements.
pub(in crate::service) fn powers_of_two<T>(mut rest: &[T]) -> Vec<&[T]> {
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let (piece, left) = rest.split_at(1 << rest.len().ilog2().min(LONGEST_PIECE));
        pieces.push(piece);
        rest = left;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_piece() {
        for length in (0..70).chain([1024, 5000, 10_000]) {
            let rows: Vec<usize> = (0..length).collect();
            let pieces = powers_of_two(&rows);
            assert!(pieces.iter().all(|piece| piece.len().is_power_of_two() && piece.len() <= 1024), "{pieces:?}");
            assert_eq!(pieces.concat(), rows);
        }
    }
}
