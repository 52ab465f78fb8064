//! Writes many users in one transaction.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use entity::users::{Column, Entity, Model};
use orm_pool::Connection;
use sea_orm::{ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use sha2::{Digest, Sha256};

use super::{
    UserService,
    change::update_row,
    create::{NewRow, insert_if_email_free},
    model::{Draft, new_rows},
};
use crate::{
    domain::{Author, UserId},
    service::{
        Error, clock,
        error::database,
        idempotency::{Claim, KeyedOutcome, KeyedRequest, KeyedResponse, claim_keys, release_keys, store_response},
        journal::{self, Recorder},
        statement::is_one_of,
    },
};

/// The handling of a row whose email already exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteMode {
    /// The row is refused.
    #[default]
    Insert,
    /// The existing user gets the name of the row, and the email as the row spells it.
    Upsert,
}

/// The options of a bulk write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// The handling of a row whose email already exists.
    pub mode: WriteMode,
    /// Roll back and return what would have been written.
    pub dry_run: bool,
    /// Roll back if a row is refused.
    pub atomic: bool,
}

/// The author of rows, and the recorder of their journal entries.
pub(super) struct Recording {
    pub(super) author: Author,
    pub(super) recorder: Recorder,
}

/// Number of rounds after which a row whose email is alternately taken and free is refused.
const MAX_ROUNDS: usize = 5;

/// The outcome of a row that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOutcome {
    /// The user was created.
    Created(UserId),
    /// The name or the spelling of the email was changed.
    Updated(UserId),
    /// The user already existed with this name and spelling.
    Unchanged(UserId),
}

/// The outcome of a bulk write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BulkOutcome {
    /// The outcome of each row, in the same order; `None` if another user has the email.
    pub written: Vec<Option<RowOutcome>>,
    /// Whether the transaction was committed.
    pub is_committed: bool,
}

