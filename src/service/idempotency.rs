//! What is done once, however often it is asked for: a key is kept with the answer, in the transaction of the change
//! itself, so that there is never one without the other.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use entity::idempotency_keys::{Column, Entity, Model};
use orm_pool::{Connection, DbErrorKind, Pool};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect,
    sea_query::OnConflict,
};

use super::{
    Error, clock,
    users::{is_one_of, powers_of_two},
};

/// Expired keys that are forgotten at a time: few enough that nobody notices.
const FORGOTTEN_AT_ONCE: u64 = 500;

/// A hash that stands for a key or for a request.
pub(super) type Hash = [u8; 32];

/// By what a request is known, so that it is done keyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyedRequest {
    /// The operation, the caller and the caller's key, hashed.
    pub key: Hash,
    /// What is asked for, hashed: the same key with something else is a mistake.
    pub fingerprint: Hash,
    /// How long the answer is kept.
    pub retention: Duration,
}

/// An answer, in the form in which it was sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyedResponse {
    /// It has been done now.
    Fresh(Vec<u8>),
    /// It was done before; this is what was answered then.
    Replayed(Vec<u8>),
}

/// A key with the answer that it will have if all goes well.
pub(super) struct Claim {
    pub(super) key: Hash,
    pub(super) fingerprint: Hash,
    pub(super) answer: Vec<u8>,
    pub(super) expires_at: DateTime<Utc>,
}

/// What is known of a key.
#[derive(Debug)]
pub(super) struct StoredResponse {
    fingerprint: Hash,
    answer: Vec<u8>,
    expires_at: DateTime<Utc>,
}

impl StoredResponse {
    /// The answer, if it is one to this request.
    pub(super) fn answer_to(&self, fingerprint: &Hash) -> Option<Vec<u8>> {
        (self.fingerprint == *fingerprint).then(|| self.answer.clone())
    }
}

/// What became of something that was asked for under a key.
pub(super) enum KeyedOutcome<T> {
    Executed(T),
    Replayed(Vec<u8>),
    /// With this key something else was asked for.
    Mismatch,
}

impl<T> KeyedOutcome<T> {
    pub(super) fn replayed(kept: &StoredResponse, fingerprint: &Hash) -> Self {
        kept.answer_to(fingerprint).map_or(Self::Mismatch, Self::Replayed)
    }
}

/// Claims the keys that are free, inside a transaction, and gives what is kept of the others.
pub(super) async fn claim(db: &Connection, claims: &[&Claim]) -> Result<HashMap<Hash, StoredResponse>, DbErr> {
    let hashes: Vec<Vec<u8>> = claims.iter().map(|claim| claim.key.to_vec()).collect();
    let mut kept = find(db, &hashes, false).await?;
    let now = clock::now();
    let expired: Vec<Vec<u8>> =
        kept.extract_if(|_, kept| kept.expires_at <= now).map(|(hash, _)| hash.to_vec()).collect();
    if !expired.is_empty() {
        let delete = Entity::delete_many().filter(is_one_of(db.get_database_backend(), Column::KeyHash, &expired));
        delete.filter(Column::ExpiresAt.lte(now)).exec(db).await?;
    }
    // All transactions take their keys in the same order, so that none waits for another in a circle.
    let mut free: Vec<&Claim> = claims.iter().filter(|claim| !kept.contains_key(&claim.key)).copied().collect();
    free.sort_unstable_by_key(|claim| claim.key);
    if insert(db, &free).await? {
        return Ok(kept);
    }
    // Another transaction was faster with one of them, and has been committed by now.
    let [claim] = claims else {
        return Err(DbErr::Custom("one of several idempotency keys was taken meanwhile".to_owned()));
    };
    let kept = find(db, &hashes, true).await?;
    if kept.contains_key(&claim.key) {
        return Ok(kept);
    }
    Err(DbErr::Custom("the idempotency key was taken and given back meanwhile".to_owned()))
}

/// `is_latest` looks past the snapshot that a transaction has on MySQL.
async fn find(db: &Connection, hashes: &[Vec<u8>], is_latest: bool) -> Result<HashMap<Hash, StoredResponse>, DbErr> {
    let mut select = Entity::find().filter(is_one_of(db.get_database_backend(), Column::KeyHash, hashes));
    if is_latest {
        select = select.lock_shared();
    }
    let kept = |row: Model| {
        let hash = |bytes: Vec<u8>| Hash::try_from(bytes).map_err(|_| DbErr::Type("not a hash".to_owned()));
        let Model { key_hash, fingerprint, answer, expires_at } = row;
        Ok((hash(key_hash)?, StoredResponse { fingerprint: hash(fingerprint)?, answer, expires_at }))
    };
    select.all(db).await?.into_iter().map(kept).collect()
}

