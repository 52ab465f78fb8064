//! Many users written at once, in one transaction.

use std::collections::{HashMap, HashSet};

use entity::users::{Column, Entity, Model};
use orm_pool::Connection;
use sea_orm::{ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use sha2::{Digest, Sha256};

use super::{UserService, create::free_ones, find::is_one_of, write};
use crate::{
    domain::UserId,
    service::{
        Error, clock,
        idempotency::{Claim, KeyedOutcome, KeyedRequest, claim, keep, release},
    },
};

/// What to do with a user whose email is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Refuse it.
    #[default]
    Insert,
    /// Give the one who is there the new name, and the email as it is written now.
    Upsert,
}

/// The terms on which many users are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// What to do with those who are there already.
    pub mode: Mode,
    /// Find out what would happen, and undo it.
    pub dry_run: bool,
    /// Undo everything if one is refused.
    pub all_or_none: bool,
}

/// How often a row is tried whose email is taken and free again by turns.
const MOST_ROUNDS: usize = 5;

/// What became of one of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was created.
    Created(UserId),
    /// Another name or spelling was written.
    Updated(UserId),
    /// It was there, just so.
    Unchanged(UserId),
}

/// What became of many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Of each, in their order; `None` if another user has the email.
    pub written: Vec<Option<Written>>,
    /// Whether it was kept, and not undone.
    pub is_kept: bool,
}

/// Why a transaction ends without a commit.
pub(super) enum Rollback {
    /// As it should: this is what would have happened.
    Outcome(Vec<Option<Written>>),
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Rollback {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Writes them in their order, as the terms say.
pub(super) async fn all(
    db: &Connection,
    models: &[Model],
    terms: WriteOptions,
) -> Result<Vec<Option<Written>>, Rollback> {
    let written = write_in_order(db, models, terms.mode).await?;
    let is_refused = || written.contains(&None);
    if terms.dry_run || terms.all_or_none && is_refused() { Err(Rollback::Outcome(written)) } else { Ok(written) }
}

/// The same once, with the answer kept under a key, unless every row was refused.
pub(super) async fn once(
    db: &Connection,
    models: &[Model],
    terms: WriteOptions,
    under: &Claim,
    seal: &(impl Fn(&[Option<Written>]) -> Vec<u8> + ?Sized),
) -> Result<KeyedOutcome<(Vec<Option<Written>>, Vec<u8>)>, Rollback> {
    if let Some(kept) = claim(db, &[under]).await?.get(&under.key) {
        return Ok(KeyedOutcome::replayed(kept, &under.fingerprint));
    }
    let written = all(db, models, terms).await?;
    let answer = seal(&written);
    if written.iter().all(Option::is_none) {
        release(db, &[&under.key]).await?;
    } else {
        keep(db, &under.key, &answer).await?;
    }
    Ok(KeyedOutcome::Executed((written, answer)))
}

impl UserService {
    /// How many pieces the work in bulk under this key had, if it came to its end.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn pieces_of(&self, keyed: KeyedRequest) -> Result<Option<u64>, Error> {
        let end = end_of(keyed);
        let kept = self.answers.load(end.key).await?.and_then(|kept| kept.answer_to(&end.fingerprint));
        Ok(kept.and_then(|answer| answer.try_into().ok()).map(u64::from_be_bytes))
    }

    /// Keeps how many pieces the work in bulk under this key had: with more of them, or fewer, it would be another one.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn keep_pieces(&self, keyed: KeyedRequest, pieces: u64) -> Result<(), Error> {
        let keep = move |db| async move {
            let KeyedRequest { key, fingerprint, retention } = end_of(keyed);
            let answer = pieces.to_be_bytes().to_vec();
            claim(&db, &[&Claim { key, fingerprint, answer, expires_at: clock::now() + retention }]).await?;
            Ok::<_, Error>(())
        };
        self.pool.transaction("users.keep_pieces", keep).await
    }
}

/// The end of work in bulk has a key of its own.
fn end_of(keyed: KeyedRequest) -> KeyedRequest {
    let key = Sha256::new().chain_update(keyed.key).chain_update(b"end").finalize().into();
    KeyedRequest { key, ..keyed }
}

async fn write_in_order(db: &Connection, models: &[Model], mode: Mode) -> Result<Vec<Option<Written>>, Error> {
    let mut written: Vec<Option<Written>> = vec![None; models.len()];
    let mut left: Vec<usize> = (0..models.len()).collect();
    let mut rounds = 0;
    while !left.is_empty() {
        // Of those with the same email the first comes first; the others meet what it has left.
        let mut emails = HashSet::with_capacity(left.len());
        let (first, later): (Vec<usize>, Vec<usize>) =
            left.into_iter().partition(|place| emails.insert(models[*place].email_key.as_str()));
        let created = free_ones(db, first.iter().map(|place| &models[*place]).collect()).await?;
        let mut taken = Vec::new();
        for place in first {
            let id = models[place].id;
            if created.contains(&id) {
                written[place] = Some(Written::Created(id.into()));
            } else {
                taken.push(place);
            }
        }
        if mode == Mode::Insert {
            break;
        }
        for (place, outcome) in update(db, models, &taken).await? {
            written[place] = Some(outcome);
        }
        // One that was deleted after it was found to be taken is tried again; not for ever, if it comes and goes.
        rounds += 1;
        taken.retain(|place| written[*place].is_none() && rounds < MOST_ROUNDS);
        left = taken.into_iter().chain(later).collect();
        left.sort_unstable();
    }
    Ok(written)
}

/// Writes over the users who have the emails of these. One that was deleted meanwhile is left out.
async fn update(db: &Connection, models: &[Model], places: &[usize]) -> Result<Vec<(usize, Written)>, Error> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<String> = places.iter().map(|place| models[*place].email_key.clone()).collect();
    let rows = Entity::find()
        .filter(is_one_of(db.get_database_backend(), Column::EmailKey, &keys))
        // All transactions lock in the same order, so that none waits for another in a circle.
        .order_by_asc(Column::EmailKey)
        .lock_exclusive()
        .all(db)
        .await?;
    let mut current: HashMap<String, Model> = rows.into_iter().map(|row| (row.email_key.clone(), row)).collect();
    let mut written = Vec::with_capacity(places.len());
    for place in places {
        let model = &models[*place];
        let Some(row) = current.remove(&model.email_key) else { continue };
        let id = row.id.into();
        let outcome = match over(&row, model) {
            None => Written::Unchanged(id),
            Some(next) => {
                write(db, &next, row.version).await?;
                Written::Updated(id)
            }
        };
        written.push((*place, outcome));
    }
    Ok(written)
}

/// The row with the name and the spelling of another, or `None` if it would be the same.
fn over(row: &Model, other: &Model) -> Option<Model> {
    if (&row.name, &row.email) == (&other.name, &other.email) {
        return None;
    }
    let mut next = other.clone();
    (next.id, next.created_at, next.version) = (row.id, row.created_at, row.version + 1);
    // It may have waited for the row while another writer changed it.
    next.updated_at = clock::now().max(row.updated_at);
    Some(next)
}
