//! Users: create, find, list, replace, patch, delete.

mod bulk;
mod create;
mod find;
mod list;
mod model;
mod once;
mod page;
mod row;
mod search;

use std::sync::{Arc, Mutex};

use entity::users::{COLUMN, Entity, Model};
use orm_pool::{Batch, Engine, Pool};
use sea_orm::{ActiveModelTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter, QuerySelect};
use uuid::Uuid;

use self::{
    bulk::Rollback,
    create::Created,
    model::{changed, row, rows},
    once::Creation,
};
pub use self::{
    bulk::{Mode, Outcome, WriteOptions, Written},
    page::{Edge, Page, Position},
    search::{Count, Filter, Selection, Sort, SortKey, SortPlan},
};
pub(super) use self::{create::powers_of_two, find::is_one_of};
use super::{
    Error, clock,
    idempotency::{Claim, Hash, InFlight, KeyedOutcome, KeyedRequest, KeyedResponse, StoredResponse, kept},
};
use crate::domain::{Email, Name, Precondition, User, UserId, Version};

/// What a new or replaced user consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The name.
    pub name: Name,
    /// The email.
    pub email: Email,
}

/// What to change of a user; `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The new name.
    pub name: Option<Name>,
    /// The new email.
    pub email: Option<Email>,
}

/// The use cases of users, on the one pool.
#[derive(Clone, Debug)]
pub struct UserService {
    pool: Pool,
    creates: Batch<Arc<Model>, Created>,
    creates_once: Batch<Arc<Creation>, KeyedOutcome<Created>>,
    under_way: InFlight,
    answers: Batch<Hash, Option<Arc<StoredResponse>>>,
    finds: Batch<Uuid, Option<User>>,
    finds_by_email: Batch<String, Option<User>>,
    lists: Batch<list::PageRequest, Arc<Page>>,
}

