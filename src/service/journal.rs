//! The journal: every change of a user, and who made it. An entry is written in the transaction of its change, so that
//! both are committed or none.

use std::time::Duration;

use chrono::{DateTime, Utc};
use entity::{
    users::{Column as User, Model as UserRow},
    users_journal::{ActiveModel, Column, Entity, Model},
};
use orm_pool::{Connection, Pool};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, Iterable, QueryFilter, QueryOrder, QuerySelect, Select,
    sea_query::{Alias, CommonTableExpression, Expr, ExprTrait, Func, InsertStatement, Query, Value, WithQuery},
};
use uuid::Uuid;

use super::{
    Error, clock,
    error::database,
    statement::{is_one_of, power_of_two_chunks, unnest},
};
use crate::domain::{Author, UserId, Version};

/// Maximum number of entries per operation of a sweep: few enough not to delay other operations.
const SWEEP_BATCH: u64 = 500;

/// What a change does to a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Created,
    Updated,
    Deleted,
}

impl Action {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
        }
    }
}

/// Returns the entry of a new user.
pub(super) fn created(row: &UserRow, author: &Author) -> ActiveModel {
    entry(Action::Created, row, String::new(), author)
}

/// Returns the entry of a user that was changed.
pub(super) fn updated(before: &UserRow, after: &UserRow, author: &Author) -> ActiveModel {
    let members = [("name", before.name != after.name), ("email", before.email != after.email)];
    let changed: Vec<&str> = members.into_iter().filter_map(|(name, is_changed)| is_changed.then_some(name)).collect();
    entry(Action::Updated, after, changed.join(" "), author)
}

/// Returns the entry of a user that is deleted. It has no values.
fn deleted(row: &UserRow, author: &Author) -> ActiveModel {
    ActiveModel {
        version: Set(row.version + 1),
        // The clock may have gone backwards.
        changed_at: Set(Ord::max(clock::now(), row.updated_at)),
        name: Set(None),
        email: Set(None),
        ..entry(Action::Deleted, row, String::new(), author)
    }
}

fn entry(action: Action, row: &UserRow, changed: String, author: &Author) -> ActiveModel {
    ActiveModel {
        id: NotSet,
        user_id: Set(row.id),
        version: Set(row.version),
        action: Set(action.name().to_owned()),
        changed: Set(changed),
        actor: Set(author.actor.to_string()),
        request_id: Set(author.request_id.as_deref().map(str::to_owned)),
        changed_at: Set(row.updated_at),
        name: Set(Some(row.name.clone())),
        email: Set(Some(row.email.clone())),
        created_at: Set(row.created_at),
    }
}

/// Appends entries, in the transaction of their changes.
pub(super) async fn append(db: &impl ConnectionTrait, entries: &[ActiveModel]) -> Result<(), DbErr> {
    for chunk in power_of_two_chunks(entries) {
        Entity::insert_many(chunk.iter().cloned()).exec_without_returning(db).await?;
    }
    Ok(())
}

/// PostgreSQL: returns the statement that executes an insert into `users`, appends an entry for each row that it inserts,
/// and returns the ids of these rows.
pub(super) fn creation(mut users: InsertStatement, authors: &[(Uuid, &Author)]) -> Result<WithQuery, DbErr> {
    let (created, author) = (Alias::new("created"), Alias::new("author"));
    let columns = [User::Id, User::Version, User::UpdatedAt, User::Name, User::Email, User::CreatedAt];
    users.returning(Query::returning().columns(columns));
    let mut created_table = CommonTableExpression::new();
    created_table.table_name(created.clone()).columns(columns).query(users);
    let mut with = Query::with();
    with.cte(created_table);

    let mut entries = Query::select();
    entries.from(created.clone());
    let of_author = |column: Column| Expr::col((author.clone(), column));
    let (actor, request_id) = if let [(_, author)] = authors {
        // Without the join, which would have to be planned for each execution.
        (Expr::val(author.actor.to_string()), Expr::val(author.request_id.as_deref().map(str::to_owned)))
    } else {
        with.cte(author_table(author.clone(), authors));
        entries.inner_join(author.clone(), of_author(Column::UserId).equals((created.clone(), User::Id)));
        let request_id = Func::cust("NULLIF").args([of_author(Column::RequestId), Expr::val("")]);
        (of_author(Column::Actor), request_id.into())
    };
    let of_created = |column: User| Expr::col((created.clone(), column));
    entries.exprs([
        of_created(User::Id),
        of_created(User::Version),
        Expr::val(Action::Created.name()),
        Expr::val(""),
        actor,
        request_id,
        of_created(User::UpdatedAt),
        of_created(User::Name),
        of_created(User::Email),
        of_created(User::CreatedAt),
    ]);
    let mut append = Query::insert();
    append
        .into_table(Entity)
        .columns(Column::iter().skip(1))
        .select_from(entries)
        .map_err(|error| DbErr::Custom(error.to_string()))?
        .returning_col(Column::UserId);
    Ok(with.query(append))
}

