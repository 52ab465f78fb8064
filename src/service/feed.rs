//! The stored feed: the changes of the journal in one order, which is that of their commits.
//!
//! The ids of the journal are in the order of inserts. A reader who follows them misses a change that is committed after
//! one with a greater id. So each transaction also marks its changes as *pending*, and the *sequencer* ([`stamp`]) gives
//! pending changes their positions once they are committed: numbers without gaps. Any process may be the sequencer; a row
//! lock lets one work at a time. On SQLite writers take turns, so the ids of the journal are the positions.

mod doorbell;
mod stamp;

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use entity::{users_feed, users_feed_positions as positions, users_journal as journal};
use orm_pool::{Batch, Connection, Engine, Pool};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect,
    Statement, sea_query::Expr,
};
use tokio::time::timeout;

use super::{Error, JournalEntry, clock, error::database, journal::Action, messages, statement::is_one_of};

/// How long the listening connection may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of events that expire with one operation.
const EXPIRY_BATCH: u64 = 500;

/// The state of the stored feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedState {
    /// Positions are comparable within an epoch. Empty while the feed is disabled.
    pub epoch: String,
    /// The position of the latest event; 0 if there was none.
    pub number: i64,
    /// The position before the oldest event that is still available.
    pub floor: i64,
    /// Whether changes wait for their positions.
    pub has_pending: bool,
}

#[derive(FromQueryResult)]
struct StateRow {
    epoch: String,
    number: i64,
    floor: i64,
    pending: i64,
}

/// A change at its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEntry {
    /// The position.
    pub number: i64,
    /// The change, or a message.
    pub entry: JournalEntry,
    /// The data of a message, as JSON; `None` once it has expired.
    pub message: Option<String>,
}

/// The stored feed.
#[derive(Clone, Debug)]
pub struct FeedStore {
    pool: Pool,
    /// The notification for the listeners of other processes, if this process sends one.
    ring: Option<Arc<str>>,
    pages: Batch<i64, Arc<[FeedEntry]>>,
}

impl FeedStore {
    /// Maximum number of events that are read with one operation.
    pub const PAGE_SIZE: u64 = 256;

