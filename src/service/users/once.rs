//! Users created once, however often that is asked for.

use std::sync::{Arc, Mutex, PoisonError};

use entity::users::Model;
use orm_pool::Connection;
use sea_orm::DbErr;

use super::create::{Created, free_ones};
use crate::service::idempotency::{Claim, InFlightGuard, KeyedOutcome, claim, release};

/// A user to create, under a key.
pub(super) struct Creation {
    pub(super) model: Model,
    pub(super) claim: Claim,
    /// Outlives a caller who goes away while this is being done.
    pub(super) begun: Mutex<Option<InFlightGuard>>,
}

impl Creation {
    /// There is an answer: whoever comes with the same key is to hear it.
    pub(super) fn end(&self) {
        drop(self.begun.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Creates the users whose keys are new and whose emails are free, in one transaction with their keys.
pub(super) async fn all(db: Connection, creations: Arc<[Arc<Creation>]>) -> Result<Vec<KeyedOutcome<Created>>, DbErr> {
    let claims: Vec<&Claim> = creations.iter().map(|creation| &creation.claim).collect();
    let kept = claim(&db, &claims).await?;
    let is_new = |creation: &&Arc<Creation>| !kept.contains_key(&creation.claim.key);
    let models: Vec<&Model> = creations.iter().filter(is_new).map(|creation| &creation.model).collect();
    let inserted = free_ones(&db, models).await?;
    let mut done = Vec::with_capacity(creations.len());
    let mut refused = Vec::new();
    for creation in creations.iter() {
        done.push(match kept.get(&creation.claim.key) {
            Some(kept) => KeyedOutcome::replayed(kept, &creation.claim.fingerprint),
            None if inserted.contains(&creation.model.id) => KeyedOutcome::Executed(Created::Yes),
            None => {
                refused.push(&creation.claim.key);
                KeyedOutcome::Executed(Created::EmailTaken)
            }
        });
    }
    release(&db, &refused).await?;
    Ok(done)
}
