//! Users as rows: new ones, changed ones, and back.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use entity::users::Model;

use super::Change;
use crate::{
    domain::{User, UserId},
    service::{Draft, clock},
};

/// A new row. Every value is ours, so there is nothing to read back.
pub(super) fn row(draft: Draft) -> Model {
    let now = clock::now();
    made(UserId::generate(now), now, draft)
}

fn made(id: UserId, now: DateTime<Utc>, draft: Draft) -> Model {
    let (email, email_key) = draft.email.into_parts();
    let (name_key, last_word_key) = draft.name.keys();
    Model {
        id: id.as_uuid(),
        name_key,
        last_word_key,
        name: draft.name.into_string(),
        email,
        email_key,
        version: 1,
        created_at: now,
        updated_at: now,
    }
}

/// Many new rows. Others have their turn meanwhile: they share the thread.
pub(super) async fn rows(drafts: Vec<Draft>) -> Arc<[Model]> {
    const A_TURN: usize = 64;
    let now = clock::now();
    let mut ids: Vec<UserId> = drafts.iter().map(|_| UserId::generate(now)).collect();
    // Those of one moment are listed in the order in which they came.
    ids.sort_unstable();
    let mut rows = Vec::with_capacity(drafts.len());
    for (id, draft) in ids.into_iter().zip(drafts) {
        rows.push(made(id, now, draft));
        if rows.len().is_multiple_of(A_TURN) {
            tokio::task::yield_now().await;
        }
    }
    rows.into()
}

/// The row after the change, or `None` if it would be the same.
pub(super) fn changed(current: &Model, change: Change) -> Option<Model> {
    let mut next = current.clone();
    if let Some(name) = change.name {
        (next.name_key, next.last_word_key) = name.keys();
        next.name = name.into_string();
    }
    if let Some(email) = change.email {
        (next.email, next.email_key) = email.into_parts();
    }
    if next == *current {
        return None;
    }
    next.version += 1;
    // The clock may have been set back.
    next.updated_at = clock::now().max(current.updated_at);
    Some(next)
}

impl From<Model> for User {
    fn from(row: Model) -> Self {
        Self {
            id: row.id.into(),
            name: row.name,
            email: row.email,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::domain::{Email, Name};

    #[test]
    fn a_clock_that_was_set_back_does_not_reorder_times() {
        let draft = Draft { name: Name::parse("Ann").unwrap(), email: Email::parse("ann@example.com").unwrap() };
        let mut current = row(draft);
        current.updated_at += TimeDelta::hours(1);
        let change = Change { name: Some(Name::parse("Anna").unwrap()), ..Change::default() };
        let next = changed(&current, change).unwrap();
        assert_eq!(next.updated_at, current.updated_at);
        assert!(next.updated_at >= next.created_at);
    }
}