impl UserService {
    /// A service on this pool.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self {
            creates: pool.batch_writes("users.create", create::all),
            creates_once: pool.batch_transactions("users.create_once", once::all),
            under_way: InFlight::default(),
            answers: pool.batch_reads("idempotency.find", kept),
            finds: pool.batch_reads("users.find", find::by_ids),
            finds_by_email: pool.batch_reads("users.find_by_email", find::by_email_keys),
            // Elsewhere one statement cannot give several pages.
            lists: match pool.engine() {
                Engine::Postgres => pool.batch_reads("users.list", list::pages),
                Engine::Sqlite | Engine::MySql => pool.coalesce_reads("users.list", list::pages),
            },
            pool,
        }
    }

    /// Creates a user.
    ///
    /// # Errors
    ///
    /// [`Error::EmailTaken`]; found by the unique index at the insert itself, never by looking first.
    pub async fn create(&self, draft: Draft) -> Result<User, Error> {
        let model = Arc::new(row(draft));
        match self.creates.load(Arc::clone(&model)).await? {
            Created::Yes => Ok(Arc::unwrap_or_clone(model).into()),
            Created::EmailTaken => Err(Error::EmailTaken),
        }
    }

    /// Creates a user once for each key: a second request with the same key gets the first answer, as `seal` makes it.
    /// The answer is kept in the transaction of the creation. Of a refused creation nothing is kept.
    ///
    /// # Errors
    ///
    /// [`Error::EmailTaken`]; [`Error::KeyReused`] if the key was used with another fingerprint; [`Error::KeyInUse`] while the first request
    /// with it is under way and has no answer.
    pub async fn create_once(
        &self,
        draft: Draft,
        keyed: KeyedRequest,
        seal: impl Fn(&User) -> Vec<u8>,
    ) -> Result<KeyedResponse, Error> {
        let Some(begun) = self.under_way.begin(keyed.key) else {
            // It may be one that asks for the same answer as this one does.
            return match self.answers.load(keyed.key).await? {
                Some(kept) => kept.answer_to(&keyed.fingerprint).map(KeyedResponse::Replayed).ok_or(Error::KeyReused),
                None => Err(Error::KeyInUse),
            };
        };
        let model = row(draft);
        let creation = Arc::new(Creation {
            claim: Claim {
                key: keyed.key,
                fingerprint: keyed.fingerprint,
                answer: seal(&model.clone().into()),
                expires_at: model.created_at + keyed.retention,
            },
            model,
            begun: Mutex::new(Some(begun)),
        });
        let done = self.creates_once.load(Arc::clone(&creation)).await;
        creation.end();
        match done? {
            KeyedOutcome::Executed(Created::Yes) => Ok(KeyedResponse::Fresh(creation.claim.answer.clone())),
            KeyedOutcome::Executed(Created::EmailTaken) => Err(Error::EmailTaken),
            KeyedOutcome::Replayed(answer) => Ok(KeyedResponse::Replayed(answer)),
            KeyedOutcome::Mismatch => Err(Error::KeyReused),
        }
    }

    /// Writes many users in one transaction, on the share of the pool for work in bulk.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`]; then nothing was written, or it is not known.
    pub async fn write_many(&self, drafts: Vec<Draft>, terms: WriteOptions) -> Result<Outcome, Error> {
        let models = rows(drafts).await;
        let body = move |db| {
            let models = Arc::clone(&models);
            async move { bulk::all(&db, &models, terms).await }
        };
        match self.pool.bulk_transaction("users.write_many", body).await {
            Ok(written) => Ok(Outcome { written, is_kept: true }),
            Err(Rollback::Outcome(written)) => Ok(Outcome { written, is_kept: false }),
            Err(Rollback::Failed(error)) => Err(error),
        }
    }

    /// The same once for each key: whoever asks again with the same key gets the first answer, which is kept in the same
    /// transaction. Nothing is kept of what is undone, or refused in all its rows.
    ///
    /// # Errors
    ///
    /// As [`write_many`](Self::write_many), or [`Error::KeyReused`].
    pub async fn write_many_once(
        &self,
        drafts: Vec<Draft>,
        terms: WriteOptions,
        keyed: KeyedRequest,
        seal: impl Fn(&[Option<Written>]) -> Vec<u8> + Send + Sync + 'static,
    ) -> Result<(KeyedResponse, Outcome), Error> {
        let models = rows(drafts).await;
        let seal = Arc::new(seal);
        let body = {
            let seal = Arc::clone(&seal);
            move |db| {
                let (models, seal) = (Arc::clone(&models), Arc::clone(&seal));
                let claim = Claim {
                    key: keyed.key,
                    fingerprint: keyed.fingerprint,
                    answer: Vec::new(),
                    expires_at: clock::now() + keyed.retention,
                };
                async move { bulk::once(&db, &models, terms, &claim, seal.as_ref()).await }
            }
        };
        match self.pool.bulk_transaction("users.write_many_once", body).await {
            Ok(KeyedOutcome::Executed((written, answer))) => {
                Ok((KeyedResponse::Fresh(answer), Outcome { written, is_kept: true }))
            }
            Ok(KeyedOutcome::Replayed(answer)) => {
                Ok((KeyedResponse::Replayed(answer), Outcome { written: Vec::new(), is_kept: true }))
            }
            Ok(KeyedOutcome::Mismatch) => Err(Error::KeyReused),
            Err(Rollback::Outcome(written)) => {
                Ok((KeyedResponse::Fresh(seal(&written)), Outcome { written, is_kept: false }))
            }
            Err(Rollback::Failed(error)) => Err(error),
        }
    }

    /// Whether many are better written a few at a time, since others are being served.
    #[must_use]
    pub fn gives_way(&self) -> bool {
        self.pool.bulk_gives_way()
    }

    /// Marks a key as used by what is under way, until the mark is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::KeyInUse`] if it is already.
    pub fn begin(&self, key: [u8; 32]) -> Result<impl Sized + Send + use<>, Error> {
        self.under_way.begin(key).ok_or(Error::KeyInUse)
    }

    /// Gives at most `limit` users of a selection, as [`list`](Self::list) does, each with the edge behind it, on the share
    /// of the pool for work in bulk.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn export(
        &self,
        selection: Arc<Selection>,
        position: Position,
        limit: u64,
    ) -> Result<Page<(User, Edge)>, Error> {
        let page = move |db| {
            let (selection, position) = (Arc::clone(&selection), position.clone());
            async move { Ok(search::page(db, &selection, &position, limit).await?) }
        };
        self.pool.bulk_read("users.export", page).await
    }

    /// Finds a user.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn find(&self, id: UserId) -> Result<User, Error> {
        self.finds.load(id.as_uuid()).await?.ok_or(Error::NotFound)
    }

    /// Gives at most `limit` users of a selection, from a position on.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn list(&self, selection: &Selection, position: Position, limit: u64) -> Result<Arc<Page>, Error> {
        if *selection == Selection::default() {
            return Ok(self.lists.load((position, limit)).await?);
        }
        if let (Some(key), Position::First) = (selection.filter.email_alone(), &position) {
            let users = self.finds_by_email.load(key.to_owned()).await?.into_iter().collect();
            return Ok(Arc::new(Page { users, previous: None, next: None }));
        }
        let selection = Arc::new(selection.clone());
        let page = move |db| {
            let (selection, position) = (Arc::clone(&selection), position.clone());
            async move {
                let Page { users, previous, next } = search::page(db, &selection, &position, limit).await?;
                let users = users.into_iter().map(|(user, _)| user).collect();
                Ok(Arc::new(Page { users, previous, next }))
            }
        };
        self.pool.read("users.search", page).await
    }

    /// Counts those for whom a filter is true.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn count(&self, filter: &Filter, how: Count) -> Result<u64, Error> {
        let filter = Arc::new(filter.clone());
        let count = move |db| {
            let filter = Arc::clone(&filter);
            async move { Ok(search::count(db, &filter, how).await?) }
        };
        self.pool.read("users.count", count).await
    }

    /// Replaces a user's name and email.
    ///
    /// # Errors
    ///
    /// As [`patch`](Self::patch).
    pub async fn replace(&self, id: UserId, precondition: Precondition, draft: Draft) -> Result<User, Error> {
        let change = Change { name: Some(draft.name), email: Some(draft.email) };
        self.update("users.replace", id, precondition, change).await
    }

    /// Changes a part of a user. A change that changes nothing is not written, and the version stays.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::PreconditionFailed`]; [`Error::EmailTaken`]; [`Error::VersionConflict`] when the
    /// user was changed by another writer between reading and writing.
    pub async fn patch(&self, id: UserId, precondition: Precondition, change: Change) -> Result<User, Error> {
        self.update("users.patch", id, precondition, change).await
    }

    /// Deletes a user.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::PreconditionFailed`]; [`Error::VersionConflict`] when the user was changed by
    /// another writer between reading and deleting.
    pub async fn delete(&self, id: UserId, precondition: Precondition) -> Result<(), Error> {
        if precondition == Precondition::NONE {
            return self.pool.write("users.delete", move |db| delete(db, id, None)).await;
        }
        self.pool
            .transaction("users.delete", move |transaction| {
                let precondition = precondition.clone();
                async move {
                    let current = locked(&transaction, id, &precondition).await?;
                    delete(transaction, id, Some(current.version)).await
                }
            })
            .await
    }

    async fn update(
        &self,
        operation: &'static str,
        id: UserId,
        precondition: Precondition,
        change: Change,
    ) -> Result<User, Error> {
        self.pool
            .transaction(operation, move |transaction| {
                let (precondition, change) = (precondition.clone(), change.clone());
                async move {
                    let current = locked(&transaction, id, &precondition).await?;
                    let Some(next) = changed(&current, change) else { return Ok(current.into()) };
                    write(&transaction, &next, current.version).await?;
                    Ok(next.into())
                }
            })
            .await
    }
}

