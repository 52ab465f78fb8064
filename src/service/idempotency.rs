//! Idempotency keys: a request with a key is executed once, and its response is replayed to repetitions. Key and
//! response are stored in the transaction of the change itself, so that all of them are committed or none.

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
    statement::{is_one_of, power_of_two_chunks},
};

/// Maximum number of expired keys deleted per operation: few enough not to delay other operations.
const SWEEP_BATCH: u64 = 500;

/// A SHA-256 digest of a key or of a request.
pub(super) type Hash = [u8; 32];

/// A request with an idempotency key, which is executed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyedRequest {
    /// Digest of the operation, the client's scope and the client's key.
    pub key: Hash,
    /// Digest of the request's content: the same key with different content is an error.
    pub fingerprint: Hash,
    /// How long the response is stored.
    pub retention: Duration,
}

/// The serialized response to a [`KeyedRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyedResponse {
    /// The request was executed now.
    Fresh(Vec<u8>),
    /// The request was executed before. This is the stored response.
    Replayed(Vec<u8>),
}

/// A key to claim, and the response to store with it.
pub(super) struct Claim {
    pub(super) key: Hash,
    pub(super) fingerprint: Hash,
    pub(super) response: Vec<u8>,
    pub(super) expires_at: DateTime<Utc>,
}

/// The response that is stored with a key.
#[derive(Debug)]
pub(super) struct StoredResponse {
    fingerprint: Hash,
    response: Vec<u8>,
    expires_at: DateTime<Utc>,
}

impl StoredResponse {
    /// Returns the response, or `None` if it belongs to a different request.
    pub(super) fn response_to(&self, fingerprint: &Hash) -> Option<Vec<u8>> {
        (self.fingerprint == *fingerprint).then(|| self.response.clone())
    }
}

/// The outcome of a request with a key.
pub(super) enum KeyedOutcome<T> {
    Executed(T),
    Replayed(Vec<u8>),
    /// The key was already used for a different request.
    Mismatch,
}

impl<T> KeyedOutcome<T> {
    pub(super) fn from_stored(stored: &StoredResponse, fingerprint: &Hash) -> Self {
        stored.response_to(fingerprint).map_or(Self::Mismatch, Self::Replayed)
    }
}

/// Claims the free keys, inside a transaction, and returns the stored responses of the others.
pub(super) async fn claim_keys(db: &Connection, claims: &[&Claim]) -> Result<HashMap<Hash, StoredResponse>, DbErr> {
    let hashes: Vec<Vec<u8>> = claims.iter().map(|claim| claim.key.to_vec()).collect();
    let mut stored = find(db, &hashes, false).await?;
    let now = clock::now();
    let expired: Vec<Vec<u8>> =
        stored.extract_if(|_, response| response.expires_at <= now).map(|(hash, _)| hash.to_vec()).collect();
    if !expired.is_empty() {
        let delete = Entity::delete_many().filter(is_one_of(db.get_database_backend(), Column::KeyHash, &expired));
        delete.filter(Column::ExpiresAt.lte(now)).exec(db).await?;
    }
    // All transactions insert their keys in the same order, so that they do not deadlock.
    let mut free: Vec<&Claim> = claims.iter().filter(|claim| !stored.contains_key(&claim.key)).copied().collect();
    free.sort_unstable_by_key(|claim| claim.key);
    if insert(db, &free).await? {
        return Ok(stored);
    }
    // Another transaction has claimed one of the keys and committed. If there are several, the error makes the pool
    // retry each request individually.
    let [claim] = claims else {
        return Err(DbErr::Custom("one of several idempotency keys was claimed concurrently".to_owned()));
    };
    let stored = find(db, &hashes, true).await?;
    if stored.contains_key(&claim.key) {
        return Ok(stored);
    }
    Err(DbErr::Custom("the idempotency key was claimed and released concurrently".to_owned()))
}

/// Finds stored responses by key, expired ones included. On MySQL, `is_latest` reads past the transaction's snapshot.
async fn find(db: &Connection, hashes: &[Vec<u8>], is_latest: bool) -> Result<HashMap<Hash, StoredResponse>, DbErr> {
    let mut select = Entity::find().filter(is_one_of(db.get_database_backend(), Column::KeyHash, hashes));
    if is_latest {
        select = select.lock_shared();
    }
    let stored = |row: Model| {
        let hash = |bytes: Vec<u8>| Hash::try_from(bytes).map_err(|_| DbErr::Type("not a SHA-256 digest".to_owned()));
        let Model { key_hash, fingerprint, answer, expires_at } = row;
        Ok((hash(key_hash)?, StoredResponse { fingerprint: hash(fingerprint)?, response: answer, expires_at }))
    };
    select.all(db).await?.into_iter().map(stored).collect()
}

