//! Tickets, which open one WebSocket each, on any process.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use entity::users_tickets::{ActiveModel, Column, Entity, Model};
use orm_pool::{Batch, Connection, Pool};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};

use super::{Error, clock, error::database, statement::is_one_of};
use crate::domain::{KeyId, Scope, TicketDigest, UserId};

/// How long a ticket is valid.
const LIFETIME: Duration = Duration::from_secs(30);
/// Maximum number of tickets that are deleted with one operation.
const SWEEP_BATCH: u64 = 500;

/// The permission that a ticket grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketGrant {
    /// The user whose events and messages are read; `None` for the events of all users.
    pub user: Option<UserId>,
    /// The caller that requested it, as [`Actor`](crate::domain::Actor) is displayed.
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
    finds: Batch<[u8; 32], Option<Arc<StoredTicket>>>,
}

#[derive(Debug)]
struct StoredTicket {
    grant: TicketGrant,
    expires_at: DateTime<Utc>,
}

impl TicketStore {
    /// Creates the store on this pool.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { finds: pool.batch_reads("tickets.find", find), pool }
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
        // Read first, together with others: unknown tickets must not cost a write.
        let Some(ticket) = self.finds.load(*digest.as_bytes()).await? else { return Ok(None) };
        let delete = move |db: Connection| async move {
            let deleted = Entity::delete_by_id(digest.as_bytes().to_vec()).exec(&db).await.map_err(database)?;
            Ok::<_, Error>(deleted.rows_affected == 1)
        };
        // Only one of two processes that use it at the same time deletes it.
        let is_first = self.pool.write("tickets.redeem", delete).await?;
        Ok((is_first && ticket.expires_at > clock::now()).then(|| ticket.grant.clone()))
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

/// Finds tickets by their digests, in the same order.
async fn find(db: Connection, digests: Arc<[[u8; 32]]>) -> Result<Vec<Option<Arc<StoredTicket>>>, DbErr> {
    let all: Vec<Vec<u8>> = digests.iter().map(|digest| digest.to_vec()).collect();
    let rows = Entity::find().filter(is_one_of(db.get_database_backend(), Column::Digest, &all)).all(&db).await?;
    let found: HashMap<Vec<u8>, Model> = rows.into_iter().map(|row| (row.digest.clone(), row)).collect();
    Ok(all.iter().map(|digest| found.get(digest).and_then(stored).map(Arc::new)).collect())
}

fn stored(row: &Model) -> Option<StoredTicket> {
    let key = row.key_id.as_deref().map(str::parse).transpose().ok()?;
    let user = row.user_id.map(UserId::from);
    let scope = row.scope.parse().ok()?;
    let grant = TicketGrant { user, actor: row.actor.clone(), key, valid_until: row.valid_until, scope };
    Some(StoredTicket { grant, expires_at: row.expires_at })
}
