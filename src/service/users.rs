//! Users: create, find, list, replace, patch, delete.

mod bulk;
mod change;
mod create;
mod find;
mod list;
mod model;
mod once;
mod page;
mod row;
mod search;

use std::sync::{Arc, Mutex};

use orm_pool::{Batch, Engine, Pool};
use uuid::Uuid;

pub use self::{
    bulk::{BulkOutcome, RowOutcome, WriteMode, WriteOptions},
    model::{Change, Draft},
    page::{Edge, Page, Position},
    search::{CountMode, Filter, Selection, Sort, SortKey, SortPlan},
};
use self::{
    change::{delete_row, find_for_update, update_row},
    create::{CreateOutcome, NewUser},
    model::{apply_change, new_row},
    once::KeyedCreation,
};
use super::{
    ChangeSignal, Error,
    error::database,
    idempotency::{Claim, Hash, InFlight, KeyedOutcome, KeyedRequest, KeyedResponse, StoredResponse, stored_responses},
    journal::{self, Recorder},
};
use crate::domain::{Author, Precondition, User, UserId};

/// The use cases of users. A change is recorded in the journal with its [`Author`], in the same transaction.
///
/// Concurrent calls of the frequent ones share statements: a [`Batch`] collects the calls that would otherwise wait for
/// each other, and its function serves them with as few statements as possible.
///
/// Every method that uses the database can also return [`Error::Unavailable`] and [`Error::Internal`].
#[derive(Clone, Debug)]
pub struct UserService {
    pool: Pool,
    recorder: Recorder,
    /// Notified after each successful change. `None` without a feed.
    feed: Option<ChangeSignal>,
    creates: Batch<Arc<NewUser>, CreateOutcome>,
    keyed_creates: Batch<Arc<KeyedCreation>, KeyedOutcome<CreateOutcome>>,
    in_flight: InFlight,
    stored_responses: Batch<Hash, Option<Arc<StoredResponse>>>,
    finds: Batch<Uuid, Option<User>>,
    finds_by_email: Batch<String, Option<User>>,
    lists: Batch<list::PageRequest, Arc<Page>>,
}

impl UserService {
    /// Creates the service on this pool. With a signal, changes appear in the feed, and each is signalled once it is
    /// committed.
    #[must_use]
    pub fn new(pool: Pool, feed: Option<ChangeSignal>) -> Self {
        let recorder = Recorder::new(pool.engine(), feed.is_some());
        let create = move |db, users| create::all(db, users, recorder);
        let create_once = move |db, creations| once::all(db, creations, recorder);
        Self {
            // Only on PostgreSQL one statement inserts both a user and its entry in the journal.
            creates: match pool.engine() {
                Engine::Postgres => pool.batch_writes("users.create", create),
                Engine::Sqlite | Engine::MySql => pool.batch_transactions("users.create", create),
            },
            keyed_creates: pool.batch_transactions("users.create_once", create_once),
            in_flight: InFlight::default(),
            stored_responses: pool.batch_reads("idempotency.find", stored_responses),
            finds: pool.batch_reads("users.find", find::by_ids),
            finds_by_email: pool.batch_reads("users.find_by_email", find::by_email_keys),
            // Only on PostgreSQL can one statement read several pages.
            lists: match pool.engine() {
                Engine::Postgres => pool.batch_reads("users.list", list::pages),
                Engine::Sqlite | Engine::MySql => pool.coalesce_reads("users.list", list::pages),
            },
            recorder,
            feed,
            pool,
        }
    }

    /// Signals that changes were committed.
    fn signal_change(&self) {
        if let Some(feed) = &self.feed {
            feed.notify();
        }
    }

    /// Creates a user.
    ///
    /// # Errors
    ///
    /// [`Error::EmailTaken`]: detected by the unique index during the insert, not by a query before it.
    pub async fn create(&self, draft: Draft, author: Author) -> Result<User, Error> {
        let user = Arc::new(NewUser { row: new_row(draft), author });
        match self.creates.load(Arc::clone(&user)).await? {
            CreateOutcome::Created => {
                self.signal_change();
                Ok(Arc::unwrap_or_clone(user).row.into())
            }
            CreateOutcome::EmailTaken => Err(Error::EmailTaken),
        }
    }

    /// Creates a user once per key. The response, as `serialize` returns it, is stored in the transaction of the
    /// creation, and returned again to repeated requests with the key. A failed creation stores nothing.
    ///
    /// # Errors
    ///
    /// [`Error::EmailTaken`]; [`Error::KeyReused`] if the key was used with another fingerprint; [`Error::KeyInUse`]
    /// while the first request with the key is in flight.
    pub async fn create_once(
        &self,
        draft: Draft,
        author: Author,
        keyed: KeyedRequest,
        serialize: impl Fn(&User) -> Vec<u8>,
    ) -> Result<KeyedResponse, Error> {
        let Some(guard) = self.in_flight.begin(keyed.key) else {
            // The request in flight may itself be a repetition, whose response is stored already.
            return match self.stored_responses.load(keyed.key).await? {
                Some(stored) => {
                    stored.response_to(&keyed.fingerprint).map(KeyedResponse::Replayed).ok_or(Error::KeyReused)
                }
                None => Err(Error::KeyInUse),
            };
        };
        let row = new_row(draft);
        let creation = Arc::new(KeyedCreation {
            claim: Claim {
                key: keyed.key,
                fingerprint: keyed.fingerprint,
                response: serialize(&row.clone().into()),
                expires_at: row.created_at + keyed.retention,
            },
            user: NewUser { row, author },
            key_guard: Mutex::new(Some(guard)),
        });
        let outcome = self.keyed_creates.load(Arc::clone(&creation)).await;
        // Also after an error, the key is free for other requests from here on.
        creation.release_key();
        match outcome? {
            KeyedOutcome::Executed(CreateOutcome::Created) => {
                self.signal_change();
                Ok(KeyedResponse::Fresh(creation.claim.response.clone()))
            }
            KeyedOutcome::Executed(CreateOutcome::EmailTaken) => Err(Error::EmailTaken),
            KeyedOutcome::Replayed(response) => Ok(KeyedResponse::Replayed(response)),
            KeyedOutcome::Mismatch => Err(Error::KeyReused),
        }
    }

