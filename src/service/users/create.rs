//! Creates users: several in one transaction, a single one without.

use std::{collections::HashSet, sync::Arc};

use entity::users::{Column, Entity, Model};
use orm_pool::{Connection, DbErrorKind};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, IntoActiveModel, Iterable, QueryFilter, QuerySelect,
    QueryTrait, Value,
    sea_query::{Expr, OnConflict, Query, ValueType},
};
use uuid::Uuid;

use crate::service::statement::{power_of_two_chunks, unnest};

/// Maximum number of retries of an insert whose email is alternately taken and free.
const MAX_RETRIES: u32 = 3;

/// The outcome of a creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CreateOutcome {
    Created,
    EmailTaken,
}

/// Inserts the rows whose emails are free and returns the outcome of each, in the same order.
///
/// Several rows need a transaction, which the caller must have begun. A single row is one plain INSERT. If its email is
/// taken, the result is `Ok` with [`CreateOutcome::EmailTaken`] on MySQL and MariaDB, and the database's error on
/// PostgreSQL and SQLite, which converts to [`Error::EmailTaken`](crate::service::Error::EmailTaken).
pub(super) async fn all(db: Connection, models: Arc<[Arc<Model>]>) -> Result<Vec<CreateOutcome>, DbErr> {
    if let [model] = &*models {
        // A batch of one needs no ON CONFLICT: its error fails only this request.
        let outcome = match insert(&db, model).await {
            Ok(()) => CreateOutcome::Created,
            // Boxed, because it is rarely needed and would enlarge the future of every creation.
            Err(error) if is_unnamed_violation(&db, &error) => Box::pin(after_violation(&db, model, error)).await?,
            Err(error) => return Err(error),
        };
        return Ok(vec![outcome]);
    }
    let inserted = insert_if_email_free(&db, models.iter().map(AsRef::as_ref).collect()).await?;
    let outcome = |id| if inserted.contains(id) { CreateOutcome::Created } else { CreateOutcome::EmailTaken };
    Ok(models.iter().map(|model| outcome(&model.id)).collect())
}

async fn insert(db: &Connection, model: &Model) -> Result<(), DbErr> {
    Entity::insert(model.clone().into_active_model()).exec_without_returning(db).await.map(drop)
}

/// Finds out which key a row violates on MySQL, and retries the insert if its email has become free.
async fn after_violation(db: &Connection, model: &Model, mut error: DbErr) -> Result<CreateOutcome, DbErr> {
    for _ in 0..MAX_RETRIES {
        if is_email_taken(db, model, &error).await? {
            return Ok(CreateOutcome::EmailTaken);
        }
        // The conflicting row disappeared between the INSERT and the SELECT.
        match insert(db, model).await {
            Ok(()) => return Ok(CreateOutcome::Created),
            Err(again) if is_unnamed_violation(db, &again) => error = again,
            Err(again) => return Err(again),
        }
    }
    Err(error)
}

/// Returns whether MySQL has rejected a row because its email is taken. Its protocol does not report which key was
/// violated, and the text of its message depends on the server's language. The other engines report the constraint: see
/// [`Error`](crate::service::Error).
pub(super) async fn is_email_taken(db: &impl ConnectionTrait, row: &Model, error: &DbErr) -> Result<bool, DbErr> {
    if !is_unnamed_violation(db, error) {
        return Ok(false);
    }
    let other = Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::EmailKey.eq(row.email_key.as_str()))
        .filter(Column::Id.ne(row.id))
        // A locking read sees the latest committed rows, not the snapshot.
        .lock_shared();
    Ok(other.into_tuple::<Uuid>().one(db).await?.is_some())
}

/// Returns whether a unique key was violated and the database does not report which.
fn is_unnamed_violation(db: &impl ConnectionTrait, error: &DbErr) -> bool {
    db.get_database_backend() == DbBackend::MySql && DbErrorKind::of(error) == DbErrorKind::UniqueViolation
}

/// Inserts the rows whose emails are free, and returns their ids. The caller must have begun a transaction.
pub(super) async fn insert_if_email_free(db: &Connection, mut models: Vec<&Model>) -> Result<HashSet<Uuid>, DbErr> {
    if models.is_empty() {
        return Ok(HashSet::new());
    }
    // All transactions lock the unique index in the same order, so that they do not deadlock. The sort is stable: of
    // two rows with the same email, the first is inserted.
    models.sort_by(|a, b| a.email_key.cmp(&b.email_key));
    match db.get_database_backend() {
        DbBackend::Postgres => insert_arrays(db, &models).await,
        DbBackend::MySql => insert_without_returning(db, &models).await,
        _ => insert_returning(db, &models).await,
    }
}

/// PostgreSQL: one array parameter per column, so that a single statement inserts any number of rows.
async fn insert_arrays(db: &Connection, models: &[&Model]) -> Result<HashSet<Uuid>, DbErr> {
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

/// SQLite: statements whose numbers of rows are powers of two, so that few distinct statements are prepared.
async fn insert_returning(db: &Connection, models: &[&Model]) -> Result<HashSet<Uuid>, DbErr> {
    let mut inserted = HashSet::with_capacity(models.len());
    for chunk in power_of_two_chunks(models) {
        let mut insert =
            Entity::insert_many(chunk.iter().map(|model| (*model).clone().into_active_model())).into_query();
        insert.on_conflict(OnConflict::column(Column::EmailKey).do_nothing().to_owned()).returning_col(Column::Id);
        for row in db.query_all(&insert).await? {
            inserted.insert(row.try_get_by_index(0)?);
        }
    }
    Ok(inserted)
}

/// MySQL has no RETURNING, and MariaDB shares this path. Usually all emails are free; if not, the rows whose emails are
/// free are inserted, and then queried.
async fn insert_without_returning(db: &Connection, models: &[&Model]) -> Result<HashSet<Uuid>, DbErr> {
    let mut inserted = HashSet::with_capacity(models.len());
    for chunk in power_of_two_chunks(models) {
        let rows = || Entity::insert_many(chunk.iter().map(|model| (*model).clone().into_active_model()));
        match rows().exec_without_returning(db).await {
            Ok(_) => inserted.extend(chunk.iter().map(|model| model.id)),
            // The statement is rolled back, the transaction is not.
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
