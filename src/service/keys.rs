//! API keys: create, list, rotate, revoke. Secrets never reach this layer: it stores the digests of keys.

use chrono::{DateTime, Utc};
use entity::users_api_keys::{Column, Entity, Model};
use orm_pool::{Connection, Pool};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, FromQueryResult, IntoActiveModel, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait,
    sea_query::{Expr, OnConflict},
};

use super::{Error, clock, error::database};
use crate::{
    domain::{ApiKey, KeyDigest, KeyId, KeyName, Overlap, Scopes},
    error_chain::chain,
};

/// A key to be stored.
#[derive(Clone)]
pub struct NewKey {
    /// Its id and digest.
    pub key: ApiKey,
    /// Its purpose.
    pub name: KeyName,
    /// The scopes of its holder.
    pub scopes: Scopes,
    /// When it expires.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A stored key, without what proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The id of the key.
    pub id: KeyId,
    /// Its purpose.
    pub name: KeyName,
    /// The scopes of its holder.
    pub scopes: Scopes,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it expires.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// The key that replaces it, if it was rotated.
    pub replaced_by: Option<KeyId>,
    /// When it was last used, accurate to about a minute.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// A stored key and its digest, to verify callers.
type Verifier = (KeyRecord, KeyDigest);

/// The use cases of API keys.
#[derive(Clone, Debug)]
pub struct KeyService {
    pool: Pool,
}

impl KeyService {
    /// Creates the service on this pool.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Stores a key.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn create(&self, key: NewKey) -> Result<KeyRecord, Error> {
        let row = new_row(&key);
        let stored = row.clone();
        self.pool
            .write("keys.create", move |db| {
                let insert = Entity::insert(row.clone().into_active_model());
                async move { insert.exec_without_returning(&db).await.map_err(database) }
            })
            .await?;
        Ok(record(stored)?.0)
    }

