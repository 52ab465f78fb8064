//! Creates users, with their entries in the journal.

use std::{collections::HashSet, sync::Arc};

use entity::users::{ActiveModel, Column, Entity, Model};
use orm_pool::{Connection, DbErrorKind};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, InsertMany, IntoActiveModel, Iterable, QueryFilter,
    QuerySelect, QueryTrait, Value,
    sea_query::{Expr, InsertStatement, OnConflict, Query, ValueType},
};
use uuid::Uuid;

use crate::{
    domain::Author,
    service::{
        journal::{self, Recorder},
        statement::{power_of_two_chunks, unnest},
    },
};

/// Maximum number of attempts to insert a row whose email is alternately taken and free.
const MAX_RETRIES: u32 = 4;

/// The outcome of a creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CreateOutcome {
    Created,
    EmailTaken,
}

/// A user to create, and who creates it.
#[derive(Clone)]
pub(super) struct NewUser {
    pub(super) row: Model,
    pub(super) author: Author,
}

impl NewUser {
    pub(super) fn borrowed(&self) -> NewRow<'_> {
        NewRow { row: &self.row, author: &self.author }
    }
}

/// A row to insert, and its author.
#[derive(Clone, Copy)]
pub(super) struct NewRow<'a> {
    pub(super) row: &'a Model,
    pub(super) author: &'a Author,
}