/// The row that the precondition holds for, kept from other writers until the transaction ends. SQLite has no row locks
/// and needs none: the transaction is the only writer.
async fn locked(transaction: &impl ConnectionTrait, id: UserId, precondition: &Precondition) -> Result<Model, Error> {
    let row = Entity::find_by_id(id.as_uuid()).lock_exclusive().one(transaction).await?.ok_or(Error::NotFound)?;
    if precondition.holds(row.version) { Ok(row) } else { Err(Error::PreconditionFailed { current: row.version }) }
}

/// Deletes a row, at this version if one is given: as in [`write()`], a lock says nothing about another node.
async fn delete(db: impl ConnectionTrait, id: UserId, version: Option<Version>) -> Result<(), Error> {
    let mut delete = Entity::delete_many().filter(COLUMN.id.eq(id.as_uuid()));
    if let Some(version) = version {
        delete = delete.filter(COLUMN.version.eq(version));
    }
    match (delete.exec(&db).await?.rows_affected, version) {
        (1, _) => Ok(()),
        (_, None) => Err(Error::NotFound),
        (_, Some(_)) => Err(Error::VersionConflict),
    }
}

/// Writes a row over its predecessor. The version is checked by the UPDATE itself: on a multi-master engine a lock held
/// here says nothing about another node.
async fn write(transaction: &impl ConnectionTrait, next: &Model, from: Version) -> Result<(), Error> {
    let mut row = next.clone().into_active_model().reset_all();
    row.not_set(entity::users::Column::Id);
    row.not_set(entity::users::Column::CreatedAt);
    let written = Entity::update_many()
        .set(row)
        .filter(COLUMN.id.eq(next.id))
        .filter(COLUMN.version.eq(from))
        .exec(transaction)
        .await;
    match written {
        Ok(written) if written.rows_affected == 1 => Ok(()),
        Ok(_) => Err(Error::VersionConflict),
        Err(error) if create::is_taken(transaction, next, &error).await? => Err(Error::EmailTaken),
        Err(error) => Err(error.into()),
    }
}
