//! The journal: every change of a user, and who made it. An entry is written in the transaction of its change, so that
//! both are committed or none.

mod record;

use std::time::Duration;

use chrono::{DateTime, Utc};
use entity::users_journal::{Column, Entity, Model};
use orm_pool::{Connection, Pool};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select};

pub use self::record::Action;
pub(super) use self::record::{Recorder, created, updated};
use super::{Error, clock, error::database, statement::is_one_of};
use crate::domain::{UserId, Version};

/// Maximum number of entries per operation of a sweep: few enough not to delay other operations.
const SWEEP_BATCH: u64 = 500;

/// A change of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// The position in the journal: the order of inserts, not of commits.
    pub id: i64,
    /// The id of the user.
    pub user_id: UserId,
    /// The version that the change created; for a deletion, the one after the last. Negative for a message in the feed.
    pub version: i64,
    /// The name of the [`Action`].
    pub action: String,
    /// The members that an update changed: `name`, `email`.
    pub changed: Vec<String>,
    /// The author of the change, as [`Actor`](crate::domain::Actor) is displayed.
    pub actor: String,
    /// The id of the request that made it; `None` on the command line.
    pub request_id: Option<String>,
    /// When it was made, UTC.
    pub changed_at: DateTime<Utc>,
    /// The name after the change; `None` once the user is deleted.
    pub name: Option<String>,
    /// The email after the change; `None` once the user is deleted.
    pub email: Option<String>,
    /// When the user was created, UTC.
    pub created_at: DateTime<Utc>,
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
            created_at: row.created_at,
        }
    }
}

/// Selects changes, without messages, which have negative versions.
fn changes() -> Select<Entity> {
    Entity::find().filter(Column::Version.gt(0))
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
        let of_user = changes().filter(Column::UserId.eq(id.as_uuid())).order_by_desc(Column::Version);
        let page = match before {
            Some(version) => of_user.filter(Column::Version.lt(version.get())),
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
        let all = changes().order_by_desc(Column::Id);
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
