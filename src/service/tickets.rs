//! Tickets, which open one WebSocket each, on any process.

use std::time::Duration;

use chrono::{DateTime, Utc};
use entity::users_tickets::{ActiveModel, Column, Entity};
use orm_pool::{Connection, Pool};
use sea_orm::{ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::{Error, clock, error::database, statement::is_one_of};
use crate::domain::{KeyId, Scope, TicketDigest, UserId};

/// How long a ticket is valid.
const LIFETIME: Duration = Duration::from_secs(30);
/// Maximum number of tickets that are deleted with one operation.
const SWEEP_BATCH: u64 = 500;

/// What a ticket permits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketGrant {
    /// The user whose events and messages are read; `None` for the events of all users.
    pub user: Option<UserId>,
    /// Who requested it, as [`Actor`](crate::domain::Actor) is displayed.
    pub actor: String,
    /// The API key that requested it.
    pub key: Option<KeyId>,
    /// When the access token that requested it expires.
    pub valid_until: Option<DateTime<Utc>>,
    /// The scope that permitted it.
    pub scope: Scope,
}

/// The stored tickets.
#[derive(Clone, Debug)]
pub struct TicketStore {
    pool: Pool,
}

impl TicketStore {
    /// Creates the store on this pool.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Stores a ticket. Returns when it expires.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn create(&self, digest: TicketDigest, grant: TicketGrant) -> Result<DateTime<Utc>, Error> {
        let expires_at = clock::now() + LIFETIME;
        let row = ActiveModel {
            digest: Set(digest.as_bytes().to_vec()),
            user_id: Set(grant.user.map(UserId::as_uuid)),
            actor: Set(grant.actor),
            key_id: Set(grant.key.map(|id| id.to_string())),
            valid_until: Set(grant.valid_until),
            scope: Set(grant.scope.name().to_owned()),
            expires_at: Set(expires_at),
        };
        let insert = move |db: Connection| {
            let insert = Entity::insert(row.clone());
            async move { insert.exec_without_returning(&db).await.map_err(database) }
        };
        self.pool.write("tickets.create", insert).await?;
        Ok(expires_at)
    }

    /// Uses a ticket. Returns what it permits; `None` if it is unknown, expired or was used before.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn redeem(&self, digest: TicketDigest) -> Result<Option<TicketGrant>, Error> {
        let redeem = move |transaction: Connection| async move {
            let digest = digest.as_bytes().to_vec();
            let row = Entity::find_by_id(digest.clone()).one(&transaction).await.map_err(database)?;
            let Some(row) = row else { return Ok(None) };
            // Only one of two processes that use it at the same time deletes it.
            let deleted = Entity::delete_by_id(digest).exec(&transaction).await.map_err(database)?;
            if deleted.rows_affected != 1 || row.expires_at <= clock::now() {
                return Ok(None);
            }
            let key = row.key_id.map(|id| id.parse()).transpose();
            let (Ok(key), Ok(scope)) = (key, row.scope.parse()) else { return Ok(None) };
            let user = row.user_id.map(UserId::from);
            Ok::<_, Error>(Some(TicketGrant { user, actor: row.actor, key, valid_until: row.valid_until, scope }))
        };
        self.pool.transaction("tickets.redeem", redeem).await
    }

    /// Deletes a batch of expired tickets, and returns whether there may be more.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn delete_expired(&self) -> Result<bool, Error> {
        let delete = |db: Connection| async move {
            let expired =
                Entity::find().select_only().column(Column::Digest).filter(Column::ExpiresAt.lt(clock::now()));
            let expired = expired.order_by_asc(Column::ExpiresAt).limit(SWEEP_BATCH);
            let expired: Vec<Vec<u8>> = expired.into_tuple().all(&db).await.map_err(database)?;
            if !expired.is_empty() {
                let is_expired = is_one_of(db.get_database_backend(), Column::Digest, &expired);
                Entity::delete_many().filter(is_expired).exec(&db).await.map_err(database)?;
            }
            Ok::<_, Error>(expired.len() as u64 == SWEEP_BATCH)
        };
        self.pool.write("tickets.delete_expired", delete).await
    }
}
