//! Creates users with idempotency keys.

use std::sync::{Arc, Mutex, PoisonError};

use orm_pool::Connection;
use sea_orm::DbErr;

use super::create::{CreateOutcome, NewUser, insert_if_email_free};
use crate::service::{
    idempotency::{Claim, InFlightGuard, KeyedOutcome, claim_keys, release_keys},
    journal::Recorder,
};

/// A user to create, and its key.
pub(super) struct KeyedCreation {
    pub(super) user: NewUser,
    pub(super) claim: Claim,
    /// Part of the creation, so that the key stays in flight if the caller is dropped before the transaction has ended.
    pub(super) key_guard: Mutex<Option<InFlightGuard>>,
}

impl KeyedCreation {
    /// Ends the request's time in flight: from now on, a request with the same key finds the stored response.
    pub(super) fn release_key(&self) {
        drop(self.key_guard.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Creates the users whose keys are new and whose emails are free, in one transaction with their keys.
pub(super) async fn all(
    db: Connection,
    creations: Arc<[Arc<KeyedCreation>]>,
    recorder: Recorder,
) -> Result<Vec<KeyedOutcome<CreateOutcome>>, DbErr> {
    let claims: Vec<&Claim> = creations.iter().map(|creation| &creation.claim).collect();
    let stored = claim_keys(&db, &claims).await?;
    let is_new = |creation: &&Arc<KeyedCreation>| !stored.contains_key(&creation.claim.key);
    let new = creations.iter().filter(is_new).map(|creation| creation.user.borrowed()).collect();
    let inserted = insert_if_email_free(&db, new, recorder).await?;
    let mut outcomes = Vec::with_capacity(creations.len());
    let mut refused = Vec::new();
    for creation in creations.iter() {
        outcomes.push(match stored.get(&creation.claim.key) {
            Some(response) => KeyedOutcome::from_stored(response, &creation.claim.fingerprint),
            None if inserted.contains(&creation.user.row.id) => KeyedOutcome::Executed(CreateOutcome::Created),
            None => {
                refused.push(&creation.claim.key);
                KeyedOutcome::Executed(CreateOutcome::EmailTaken)
            }
        });
    }
    release_keys(&db, &refused).await?;
    Ok(outcomes)
}
