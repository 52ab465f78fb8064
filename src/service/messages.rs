//! Messages to users. A message has an entry in the journal, and so a position in the feed; its data is in a separate
//! table, until it expires.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use entity::{
    users,
    users_messages::{ActiveModel, Column, Entity},
};
use orm_pool::{Connection, Pool};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};
use uuid::Uuid;

use super::{ChangeSignal, Error, clock, error::database, journal::Recorder, statement::is_one_of};
use crate::domain::{Author, UserId};

/// How long a message is available to a user who is not connected.
const RETENTION: Duration = Duration::from_hours(24);
/// Maximum number of messages that are deleted with one operation.
const SWEEP_BATCH: u64 = 500;
/// Bits of a number that distinguish messages of the same microsecond.
const RANDOM_BITS: u32 = 11;

/// A message that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentMessage {
    /// The same for each delivery of the message, and different for each message.
    pub id: String,
    /// The id of its entry in the journal.
    pub journal_id: i64,
}

/// Sends messages to users.
#[derive(Clone, Debug)]
pub struct MessageService {
    pool: Pool,
    recorder: Recorder,
    feed: ChangeSignal,
}

impl MessageService {
    /// Creates the service on this pool. Each message is signalled once it is committed.
    #[must_use]
    pub fn new(pool: Pool, feed: ChangeSignal) -> Self {
        Self { recorder: Recorder::new(pool.engine(), true), pool, feed }
    }

    /// Sends a message. `data` is JSON.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the user does not exist.
    pub async fn send(&self, user: UserId, data: String, author: Author) -> Result<SentMessage, Error> {
        let recorder = self.recorder;
        let store = move |transaction: Connection| {
            let (data, author) = (data.clone(), author.clone());
            async move {
                // Locked, so that the user is not deleted in the meantime: the deletion removes its messages.
                let id =
                    users::Entity::find_by_id(user.as_uuid()).select_only().column(users::Column::Id).lock_exclusive();
                let id: Option<Uuid> = id.into_tuple().one(&transaction).await.map_err(database)?;
                id.ok_or(Error::NotFound)?;
                let now = clock::now();
                let number =
                    number_at(now) | i64::from(getrandom::u32().unwrap_or_default() >> (u32::BITS - RANDOM_BITS));
                let row = ActiveModel { number: Set(number), user_id: Set(user.as_uuid()), data: Set(data) };
                Entity::insert(row).exec_without_returning(&transaction).await.map_err(database)?;
                let journal_id =
                    recorder.append_message(&transaction, user, number, now, &author).await.map_err(database)?;
                Ok::<_, Error>(SentMessage { id: format!("{user}.{}", -number), journal_id })
            }
        };
        let sent = self.pool.transaction("messages.send", store).await?;
        self.feed.notify();
        Ok(sent)
    }
}

/// The stored messages.
#[derive(Clone, Debug)]
pub struct MessageStore {
    pool: Pool,
}

impl MessageStore {
    /// Creates the store on this pool.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Deletes a batch of messages that are older than a day, and returns whether there may be more.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn delete_expired(&self) -> Result<bool, Error> {
        let delete = |db: Connection| async move {
            let end = number_at(clock::now() - RETENTION);
            let expired = Entity::find().select_only().column(Column::Number).filter(Column::Number.lt(end));
            let expired: Vec<i64> = expired
                .order_by_asc(Column::Number)
                .limit(SWEEP_BATCH)
                .into_tuple()
                .all(&db)
                .await
                .map_err(database)?;
            if !expired.is_empty() {
                let is_expired = is_one_of(db.get_database_backend(), Column::Number, &expired);
                Entity::delete_many().filter(is_expired).exec(&db).await.map_err(database)?;
            }
            Ok::<_, Error>(expired.len() as u64 == SWEEP_BATCH)
        };
        self.pool.write("messages.delete_expired", delete).await
    }
}

/// Returns the least number of a message that is sent at this time. 52 bits of microseconds last until the year 2112.
fn number_at(time: DateTime<Utc>) -> i64 {
    time.timestamp_micros() << RANDOM_BITS
}

/// Returns the data of messages, by user and number. Those that have expired are missing.
pub(super) async fn find(db: &Connection, numbers: &[i64]) -> Result<HashMap<(Uuid, i64), String>, DbErr> {
    if numbers.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = Entity::find().filter(is_one_of(db.get_database_backend(), Column::Number, numbers)).all(db).await?;
    Ok(rows.into_iter().map(|row| ((row.user_id, row.number), row.data)).collect())
}

/// Deletes the messages to a user.
pub(super) async fn delete_of(db: &impl ConnectionTrait, user: Uuid) -> Result<(), DbErr> {
    Entity::delete_many().filter(Column::UserId.eq(user)).exec(db).await?;
    Ok(())
}