/// Returns a table of authors by user id, in three array parameters.
fn author_table(name: Alias, authors: &[(Uuid, &Author)]) -> CommonTableExpression {
    let ids = unnest(authors.iter().map(|(id, _)| *id));
    let actors = unnest(authors.iter().map(|(_, author)| author.actor.to_string()));
    // An array of texts has no NULL.
    let request_ids =
        unnest(authors.iter().map(|(_, author)| author.request_id.as_deref().unwrap_or_default().to_owned()));
    let mut rows = Query::select();
    rows.expr(ids).expr(actors).expr(request_ids);
    let mut table = CommonTableExpression::new();
    table.table_name(name).columns([Column::UserId, Column::Actor, Column::RequestId]).query(rows);
    table
}

/// Appends the deletion of a user, and erases the values of its earlier entries.
pub(super) async fn append_deletion(
    transaction: &impl ConnectionTrait,
    row: &UserRow,
    author: &Author,
) -> Result<(), DbErr> {
    // Inserted first: on MySQL the update locks the gap behind the user's entries, and two transactions that both have
    // locked it would wait for each other.
    append(transaction, &[deleted(row, author)]).await?;
    let erased = || Expr::val(Value::String(None));
    Entity::update_many()
        .col_expr(Column::Name, erased())
        .col_expr(Column::Email, erased())
        .filter(Column::UserId.eq(row.id))
        .filter(Column::Version.lte(row.version))
        .exec(transaction)
        .await?;
    Ok(())
}

/// A change of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// The position in the journal: the order of inserts, not of commits.
    pub id: i64,
    /// The id of the user.
    pub user_id: UserId,
    /// The version that the change created; for a deletion, the one after the last.
    pub version: Version,
    /// `created`, `updated` or `deleted`.
    pub action: String,
    /// The members that an update changed: `name`, `email`.
    pub changed: Vec<String>,
    /// Who made the change, as [`Actor`](crate::domain::Actor) is displayed.
    pub actor: String,
    /// The id of the request that made it; `None` on the command line.
    pub request_id: Option<String>,
    /// When it was made, UTC.
    pub changed_at: DateTime<Utc>,
    /// The name after the change; `None` once the user is deleted.
    pub name: Option<String>,
    /// The email after the change; `None` once the user is deleted.
    pub email: Option<String>,
}

impl From<Model> for JournalEntry {
    fn from(row: Model) -> Self {
        Self {
            id: row.id,
            user_id: row.user_id.into(),
            version: row.version,
            action: row.action,
            changed: row.changed.split_whitespace().map(str::to_owned).collect(),
            actor: row.actor,
            request_id: row.request_id,
            changed_at: row.changed_at,
            name: row.name,
            email: row.email,
        }
    }
}

/// The stored journal.
#[derive(Clone, Debug)]
pub struct Journal {
    pool: Pool,
}

impl Journal {
    /// Creates the journal on this pool.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Returns the changes of a user below a version, newest first.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn history(&self, id: UserId, before: Option<Version>, limit: u64) -> Result<Vec<JournalEntry>, Error> {
        let of_user = Entity::find().filter(Column::UserId.eq(id.as_uuid())).order_by_desc(Column::Version);
        let page = match before {
            Some(version) => of_user.filter(Column::Version.lt(version)),
            None => of_user,
        };
        self.read("journal.history", page.limit(limit)).await
    }

    /// Returns the entries below an id, newest first.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn latest(&self, before: Option<i64>, limit: u64) -> Result<Vec<JournalEntry>, Error> {
        let all = Entity::find().order_by_desc(Column::Id);
        let page = match before {
            Some(id) => all.filter(Column::Id.lt(id)),
            None => all,
        };
        self.read("journal.latest", page.limit(limit)).await
    }

    async fn read(&self, operation: &'static str, page: Select<Entity>) -> Result<Vec<JournalEntry>, Error> {
        let rows = move |db: Connection| {
            let page = page.clone();
            async move { page.all(&db).await.map_err(database) }
        };
        let rows: Vec<Model> = self.pool.read(operation, rows).await?;
        Ok(rows.into_iter().map(JournalEntry::from).collect())
    }

    /// Deletes those of the next 500 entries after an id that are older than `retention`. Returns the id of the last of
    /// them, or `None` if no later entry can be expired.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn delete_expired(&self, after: i64, retention: Duration) -> Result<Option<i64>, Error> {
        let sweep = move |db: Connection| async move {
            // Ids are in the order of time, except for the differences of the processes' clocks: no index on the time is
            // needed.
            let oldest: Vec<(i64, DateTime<Utc>)> = Entity::find()
                .select_only()
                .column(Column::Id)
                .column(Column::ChangedAt)
                .filter(Column::Id.gt(after))
                .order_by_asc(Column::Id)
                .limit(SWEEP_BATCH)
                .into_tuple()
                .all(&db)
                .await?;
            let now = clock::now();
            let end = now - retention;
            let expired: Vec<i64> = oldest.iter().filter(|(_, at)| *at < end).map(|(id, _)| *id).collect();
            if !expired.is_empty() {
                let is_expired = is_one_of(db.get_database_backend(), Column::Id, &expired);
                Entity::delete_many().filter(is_expired).exec(&db).await?;
            }
            // Times in the future, of a clock that was wrong, say nothing about the entries after them.
            let is_at_end = oldest.iter().any(|(_, at)| (end..=now).contains(at));
            let last = oldest.last().filter(|_| oldest.len() as u64 == SWEEP_BATCH && !is_at_end);
            Ok::<_, orm_pool::Error>(last.map(|(id, _)| *id))
        };
        Ok(self.pool.write("journal.delete_expired", sweep).await?)
    }
}