/// Inserts the users whose emails are free and returns the outcome of each, in the same order. On SQLite and MySQL the
/// caller must have begun a transaction, on PostgreSQL also for several users.
pub(super) async fn all(
    db: Connection,
    users: Arc<[Arc<NewUser>]>,
    recorder: Recorder,
) -> Result<Vec<CreateOutcome>, DbErr> {
    let inserted = insert_if_email_free(&db, users.iter().map(|user| user.borrowed()).collect(), recorder).await?;
    let outcome = |id| if inserted.contains(id) { CreateOutcome::Created } else { CreateOutcome::EmailTaken };
    Ok(users.iter().map(|user| outcome(&user.row.id)).collect())
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

/// Inserts the rows whose emails are free, each with its entry in the journal, and returns their ids. The caller must
/// have begun a transaction, except on PostgreSQL for a single row.
pub(super) async fn insert_if_email_free(
    db: &Connection,
    mut rows: Vec<NewRow<'_>>,
    recorder: Recorder,
) -> Result<HashSet<Uuid>, DbErr> {
    if rows.is_empty() {
        return Ok(HashSet::new());
    }
    // All transactions lock the unique index in the same order, so that they do not deadlock. The sort is stable: of
    // two rows with the same email, the first is inserted.
    rows.sort_by(|a, b| a.row.email_key.cmp(&b.row.email_key));
    let inserted = match db.get_database_backend() {
        DbBackend::Postgres => return insert_with_entries(db, &rows, recorder).await,
        DbBackend::MySql => insert_without_returning(db, &rows).await?,
        _ => insert_returning(db, &rows).await?,
    };
    let created = rows.iter().filter(|new| inserted.contains(&new.row.id));
    let entries: Vec<_> = created.map(|new| journal::created(new.row, new.author)).collect();
    recorder.append(db, &entries).await?;
    Ok(inserted)
}

/// PostgreSQL: one statement inserts any number of rows and their entries.
async fn insert_with_entries(db: &Connection, rows: &[NewRow<'_>], recorder: Recorder) -> Result<HashSet<Uuid>, DbErr> {
    let mut users = match rows {
        [_] => insert(rows).into_query(),
        rows => insert_arrays(rows)?,
    };
    users.on_conflict(OnConflict::column(Column::EmailKey).do_nothing().to_owned());
    let authors: Vec<_> = rows.iter().map(|new| (new.row.id, new.author)).collect();
    let rows = db.query_all(&recorder.creation(users, &authors)?).await?;
    rows.iter().map(|row| row.try_get_by_index(0)).collect()
}

/// Returns an insert with one array parameter per column (PostgreSQL).
fn insert_arrays(rows: &[NewRow<'_>]) -> Result<InsertStatement, DbErr> {
    fn column<V: Into<Value> + ValueType>(rows: &[NewRow<'_>], value: impl Fn(&Model) -> V) -> Expr {
        unnest(rows.iter().map(|new| value(new.row))).into()
    }
    let mut values = Query::select();
    for each in Column::iter() {
        values.expr(match each {
            Column::Id => column(rows, |row| row.id),
            Column::Name => column(rows, |row| row.name.clone()),
            Column::NameKey => column(rows, |row| row.name_key.clone()),
            Column::LastWordKey => column(rows, |row| row.last_word_key.clone()),
            Column::Email => column(rows, |row| row.email.clone()),
            Column::EmailKey => column(rows, |row| row.email_key.clone()),
            Column::Version => column(rows, |row| row.version),
            Column::CreatedAt => column(rows, |row| row.created_at),
            Column::UpdatedAt => column(rows, |row| row.updated_at),
        });
    }
    let mut users = Query::insert();
    users
        .into_table(Entity)
        .columns(Column::iter())
        .select_from(values)
        .map_err(|error| DbErr::Custom(error.to_string()))?;
    Ok(users)
}

/// SQLite: statements whose numbers of rows are powers of two, so that few distinct statements are prepared.
async fn insert_returning(db: &Connection, rows: &[NewRow<'_>]) -> Result<HashSet<Uuid>, DbErr> {
    let mut inserted = HashSet::with_capacity(rows.len());
    for chunk in power_of_two_chunks(rows) {
        let mut insert = insert(chunk).into_query();
        insert.on_conflict(OnConflict::column(Column::EmailKey).do_nothing().to_owned());
        if let [new] = chunk {
            if db.execute(&insert).await?.rows_affected() > 0 {
                inserted.insert(new.row.id);
            }
            continue;
        }
        for row in db.query_all(insert.returning_col(Column::Id)).await? {
            inserted.insert(row.try_get_by_index(0)?);
        }
    }
    Ok(inserted)
}

/// MySQL has no RETURNING, and MariaDB shares this path. Usually all emails are free; if not, the rows whose emails are
/// free are inserted, and then queried.
async fn insert_without_returning(db: &Connection, rows: &[NewRow<'_>]) -> Result<HashSet<Uuid>, DbErr> {
    let mut inserted = HashSet::with_capacity(rows.len());
    for chunk in power_of_two_chunks(rows) {
        if let [new] = chunk {
            // Boxed, because it is large and used by no other engine.
            if Box::pin(insert_single(db, new)).await? {
                inserted.insert(new.row.id);
            }
            continue;
        }
        match insert(chunk).exec_without_returning(db).await {
            Ok(_) => inserted.extend(chunk.iter().map(|new| new.row.id)),
            // The statement is rolled back, the transaction is not.
            Err(error) if DbErrorKind::of(&error) == DbErrorKind::UniqueViolation => {
                insert(chunk).on_conflict_do_nothing_on([Column::EmailKey]).exec_without_returning(db).await?;
                let ids = Entity::find()
                    .select_only()
                    .column(Column::Id)
                    .filter(Column::Id.is_in(chunk.iter().map(|new| new.row.id)));
                inserted.extend(ids.into_tuple::<Uuid>().all(db).await?);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(inserted)
}

/// Inserts a row unless its email is taken, and returns whether it did.
///
/// A row that violates a key is locked by the INSERT in shared mode. ON DUPLICATE KEY would then lock it exclusively, and
/// transactions with the same email would deadlock; so the row is only read.
async fn insert_single(db: &Connection, new: &NewRow<'_>) -> Result<bool, DbErr> {
    for _ in 0..MAX_RETRIES {
        match insert(std::slice::from_ref(new)).exec_without_returning(db).await {
            Ok(_) => return Ok(true),
            Err(error) if !is_unnamed_violation(db, &error) => return Err(error),
            Err(error) if is_email_taken(db, new.row, &error).await? => return Ok(false),
            // The conflicting row disappeared between the INSERT and the SELECT.
            Err(_) => {}
        }
    }
    Err(DbErr::Custom("the email was alternately taken and free".to_owned()))
}

fn insert(rows: &[NewRow<'_>]) -> InsertMany<ActiveModel> {
    Entity::insert_many(rows.iter().map(|new| new.row.clone().into_active_model()))
}