    /// Marks a key as in flight until the returned guard is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::KeyInUse`] if it is in flight already.
    pub fn mark_in_flight(&self, key: Hash) -> Result<impl Sized + Send + use<>, Error> {
        self.in_flight.begin(key).ok_or(Error::KeyInUse)
    }

    /// Returns a page of a selection as [`list`](Self::list) does, each user with its edge, as a bulk operation.
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
            async move { search::page(db, &selection, &position, limit).await.map_err(database) }
        };
        self.pool.bulk_read("users.export", page).await
    }

    /// Finds a user by id.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn find(&self, id: UserId) -> Result<User, Error> {
        self.finds.load(id.as_uuid()).await?.ok_or(Error::NotFound)
    }

    /// Returns the page of a selection at a position, with at most `limit` users.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn list(&self, selection: &Selection, position: Position, limit: u64) -> Result<Arc<Page>, Error> {
        if *selection == Selection::default() {
            return Ok(self.lists.load((position, limit)).await?);
        }
        if let (Some(key), Position::First) = (selection.filter.only_email(), &position) {
            let users = self.finds_by_email.load(key).await?.into_iter().collect();
            return Ok(Arc::new(Page { users, previous: None, next: None }));
        }
        let selection = Arc::new(selection.clone());
        let page = move |db| {
            let (selection, position) = (Arc::clone(&selection), position.clone());
            async move {
                let Page { users, previous, next } =
                    search::page(db, &selection, &position, limit).await.map_err(database)?;
                let users = users.into_iter().map(|(user, _)| user).collect();
                Ok(Arc::new(Page { users, previous, next }))
            }
        };
        self.pool.read("users.search", page).await
    }

    /// Counts the users of a filter.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn count(&self, filter: &Filter, how: CountMode) -> Result<u64, Error> {
        let filter = Arc::new(filter.clone());
        let count = move |db| {
            let filter = Arc::clone(&filter);
            async move { search::count(db, &filter, how).await.map_err(database) }
        };
        self.pool.read("users.count", count).await
    }

    /// Replaces a user's name and email.
    ///
    /// # Errors
    ///
    /// As [`patch`](Self::patch).
    pub async fn replace(
        &self,
        id: UserId,
        precondition: Precondition,
        draft: Draft,
        author: Author,
    ) -> Result<User, Error> {
        let change = Change { name: Some(draft.name), email: Some(draft.email) };
        self.update("users.replace", id, precondition, change, author).await
    }

    /// Changes a part of a user. If nothing changes, nothing is written, and the version stays the same.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::PreconditionFailed`]; [`Error::EmailTaken`]; [`Error::VersionConflict`] if another
    /// writer changed the user between the read and the write.
    pub async fn patch(
        &self,
        id: UserId,
        precondition: Precondition,
        change: Change,
        author: Author,
    ) -> Result<User, Error> {
        self.update("users.patch", id, precondition, change, author).await
    }

    /// Deletes a user.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::PreconditionFailed`]; [`Error::VersionConflict`] if another writer changed the
    /// user between the read and the deletion.
    pub async fn delete(&self, id: UserId, precondition: Precondition, author: Author) -> Result<(), Error> {
        let recorder = self.recorder;
        self.pool
            .transaction("users.delete", move |transaction| {
                let (precondition, author) = (precondition.clone(), author.clone());
                async move {
                    let current = find_for_update(&transaction, id, &precondition).await?;
                    delete_row(&transaction, &current).await?;
                    recorder.append_deletion(&transaction, &current, &author).await.map_err(database)
                }
            })
            .await?;
        self.signal_change();
        Ok(())
    }

    async fn update(
        &self,
        operation: &'static str,
        id: UserId,
        precondition: Precondition,
        change: Change,
        author: Author,
    ) -> Result<User, Error> {
        let recorder = self.recorder;
        let (user, is_changed) = self
            .pool
            .transaction(operation, move |transaction| {
                let (precondition, change, author) = (precondition.clone(), change.clone(), author.clone());
                async move {
                    let current = find_for_update(&transaction, id, &precondition).await?;
                    let Some(next) = apply_change(&current, change) else { return Ok((current.into(), false)) };
                    update_row(&transaction, &next, current.version).await?;
                    let entry = journal::updated(&current, &next, &author);
                    recorder.append(&transaction, &[entry]).await.map_err(database)?;
                    Ok::<(User, bool), Error>((next.into(), true))
                }
            })
            .await?;
        if is_changed {
            self.signal_change();
        }
        Ok(user)
    }
}