    /// Creates the store on this pool.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { pages: pool.coalesce_reads("feed.page", pages), pool, ring: None }
    }

    /// Notifies other processes of new positions, and lets [`listen`](Self::listen) receive theirs. `process` distinguishes
    /// the processes. PostgreSQL only.
    #[must_use]
    pub fn with_notifications(self, process: &str) -> Self {
        Self { ring: Some(process.into()), ..self }
    }

    /// Calls `on_ring` for each notification of another process, and once when it begins to listen. Ends with the error of
    /// the connection. Without notifications it waits forever.
    pub async fn listen(&self, on_ring: impl Fn()) -> Error {
        let Some(own) = &self.ring else { return std::future::pending().await };
        let connection = match self.pool.separate_connection().await {
            Ok(connection) => connection,
            Err(error) => return database(error),
        };
        let ended = doorbell::listen(connection.get_postgres_connection_pool(), own, on_ring).await;
        // It has failed already.
        let _ = timeout(CLOSE_TIMEOUT, connection.close()).await;
        match ended {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    /// Returns the state of the feed.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn state(&self) -> Result<FeedState, Error> {
        let sql = match self.pool.engine() {
            Engine::Sqlite => {
                "SELECT epoch, COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'users_journal'), 0) AS number, \
                 floor, 0 AS pending FROM users_feed"
            }
            Engine::Postgres => {
                "SELECT epoch, number, floor, EXISTS (SELECT 1 FROM users_feed_pending)::int::bigint AS pending \
                 FROM users_feed"
            }
            Engine::MySql => {
                "SELECT epoch, number, floor, EXISTS (SELECT 1 FROM users_feed_pending) AS pending FROM users_feed"
            }
        };
        let state = move |db: Connection| async move {
            let statement = Statement::from_string(db.get_database_backend(), sql);
            let row = StateRow::find_by_statement(statement).one(&db).await.map_err(database)?;
            row.ok_or_else(|| database(DbErr::RecordNotFound("the state of the feed".to_owned())))
        };
        let StateRow { epoch, number, floor, pending } = self.pool.read("feed.state", state).await?;
        Ok(FeedState { epoch, number, floor, has_pending: pending != 0 })
    }

    /// Replaces the epoch, unless another process has replaced it. With `only_below`, only while the latest position is still
    /// lower: otherwise the server has caught up in the meantime.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn replace_epoch(&self, old: String, new: String, only_below: Option<i64>) -> Result<(), Error> {
        let replace = move |db: Connection| {
            let update = users_feed::Entity::update_many()
                .col_expr(users_feed::Column::Epoch, Expr::val(new.clone()))
                .filter(users_feed::Column::Epoch.eq(old.clone()))
                .filter(users_feed::Column::Number.lt(only_below.unwrap_or(i64::MAX)));
            async move { update.exec(&db).await.map(drop).map_err(database) }
        };
        self.pool.write("feed.replace_epoch", replace).await
    }

    /// Ends the epoch, because changes that are made while the feed is disabled get no positions.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn end_epoch(&self) -> Result<(), Error> {
        let state = self.state().await?;
        if state.epoch.is_empty() { Ok(()) } else { self.replace_epoch(state.epoch, String::new(), None).await }
    }

    /// Returns the events after a position, oldest first, at most 256.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn page(&self, after: i64) -> Result<Arc<[FeedEntry]>, Error> {
        Ok(self.pages.load(after).await?)
    }

    /// Returns the position of an entry of the journal that is after another position, if it has one yet.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn position_of(&self, journal_id: i64, after: i64) -> Result<Option<i64>, Error> {
        if self.pool.engine() == Engine::Sqlite {
            return Ok(Some(journal_id));
        }
        let find = move |db: Connection| async move {
            let number = positions::Entity::find().select_only().column(positions::Column::Number);
            let number =
                number.filter(positions::Column::Number.gt(after)).filter(positions::Column::JournalId.eq(journal_id));
            number.into_tuple().one(&db).await.map_err(database)
        };
        self.pool.read("feed.position_of", find).await
    }

    /// Returns whether the order of the journal is that of the commits, so that nothing is ever pending.
    #[must_use]
    pub fn is_in_commit_order(&self) -> bool {
        self.pool.engine() == Engine::Sqlite
    }

    /// Gives pending changes their positions. Returns whether there may be more of them.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn stamp(&self) -> Result<bool, Error> {
        match self.pool.engine() {
            Engine::Sqlite => Ok(false),
            Engine::Postgres => {
                let ring = self.ring.clone();
                let stamp = move |db| {
                    let ring = ring.clone();
                    async move { stamp::on_postgres(db, ring.as_deref()).await }
                };
                self.pool.transaction("feed.stamp", stamp).await
            }
            Engine::MySql => self.pool.transaction("feed.stamp", stamp::on_mysql).await,
        }
    }

    /// Removes events that are older than `retention` from the feed, and the oldest above `max_events`, at most 500 with
    /// one call. The journal keeps them. Returns whether there may be more.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn expire(&self, retention: Duration, max_events: u64) -> Result<bool, Error> {
        let state = self.state().await?;
        let oldest = move |db: Connection| async move { times_after(&db, state.floor).await.map_err(database) };
        let oldest: Vec<(i64, DateTime<Utc>)> = self.pool.read("feed.oldest", oldest).await?;
        let end = clock::now() - retention;
        let surplus = state.number.saturating_sub_unsigned(max_events);
        let expired = oldest.iter().take_while(|(number, time)| *time < end || *number <= surplus);
        let last_expired = expired.map(|(number, _)| *number).last();
        // On SQLite the journal may be older than the feed, and its oldest entries are gone.
        let last_missing = oldest.first().map_or(state.number, |(number, _)| number - 1);
        let floor = last_expired.unwrap_or(last_missing);
        if floor <= state.floor {
            return Ok(false);
        }
        let is_positioned = self.pool.engine() != Engine::Sqlite;
        let raise = move |db: Connection| async move {
            users_feed::Entity::update_many()
                .col_expr(users_feed::Column::Floor, Expr::val(floor))
                .filter(users_feed::Column::Floor.lt(floor))
                .exec(&db)
                .await
                .map_err(database)?;
            if is_positioned {
                let expired = positions::Entity::delete_many().filter(positions::Column::Number.lte(floor));
                expired.exec(&db).await.map_err(database)?;
            }
            Ok::<_, Error>(())
        };
        self.pool.transaction("feed.expire", raise).await?;
        Ok(oldest.len() as u64 == EXPIRY_BATCH && oldest.last().is_some_and(|(number, _)| *number == floor))
    }
}