/// Inserts the claims and returns whether all keys were free.
async fn insert(db: &Connection, claims: &[&Claim]) -> Result<bool, DbErr> {
    for chunk in power_of_two_chunks(claims) {
        let rows = Entity::insert_many(chunk.iter().map(|claim| {
            let row = Model {
                key_hash: claim.key.to_vec(),
                fingerprint: claim.fingerprint.to_vec(),
                answer: claim.response.clone(),
                expires_at: claim.expires_at,
            };
            row.into_active_model()
        }));
        let are_free = if db.get_database_backend() == DbBackend::MySql {
            // MySQL counts existing rows as affected, too. A violation rolls back the statement, but not the
            // transaction.
            match rows.exec_without_returning(db).await {
                Ok(_) => true,
                Err(error) if DbErrorKind::of(&error) == DbErrorKind::UniqueViolation => false,
                Err(error) => return Err(error),
            }
        } else {
            let mut insert = sea_orm::QueryTrait::into_query(rows);
            insert.on_conflict(OnConflict::column(Column::KeyHash).do_nothing().to_owned());
            db.execute(&insert).await?.rows_affected() == chunk.len() as u64
        };
        if !are_free {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns the stored responses of these keys, in the same order.
pub(super) async fn stored_responses(
    db: Connection,
    keys: Arc<[Hash]>,
) -> Result<Vec<Option<Arc<StoredResponse>>>, DbErr> {
    let hashes: Vec<Vec<u8>> = keys.iter().map(|key| key.to_vec()).collect();
    let mut stored = find(&db, &hashes, false).await?;
    let now = clock::now();
    Ok(keys.iter().map(|key| stored.remove(key).filter(|response| response.expires_at > now).map(Arc::new)).collect())
}

/// Releases keys that this transaction has claimed: the response to a request that changed nothing is not stored.
pub(super) async fn release_keys(db: &Connection, keys: &[&Hash]) -> Result<(), DbErr> {
    if keys.is_empty() {
        return Ok(());
    }
    let keys: Vec<Vec<u8>> = keys.iter().map(|key| key.to_vec()).collect();
    Entity::delete_many().filter(is_one_of(db.get_database_backend(), Column::KeyHash, &keys)).exec(db).await?;
    Ok(())
}

/// Stores the response for a key that this transaction has claimed.
pub(super) async fn store_response(db: &Connection, key: &Hash, response: &[u8]) -> Result<(), DbErr> {
    Entity::update_many()
        .col_expr(Column::Answer, response.to_vec().into())
        .filter(Column::KeyHash.eq(key.to_vec()))
        .exec(db)
        .await?;
    Ok(())
}

/// The stored idempotency keys.
#[derive(Clone, Debug)]
pub struct IdempotencyStore {
    pool: Pool,
}

impl IdempotencyStore {
    /// Creates the store on this pool.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Deletes a batch of expired keys and returns whether there may be more.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn delete_expired(&self) -> Result<bool, Error> {
        let may_be_more = self
            .pool
            .write("idempotency.delete_expired", |db| async move {
                let now = clock::now();
                let expired: Vec<Vec<u8>> = Entity::find()
                    .select_only()
                    .column(Column::KeyHash)
                    .filter(Column::ExpiresAt.lte(now))
                    .order_by_asc(Column::ExpiresAt)
                    .limit(SWEEP_BATCH)
                    .into_tuple()
                    .all(&db)
                    .await?;
                if !expired.is_empty() {
                    // A key that was reused concurrently has a new expiry.
                    let delete =
                        Entity::delete_many().filter(is_one_of(db.get_database_backend(), Column::KeyHash, &expired));
                    delete.filter(Column::ExpiresAt.lte(now)).exec(&db).await?;
                }
                Ok::<_, orm_pool::Error>(expired.len() as u64 == SWEEP_BATCH)
            })
            .await?;
        Ok(may_be_more)
    }
}

/// The keys of the requests that are in flight in this process. Those of other processes are found in the database.
#[derive(Clone, Default)]
pub(super) struct InFlight(Arc<Mutex<HashSet<Hash>>>);

/// Keeps a key in flight until it is dropped.
pub(super) struct InFlightGuard {
    in_flight: InFlight,
    key: Hash,
}

impl InFlight {
    /// Returns `None` if a request with this key is in flight already.
    pub(super) fn begin(&self, key: Hash) -> Option<InFlightGuard> {
        let is_new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        is_new.then(|| InFlightGuard { in_flight: self.clone(), key })
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.in_flight.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InFlight")
    }
}