/// The reason for a rollback.
pub(super) enum Rollback {
    /// By the [`WriteOptions`]. This is what would have been written.
    Intended(Vec<Option<RowOutcome>>),
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Rollback {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Writes the rows in their order.
pub(super) async fn all(
    db: &Connection,
    models: &[Model],
    options: WriteOptions,
    recording: &Recording,
) -> Result<Vec<Option<RowOutcome>>, Rollback> {
    let written = write_in_order(db, models, options.mode, recording).await?;
    let is_refused = || written.contains(&None);
    if options.dry_run || options.atomic && is_refused() { Err(Rollback::Intended(written)) } else { Ok(written) }
}

/// Like [`all`], once per key. Stores the response, unless every row is refused.
pub(super) async fn once(
    db: &Connection,
    models: &[Model],
    options: WriteOptions,
    recording: &Recording,
    claim: &Claim,
    serialize: &(impl Fn(&[Option<RowOutcome>]) -> Vec<u8> + ?Sized),
) -> Result<KeyedOutcome<(Vec<Option<RowOutcome>>, Vec<u8>)>, Rollback> {
    if let Some(stored) = claim_keys(db, &[claim]).await.map_err(database)?.get(&claim.key) {
        return Ok(KeyedOutcome::from_stored(stored, &claim.fingerprint));
    }
    let written = all(db, models, options, recording).await?;
    let response = serialize(&written);
    if written.iter().all(Option::is_none) {
        release_keys(db, &[&claim.key]).await.map_err(database)?;
    } else {
        store_response(db, &claim.key, &response).await.map_err(database)?;
    }
    Ok(KeyedOutcome::Executed((written, response)))
}

impl UserService {
    /// Writes many users in one transaction, as a bulk operation.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`]: all or none of the users were written, and it may be unknown
    /// which.
    pub async fn write_many(
        &self,
        drafts: Vec<Draft>,
        options: WriteOptions,
        author: Author,
    ) -> Result<BulkOutcome, Error> {
        let (rows, recording) = (new_rows(drafts).await, Arc::new(self.recording(author)));
        let body = move |db| {
            let (rows, recording) = (Arc::clone(&rows), Arc::clone(&recording));
            async move { all(&db, &rows, options, &recording).await }
        };
        match self.pool.bulk_transaction("users.write_many", body).await {
            Ok(written) => {
                self.signal_change();
                Ok(BulkOutcome { written, is_committed: true })
            }
            Err(Rollback::Intended(written)) => Ok(BulkOutcome { written, is_committed: false }),
            Err(Rollback::Failed(error)) => Err(error),
        }
    }

    /// Like [`write_many`](Self::write_many), once per key. The response, as `serialize` returns it, is stored in the
    /// same transaction, and returned again to repeated requests with the key. Nothing is stored if the transaction is
    /// rolled back or every row is refused.
    ///
    /// # Errors
    ///
    /// As [`write_many`](Self::write_many), or [`Error::KeyReused`].
    pub async fn write_many_once(
        &self,
        drafts: Vec<Draft>,
        options: WriteOptions,
        author: Author,
        keyed: KeyedRequest,
        serialize: impl Fn(&[Option<RowOutcome>]) -> Vec<u8> + Send + Sync + 'static,
    ) -> Result<(KeyedResponse, BulkOutcome), Error> {
        let (rows, recording, serialize) =
            (new_rows(drafts).await, Arc::new(self.recording(author)), Arc::new(serialize));
        let body = {
            let serialize = Arc::clone(&serialize);
            move |db| {
                let (rows, recording, serialize) = (Arc::clone(&rows), Arc::clone(&recording), Arc::clone(&serialize));
                let claim = Claim {
                    key: keyed.key,
                    fingerprint: keyed.fingerprint,
                    // Stored at the end, when it is known.
                    response: Vec::new(),
                    expires_at: clock::now() + keyed.retention,
                };
                async move { once(&db, &rows, options, &recording, &claim, serialize.as_ref()).await }
            }
        };
        match self.pool.bulk_transaction("users.write_many_once", body).await {
            Ok(KeyedOutcome::Executed((written, response))) => {
                self.signal_change();
                Ok((KeyedResponse::Fresh(response), BulkOutcome { written, is_committed: true }))
            }
            Ok(KeyedOutcome::Replayed(response)) => {
                Ok((KeyedResponse::Replayed(response), BulkOutcome { written: Vec::new(), is_committed: true }))
            }
            Ok(KeyedOutcome::Mismatch) => Err(Error::KeyReused),
            Err(Rollback::Intended(written)) => {
                Ok((KeyedResponse::Fresh(serialize(&written)), BulkOutcome { written, is_committed: false }))
            }
            Err(Rollback::Failed(error)) => Err(error),
        }
    }

    fn recording(&self, author: Author) -> Recording {
        Recording { author, recorder: self.recorder }
    }

    /// Returns whether bulk operations should use smaller transactions, because other operations run concurrently.
    #[must_use]
    pub fn is_under_load(&self) -> bool {
        self.pool.bulk_is_yielding()
    }

    /// Returns the number of chunks of the import with this key, if it has been completed.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn stored_chunk_count(&self, keyed: KeyedRequest) -> Result<Option<u64>, Error> {
        let KeyedRequest { key, fingerprint, .. } = completion_of(keyed);
        let count = self.stored_responses.load(key).await?.and_then(|stored| stored.response_to(&fingerprint));
        Ok(count.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes))
    }

    /// Stores the number of chunks of a completed import, so that a repetition with more or fewer chunks is recognized
    /// as a different request.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn store_chunk_count(&self, keyed: KeyedRequest, chunks: u64) -> Result<(), Error> {
        let store = move |db| async move {
            let KeyedRequest { key, fingerprint, retention } = completion_of(keyed);
            let response = chunks.to_be_bytes().to_vec();
            let claim = Claim { key, fingerprint, response, expires_at: clock::now() + retention };
            claim_keys(&db, &[&claim]).await.map_err(database)?;
            Ok(())
        };
        self.pool.transaction("users.store_chunk_count", store).await
    }
}