/// Returns the positions after one, and the ids of their entries in the journal.
async fn positions_after(db: &Connection, after: i64, limit: u64) -> Result<Vec<(i64, i64)>, DbErr> {
    if db.get_database_backend() == DbBackend::Sqlite {
        let ids = journal::Entity::find().select_only().column(journal::Column::Id);
        let ids = ids.filter(journal::Column::Id.gt(after)).order_by_asc(journal::Column::Id).limit(limit);
        let ids: Vec<i64> = ids.into_tuple().all(db).await?;
        return Ok(ids.into_iter().map(|id| (id, id)).collect());
    }
    positions::Entity::find()
        .select_only()
        .columns([positions::Column::Number, positions::Column::JournalId])
        .filter(positions::Column::Number.gt(after))
        .order_by_asc(positions::Column::Number)
        .limit(limit)
        .into_tuple()
        .all(db)
        .await
}

/// Returns the positions after one, and when their changes were made. A change that the journal no longer has is
/// infinitely old.
async fn times_after(db: &Connection, after: i64) -> Result<Vec<(i64, DateTime<Utc>)>, DbErr> {
    let numbers = positions_after(db, after, EXPIRY_BATCH).await?;
    let ids: Vec<i64> = numbers.iter().map(|(_, id)| *id).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let times = journal::Entity::find().select_only().columns([journal::Column::Id, journal::Column::ChangedAt]);
    let times = times.filter(is_one_of(db.get_database_backend(), journal::Column::Id, &ids));
    let times: HashMap<i64, DateTime<Utc>> = times.into_tuple().all(db).await?.into_iter().collect();
    let time = |id| times.get(&id).copied().unwrap_or(DateTime::<Utc>::MIN_UTC);
    Ok(numbers.into_iter().map(|(number, id)| (number, time(id))).collect())
}

/// Reads a page for a single key, as [`Pool::coalesce_reads`] requires.
async fn pages(db: Connection, after: Arc<[i64]>) -> Result<Vec<Arc<[FeedEntry]>>, DbErr> {
    let mut pages = Vec::with_capacity(after.len());
    for after in after.iter() {
        pages.push(page(&db, *after).await?.into());
    }
    Ok(pages)
}

async fn page(db: &Connection, after: i64) -> Result<Vec<FeedEntry>, DbErr> {
    let numbers = positions_after(db, after, FeedStore::PAGE_SIZE).await?;
    let ids: Vec<i64> = numbers.iter().map(|(_, id)| *id).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = journal::Entity::find().filter(is_one_of(db.get_database_backend(), journal::Column::Id, &ids));
    let rows = rows.all(db).await?;
    let is_message = |row: &&journal::Model| row.action == Action::Message.name();
    let messages: Vec<i64> = rows.iter().filter(is_message).map(|row| -row.version).collect();
    let mut messages = messages::find(db, &messages).await?;
    let mut entries: HashMap<i64, journal::Model> = rows.into_iter().map(|row| (row.id, row)).collect();
    // Ends before the first gap: an entry that the journal no longer has.
    let entry = |(expected, (number, id))| {
        let row = entries.remove(&id).filter(|_| number == expected)?;
        let message = messages.remove(&(row.user_id, -row.version));
        Some(FeedEntry { number, entry: row.into(), message })
    };
    Ok((numbers[0].0..).zip(numbers).map_while(entry).collect())
}
