//! The sequencer's transaction: locks the state, gives pending changes the next positions, and removes their marks.
//!
//! The pending changes are read after the lock is held. What another sequencer has stamped is then gone, and of each user's
//! committed changes all are visible: a change is made after the one before it has been committed.

use chrono::{DateTime, Utc};
use entity::{users_feed, users_feed_pending as pending, users_feed_positions as positions};
use orm_pool::Connection;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, ConnectionTrait, DbBackend, DbErr, EntityTrait, QueryFilter, QuerySelect,
    Statement, sea_query::Expr,
};
use uuid::Uuid;

use super::doorbell;
use crate::service::{Error, error::database, statement::power_of_two_chunks};

/// Maximum number of changes that get their positions in one transaction.
const BATCH: u64 = 1024;
/// Maximum number of rows that MySQL finds by their keys with one statement.
const MYSQL_CHUNK: usize = 128;

/// Locks the state for other sequencers, and returns the latest position.
async fn lock(db: &Connection) -> Result<i64, DbErr> {
    let state = users_feed::Entity::find().select_only().column(users_feed::Column::Number).lock_exclusive();
    let number = state.into_tuple().one(db).await?;
    number.ok_or_else(|| DbErr::RecordNotFound("the state of the feed".to_owned()))
}

/// PostgreSQL: one statement moves the changes. Returns whether there may be more. `ring` is what listeners are notified
/// of, if they are. Only this transaction notifies them: PostgreSQL commits transactions that do one after the other.
pub(super) async fn on_postgres(db: Connection, ring: Option<&str>) -> Result<bool, Error> {
    const STAMP: &str = "WITH taken AS ( \
            DELETE FROM users_feed_pending WHERE (changed_at, version, user_id) IN ( \
                SELECT changed_at, version, user_id FROM users_feed_pending \
                ORDER BY changed_at, version, user_id LIMIT $2 \
            ) RETURNING changed_at, version, user_id \
        ), stamped AS ( \
            INSERT INTO users_feed_positions (number, journal_id) \
            SELECT $1 + row_number() OVER (ORDER BY t.changed_at, t.version, t.user_id), j.id \
            FROM taken t JOIN users_journal j ON j.user_id = t.user_id AND j.version = t.version \
            RETURNING number \
        ) \
        UPDATE users_feed SET number = $1 + (SELECT count(*) FROM stamped) \
        RETURNING (SELECT count(*) FROM taken)";
    let number = lock(&db).await.map_err(database)?;
    let values = [number.into(), BATCH.cast_signed().into()];
    let statement = Statement::from_sql_and_values(DbBackend::Postgres, STAMP, values);
    let row = db.query_one_raw(statement).await.map_err(database)?;
    let taken: i64 = row.map_or(Ok(0), |row| row.try_get_by_index(0)).map_err(database)?;
    if let Some(ring) = ring.filter(|_| taken > 0) {
        let values = [doorbell::CHANNEL.into(), ring.into()];
        let notify = Statement::from_sql_and_values(DbBackend::Postgres, "SELECT pg_notify($1, $2)", values);
        db.query_one_raw(notify).await.map_err(database)?;
    }
    Ok(taken.cast_unsigned() == BATCH)
}

/// MySQL and MariaDB: reads the changes without locking them, because a reader that locks would wait for the writers.
/// Returns whether there may be more.
pub(super) async fn on_mysql(db: Connection) -> Result<bool, Error> {
    let number = lock(&db).await.map_err(database)?;
    let taken = take(&db, number).await.map_err(database)?;
    Ok(taken as u64 == BATCH)
}

async fn take(db: &Connection, number: i64) -> Result<usize, DbErr> {
    const PENDING: &str = "SELECT p.changed_at, p.version, p.user_id, j.id FROM users_feed_pending p \
        LEFT JOIN users_journal j ON j.user_id = p.user_id AND j.version = p.version \
        ORDER BY p.changed_at, p.version, p.user_id LIMIT ?";
    let statement = Statement::from_sql_and_values(DbBackend::MySql, PENDING, [BATCH.into()]);
    let mut taken: Vec<Pending> = Vec::new();
    for row in db.query_all_raw(statement).await? {
        taken.push((
            row.try_get_by_index(0)?,
            row.try_get_by_index(1)?,
            row.try_get_by_index(2)?,
            row.try_get_by_index(3)?,
        ));
    }
    if taken.is_empty() {
        return Ok(0);
    }
    let journal_ids = taken.iter().filter_map(|(.., journal_id)| *journal_id);
    let stamped: Vec<_> = (number + 1..)
        .zip(journal_ids)
        .map(|(number, journal_id)| positions::ActiveModel { number: Set(number), journal_id: Set(journal_id) })
        .collect();
    for chunk in power_of_two_chunks(&stamped) {
        positions::Entity::insert_many(chunk.iter().cloned()).exec_without_returning(db).await?;
    }
    for chunk in power_of_two_chunks(&taken).into_iter().flat_map(|chunk| chunk.chunks(MYSQL_CHUNK)) {
        let keys = chunk.iter().map(is_pending).fold(Condition::any(), Condition::add);
        pending::Entity::delete_many().filter(keys).exec(db).await?;
    }
    let latest = number + i64::try_from(stamped.len()).unwrap_or(i64::MAX);
    users_feed::Entity::update_many().col_expr(users_feed::Column::Number, Expr::val(latest)).exec(db).await?;
    Ok(taken.len())
}

/// The key of a pending change, and the id of its entry in the journal, unless that has been deleted.
type Pending = (DateTime<Utc>, i64, Uuid, Option<i64>);

/// Matches the full primary key, so that only that row is locked.
fn is_pending((changed_at, version, user_id, _): &Pending) -> Condition {
    Condition::all()
        .add(pending::Column::ChangedAt.eq(*changed_at))
        .add(pending::Column::Version.eq(*version))
        .add(pending::Column::UserId.eq(*user_id))
}