/// Returns the key under which the completion of an import is stored, derived from the import's key.
fn completion_of(keyed: KeyedRequest) -> KeyedRequest {
    let key = Sha256::new().chain_update(keyed.key).chain_update(b"end").finalize().into();
    KeyedRequest { key, ..keyed }
}

async fn write_in_order(
    db: &Connection,
    models: &[Model],
    mode: WriteMode,
    recording: &Recording,
) -> Result<Vec<Option<RowOutcome>>, Error> {
    let mut written: Vec<Option<RowOutcome>> = vec![None; models.len()];
    let mut remaining: Vec<usize> = (0..models.len()).collect();
    let mut rounds = 0;
    while !remaining.is_empty() {
        // Each round writes the first row of each email: later rows with the same email find the user that it wrote.
        let mut emails = HashSet::with_capacity(remaining.len());
        let (first, later): (Vec<usize>, Vec<usize>) =
            remaining.into_iter().partition(|index| emails.insert(models[*index].email_key.as_str()));
        let rows_of_round =
            first.iter().map(|index| NewRow { row: &models[*index], author: &recording.author }).collect();
        let created = insert_if_email_free(db, rows_of_round, recording.recorder).await.map_err(database)?;
        let mut taken = Vec::new();
        for index in first {
            let id = models[index].id;
            if created.contains(&id) {
                written[index] = Some(RowOutcome::Created(id.into()));
            } else {
                taken.push(index);
            }
        }
        if mode == WriteMode::Insert {
            break;
        }
        for (index, outcome) in update(db, models, &taken, recording).await? {
            written[index] = Some(outcome);
        }
        // A row is retried if the user with its email was deleted between insert and update.
        rounds += 1;
        taken.retain(|index| written[*index].is_none() && rounds < MAX_ROUNDS);
        remaining = taken.into_iter().chain(later).collect();
        remaining.sort_unstable();
    }
    Ok(written)
}

/// Updates the users with the emails of these rows. Returns no outcome for a user that was deleted concurrently.
async fn update(
    db: &Connection,
    models: &[Model],
    indexes: &[usize],
    recording: &Recording,
) -> Result<Vec<(usize, RowOutcome)>, Error> {
    if indexes.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<String> = indexes.iter().map(|index| models[*index].email_key.clone()).collect();
    let rows = Entity::find()
        .filter(is_one_of(db.get_database_backend(), Column::EmailKey, &keys))
        // All transactions lock rows in the same order, so that they do not deadlock.
        .order_by_asc(Column::EmailKey)
        .lock_exclusive()
        .all(db)
        .await
        .map_err(database)?;
    let mut current: HashMap<String, Model> = rows.into_iter().map(|row| (row.email_key.clone(), row)).collect();
    let mut written = Vec::with_capacity(indexes.len());
    let mut entries = Vec::new();
    for index in indexes {
        let model = &models[*index];
        let Some(row) = current.remove(&model.email_key) else { continue };
        let id = row.id.into();
        let outcome = match merge(&row, model) {
            None => RowOutcome::Unchanged(id),
            Some(next) => {
                update_row(db, &next, row.version).await?;
                entries.push(journal::updated(&row, &next, &recording.author));
                RowOutcome::Updated(id)
            }
        };
        written.push((*index, outcome));
    }
    recording.recorder.append(db, &entries).await.map_err(database)?;
    Ok(written)
}

/// Returns the row with the name and the email spelling of `model`, or `None` if nothing changes.
fn merge(row: &Model, model: &Model) -> Option<Model> {
    if (&row.name, &row.email) == (&model.name, &model.email) {
        return None;
    }
    let mut next = model.clone();
    (next.id, next.created_at, next.version) = (row.id, row.created_at, row.version + 1);
    // Not the model's time: another writer may have changed the row since.
    next.updated_at = clock::now().max(row.updated_at);
    Some(next)
}
