//! Appends entries to the journal, in the transactions of their changes.

use chrono::{DateTime, Utc};
use entity::{
    users::{Column as User, Model as UserRow},
    users_feed_pending as pending,
    users_journal::{ActiveModel, Column, Entity},
};
use orm_pool::Engine;
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, Iterable, QueryFilter,
    sea_query::{
        Alias, CommonTableExpression, Expr, ExprTrait, Func, InsertStatement, Query, Value, WithClause, WithQuery,
    },
};
use uuid::Uuid;

use crate::{
    domain::{Author, UserId},
    service::{
        clock, messages,
        statement::{power_of_two_chunks, unnest},
    },
};

/// The kind of a change of a user. A message changes nothing, but has an entry for its place in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It was created.
    Created,
    /// It was changed.
    Updated,
    /// It was deleted.
    Deleted,
    /// A message was sent to it.
    Message,
}

impl Action {
    /// Those that change a user.
    pub const CHANGES: [Self; 3] = [Self::Created, Self::Updated, Self::Deleted];

    /// Returns the name, as it is stored.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
            Self::Message => "message",
        }
    }

    /// Returns the change of this name; `None` for a message.
    #[must_use]
    pub fn change(name: &str) -> Option<Self> {
        Self::CHANGES.into_iter().find(|action| action.name() == name)
    }
}

/// Returns the entry of a new user.
pub(in crate::service) fn created(row: &UserRow, author: &Author) -> ActiveModel {
    entry(Action::Created, row, String::new(), author)
}

/// Returns the entry of a user that was changed.
pub(in crate::service) fn updated(before: &UserRow, after: &UserRow, author: &Author) -> ActiveModel {
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

/// Appends entries.
#[derive(Clone, Copy, Debug)]
pub(in crate::service) struct Recorder {
    /// Whether the changes appear in the feed.
    has_feed: bool,
    /// Whether the sequencer of the feed must be able to find the entries by another way than their ids.
    marks_pending: bool,
}

impl Recorder {
    /// `has_feed` is whether the changes appear in the feed.
    pub(in crate::service) fn new(engine: Engine, has_feed: bool) -> Self {
        // On SQLite the journal is in the order of commits, because writers take turns.
        Self { has_feed, marks_pending: has_feed && engine != Engine::Sqlite }
    }

    /// Appends entries, in the transaction of their changes.
    pub(in crate::service) async fn append(
        self,
        db: &impl ConnectionTrait,
        entries: &[ActiveModel],
    ) -> Result<(), DbErr> {
        for chunk in power_of_two_chunks(entries) {
            Entity::insert_many(chunk.iter().cloned()).exec_without_returning(db).await?;
            if self.marks_pending {
                pending::Entity::insert_many(chunk.iter().map(pending_row)).exec_without_returning(db).await?;
            }
        }
        Ok(())
    }

    /// Appends a message, and returns the id of its entry. A message has no version; a negative one distinguishes it.
    pub(in crate::service) async fn append_message(
        self,
        transaction: &impl ConnectionTrait,
        user: UserId,
        number: i64,
        now: DateTime<Utc>,
        author: &Author,
    ) -> Result<i64, DbErr> {
        let entry = ActiveModel {
            id: NotSet,
            user_id: Set(user.as_uuid()),
            version: Set(-number),
            action: Set(Action::Message.name().to_owned()),
            changed: Set(String::new()),
            actor: Set(author.actor.to_string()),
            request_id: Set(author.request_id.as_deref().map(str::to_owned)),
            changed_at: Set(now),
            name: Set(None),
            email: Set(None),
            created_at: Set(now),
        };
        if self.marks_pending {
            pending::Entity::insert(pending_row(&entry)).exec_without_returning(transaction).await?;
        }
        Ok(Entity::insert(entry).exec(transaction).await?.last_insert_id)
    }

    /// Appends the deletion of a user, and erases the values of its earlier entries and its messages.
    pub(in crate::service) async fn append_deletion(
        self,
        transaction: &impl ConnectionTrait,
        row: &UserRow,
        author: &Author,
    ) -> Result<(), DbErr> {
        // Inserted first: on MySQL the update locks the gap behind the user's entries, and two transactions that both
        // have locked it would wait for each other.
        self.append(transaction, &[deleted(row, author)]).await?;
        let erased = || Expr::val(Value::String(None));
        Entity::update_many()
            .col_expr(Column::Name, erased())
            .col_expr(Column::Email, erased())
            .filter(Column::UserId.eq(row.id))
            .filter(Column::Version.lte(row.version))
            .exec(transaction)
            .await?;
        if self.has_feed { messages::delete_of(transaction, row.id).await } else { Ok(()) }
    }

    /// PostgreSQL: returns the statement that executes an insert into `users`, appends an entry for each row that it inserts,
    /// and returns the ids of these rows.
    pub(in crate::service) fn creation(
        self,
        mut users: InsertStatement,
        authors: &[(Uuid, &Author)],
    ) -> Result<WithQuery, DbErr> {
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
        if self.marks_pending { mark_pending(with, append) } else { Ok(with.query(append)) }
    }
}

/// Returns a statement that appends entries and marks them as not yet in the feed.
fn mark_pending(mut with: WithClause, mut append: InsertStatement) -> Result<WithQuery, DbErr> {
    let (recorded, marks) = (Alias::new("recorded"), [Column::ChangedAt, Column::Version, Column::UserId]);
    append.returning(Query::returning().columns(marks));
    let mut recorded_table = CommonTableExpression::new();
    recorded_table.table_name(recorded.clone()).columns(marks).query(append);
    with.cte(recorded_table);
    let mut mark = Query::insert();
    mark.into_table(pending::Entity)
        .columns([pending::Column::ChangedAt, pending::Column::Version, pending::Column::UserId])
        .select_from(Query::select().columns(marks).from(recorded).take())
        .map_err(|error| DbErr::Custom(error.to_string()))?
        .returning_col(pending::Column::UserId);
    Ok(with.query(mark))
}

/// Returns the row that marks an entry as not yet in the feed.
fn pending_row(entry: &ActiveModel) -> pending::ActiveModel {
    let ActiveModel { changed_at, version, user_id, .. } = entry.clone();
    pending::ActiveModel { changed_at, version, user_id }
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