    /// Stores a key unless it is stored already, also if it has been revoked. Returns whether it is new.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn create_if_absent(&self, key: NewKey) -> Result<bool, Error> {
        let row = new_row(&key);
        let ignore = || OnConflict::column(Column::Id).do_nothing_on([Column::Id]).to_owned();
        self.pool
            .write("keys.create_if_absent", move |db| {
                let insert = Entity::insert(row.clone().into_active_model()).on_conflict(ignore());
                async move { Ok(insert.exec_without_returning(&db).await.map_err(database)? > 0) }
            })
            .await
    }

    /// Returns all keys, oldest first.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn list(&self) -> Result<Vec<KeyRecord>, Error> {
        Ok(self.verifiers().await?.into_iter().map(|(record, _)| record).collect())
    }

    /// Returns all keys with their digests, oldest first. A row that is not valid is reported and left out, so that the
    /// other keys still work.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn verifiers(&self) -> Result<Vec<Verifier>, Error> {
        let read = |db: Connection| async move {
            let all = Entity::find().order_by_asc(Column::CreatedAt).order_by_asc(Column::Id);
            let rows = db.query_all(all.as_query()).await.map_err(database)?;
            // Column by column, because a single value may be undecodable.
            Ok(rows.iter().map(|row| Model::from_query_result(row, "").map_err(database)).collect::<Vec<_>>())
        };
        let rows = self.pool.read::<_, Error, _, _>("keys.read", read).await?;
        let valid = |row: Result<Model, Error>| {
            let key = row.and_then(record);
            key.inspect_err(|error| tracing::error!(error = chain(error), "API key ignored: its row is not valid")).ok()
        };
        Ok(rows.into_iter().filter_map(valid).collect())
    }

    /// Revokes a key. Revoking it again changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::KeyNotFound`].
    pub async fn revoke(&self, id: KeyId) -> Result<KeyRecord, Error> {
        self.pool
            .transaction("keys.revoke", move |transaction| async move {
                let mut row = find_for_update(&transaction, id).await?;
                if row.revoked_at.is_none() {
                    row.revoked_at = Some(clock::now());
                    let mut change = Entity::update_many().filter(Column::Id.eq(id.as_str()));
                    change = change.col_expr(Column::RevokedAt, Expr::value(row.revoked_at));
                    change.exec(&transaction).await.map_err(database)?;
                }
                Ok(record(row)?.0)
            })
            .await
    }

    /// Replaces a key by a new one with the same name, scopes and expiry. The old one works for `overlap`, so that clients
    /// can switch. The caller gets no scope that is not one of `limit`.
    ///
    /// # Errors
    ///
    /// [`Error::KeyNotFound`]; [`Error::KeyInactive`] if the key has been revoked or rotated or has expired;
    /// [`Error::ScopesExceeded`].
    pub async fn rotate(&self, old: KeyId, new: ApiKey, overlap: Overlap, limit: Scopes) -> Result<KeyRecord, Error> {
        self.pool
            .transaction("keys.rotate", move |transaction| async move {
                let now = clock::now();
                let row = find_for_update(&transaction, old).await?;
                let is_replaced = row.revoked_at.is_some() || row.replaced_by.is_some();
                if is_replaced || row.expires_at.is_some_and(|end| end <= now) {
                    return Err(Error::KeyInactive);
                }
                let scopes = parse_scopes(&row.scopes);
                if let Some(scope) = scopes.iter().find(|scope| !limit.contain(*scope)) {
                    return Err(Error::ScopesExceeded(scope));
                }
                let next = Model {
                    id: new.id.as_str().to_owned(),
                    digest: new.digest.as_bytes().to_vec(),
                    // Without scopes that this version does not support: they were not compared.
                    scopes: scopes.to_string(),
                    created_at: now,
                    last_used_at: None,
                    ..row.clone()
                };
                Entity::insert(next.clone().into_active_model())
                    .exec_without_returning(&transaction)
                    .await
                    .map_err(database)?;
                let last = now + overlap.duration();
                let end = row.expires_at.map_or(last, |end| end.min(last));
                Entity::update_many()
                    .filter(Column::Id.eq(old.as_str()))
                    .col_expr(Column::ExpiresAt, Expr::value(end))
                    .col_expr(Column::ReplacedBy, Expr::value(new.id.as_str()))
                    .exec(&transaction)
                    .await
                    .map_err(database)?;
                Ok(record(next)?.0)
            })
            .await
    }

    /// Stores when keys were last used.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn store_uses(&self, uses: Vec<(KeyId, DateTime<Utc>)>) -> Result<(), Error> {
        self.pool
            .transaction("keys.store_uses", move |transaction| {
                let uses = uses.clone();
                async move {
                    for (id, at) in uses {
                        Entity::update_many()
                            .filter(Column::Id.eq(id.as_str()))
                            // Another process may have stored a later use.
                            .filter(Condition::any().add(Column::LastUsedAt.is_null()).add(Column::LastUsedAt.lt(at)))
                            .col_expr(Column::LastUsedAt, Expr::value(at))
                            .exec(&transaction)
                            .await
                            .map_err(database)?;
                    }
                    Ok(())
                }
            })
            .await
    }
}

fn new_row(key: &NewKey) -> Model {
    Model {
        id: key.key.id.as_str().to_owned(),
        digest: key.key.digest.as_bytes().to_vec(),
        name: key.name.as_str().to_owned(),
        scopes: key.scopes.to_string(),
        created_at: clock::now(),
        expires_at: key.expires_at,
        revoked_at: None,
        replaced_by: None,
        last_used_at: None,
    }
}

async fn find_for_update(transaction: &impl ConnectionTrait, id: KeyId) -> Result<Model, Error> {
    let row = Entity::find_by_id(id.as_str()).lock_exclusive().one(transaction).await.map_err(database)?;
    row.ok_or(Error::KeyNotFound)
}

/// Returns the record and the digest of a row.
fn record(row: Model) -> Result<Verifier, Error> {
    let Model { id, digest, name, scopes, created_at, expires_at, revoked_at, replaced_by, last_used_at } = row;
    let invalid = |what: &str| database(sea_orm::DbErr::Custom(format!("the {what} of the row {id:?} is not valid")));
    let record = KeyRecord {
        id: id.parse().map_err(|_| invalid("id"))?,
        name: KeyName::parse(&name).map_err(|_| invalid("name"))?,
        scopes: parse_scopes(&scopes),
        created_at,
        expires_at,
        revoked_at,
        replaced_by: replaced_by.and_then(|id| id.parse().ok()),
        last_used_at,
    };
    let digest = digest.try_into().map_err(|_| invalid("digest"))?;
    Ok((record, KeyDigest::from_bytes(digest)))
}

/// Parses stored scopes. A scope that this version does not support is ignored, so it permits nothing.
fn parse_scopes(names: &str) -> Scopes {
    names.split(' ').filter_map(|name| name.parse().ok()).collect()
}