/// Whether all of them were free.
async fn insert(db: &Connection, claims: &[&Claim]) -> Result<bool, DbErr> {
    for piece in powers_of_two(claims) {
        let rows = Entity::insert_many(piece.iter().map(|claim| {
            let row = Model {
                key_hash: claim.key.to_vec(),
                fingerprint: claim.fingerprint.to_vec(),
                answer: claim.answer.clone(),
                expires_at: claim.expires_at,
            };
            row.into_active_model()
        }));
        let are_free = if db.get_database_backend() == DbBackend::MySql {
            // It counts rows that were there, too. The statement is undone as a whole, the transaction is not.
            match rows.exec_without_returning(db).await {
                Ok(_) => true,
                Err(error) if DbErrorKind::of(&error) == DbErrorKind::UniqueViolation => false,
                Err(error) => return Err(error),
            }
        } else {
            let mut insert = sea_orm::QueryTrait::into_query(rows);
            insert.on_conflict(OnConflict::column(Column::KeyHash).do_nothing().to_owned());
            db.execute(&insert).await?.rows_affected() == piece.len() as u64
        };
        if !are_free {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What is kept of these keys, in their order.
pub(super) async fn kept(db: Connection, keys: Arc<[Hash]>) -> Result<Vec<Option<Arc<StoredResponse>>>, DbErr> {
    let hashes: Vec<Vec<u8>> = keys.iter().map(|key| key.to_vec()).collect();
    let mut kept = find(&db, &hashes, false).await?;
    let now = clock::now();
    Ok(keys.iter().map(|key| kept.remove(key).filter(|kept| kept.expires_at > now).map(Arc::new)).collect())
}

/// Gives back keys that this transaction has claimed: what changed nothing needs no answer that is kept.
pub(super) async fn release(db: &Connection, keys: &[&Hash]) -> Result<(), DbErr> {
    if keys.is_empty() {
        return Ok(());
    }
    let keys: Vec<Vec<u8>> = keys.iter().map(|key| key.to_vec()).collect();
    Entity::delete_many().filter(is_one_of(db.get_database_backend(), Column::KeyHash, &keys)).exec(db).await?;
    Ok(())
}

/// Keeps another answer for a key that this transaction has claimed.
pub(super) async fn keep(db: &Connection, key: &Hash, answer: &[u8]) -> Result<(), DbErr> {
    Entity::update_many()
        .col_expr(Column::Answer, answer.to_vec().into())
        .filter(Column::KeyHash.eq(key.to_vec()))
        .exec(db)
        .await?;
    Ok(())
}

/// The keys that are kept.
#[derive(Clone, Debug)]
pub struct IdempotencyStore {
    pool: Pool,
}

impl IdempotencyStore {
    /// The keys in this pool's database.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Forgets some keys that have expired. Gives whether there may be more.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn forget_expired(&self) -> Result<bool, Error> {
        self.pool
            .write("idempotency.forget", |db| async move {
                let now = clock::now();
                let expired: Vec<Vec<u8>> = Entity::find()
                    .select_only()
                    .column(Column::KeyHash)
                    .filter(Column::ExpiresAt.lte(now))
                    .order_by_asc(Column::ExpiresAt)
                    .limit(FORGOTTEN_AT_ONCE)
                    .into_tuple()
                    .all(&db)
                    .await?;
                if !expired.is_empty() {
                    // One that was used again meanwhile has another time.
                    let delete =
                        Entity::delete_many().filter(is_one_of(db.get_database_backend(), Column::KeyHash, &expired));
                    delete.filter(Column::ExpiresAt.lte(now)).exec(&db).await?;
                }
                Ok(expired.len() as u64 == FORGOTTEN_AT_ONCE)
            })
            .await
    }
}

/// The keys whose requests are under way in this process. Those of other processes are met in the database.
#[derive(Clone, Default)]
pub(super) struct InFlight(Arc<Mutex<HashSet<Hash>>>);

/// A request under way, until it is dropped: by who asked, once there is an answer, or else by the last who works on it.
pub(super) struct InFlightGuard {
    under_way: InFlight,
    key: Hash,
}

impl InFlight {
    /// `None` if there is one with this key already.
    pub(super) fn begin(&self, key: Hash) -> Option<InFlightGuard> {
        let is_new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        is_new.then(|| InFlightGuard { under_way: self.clone(), key })
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.under_way.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InFlight")
    }
}
