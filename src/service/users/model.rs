//! The content of new and changed users, and its conversion to rows.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use entity::users::Model;

use crate::{
    domain::{Email, Name, User, UserId, Version},
    service::clock,
};

/// The content of a new or replaced user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The name.
    pub name: Name,
    /// The email.
    pub email: Email,
}

/// A partial change of a user. `None` leaves a value unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The new name.
    pub name: Option<Name>,
    /// The new email.
    pub email: Option<Email>,
}

/// Returns the row of a new user. The database generates no value, so nothing has to be read back after the insert.
pub(super) fn new_row(draft: Draft) -> Model {
    let now = clock::now();
    build_row(UserId::generate(now), now, draft)
}

fn build_row(id: UserId, now: DateTime<Utc>, draft: Draft) -> Model {
    let (name_key, last_word_key) = draft.name.keys();
    Model {
        id: id.as_uuid(),
        name_key,
        last_word_key,
        name: draft.name.into_string(),
        email_key: draft.email.key(),
        email: draft.email.into_string(),
        version: Version::FIRST.get(),
        created_at: now,
        updated_at: now,
    }
}

/// Returns the rows of many new users. Yields now and then to the other tasks of the thread.
pub(super) async fn new_rows(drafts: Vec<Draft>) -> Arc<[Model]> {
    const ROWS_PER_YIELD: usize = 64;
    let now = clock::now();
    let mut ids: Vec<UserId> = drafts.iter().map(|_| UserId::generate(now)).collect();
    // Users with the same creation time are listed in input order.
    ids.sort_unstable();
    let mut rows = Vec::with_capacity(drafts.len());
    for (id, draft) in ids.into_iter().zip(drafts) {
        rows.push(build_row(id, now, draft));
        if rows.len().is_multiple_of(ROWS_PER_YIELD) {
            tokio::task::yield_now().await;
        }
    }
    rows.into()
}

/// Returns the changed row, or `None` if nothing changes.
pub(super) fn apply_change(current: &Model, change: Change) -> Option<Model> {
    let mut next = current.clone();
    if let Some(name) = change.name {
        (next.name_key, next.last_word_key) = name.keys();
        next.name = name.into_string();
    }
    if let Some(email) = change.email {
        next.email_key = email.key();
        next.email = email.into_string();
    }
    if next == *current {
        return None;
    }
    next.version += 1;
    // The clock may have gone backwards.
    next.updated_at = clock::now().max(current.updated_at);
    Some(next)
}

impl From<Model> for User {
    fn from(row: Model) -> Self {
        Self {
            id: row.id.into(),
            name: Name::from_stored(row.name),
            email: Email::from_stored(row.email),
            version: Version::from_stored(row.version),
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
    fn updated_at_does_not_decrease_when_the_clock_goes_backwards() {
        let draft = Draft { name: Name::parse("Ann").unwrap(), email: Email::parse("ann@example.com").unwrap() };
        let mut current = new_row(draft);
        current.updated_at += TimeDelta::hours(1);
        let change = Change { name: Some(Name::parse("Anna").unwrap()), ..Change::default() };
        let next = apply_change(&current, change).unwrap();
        assert_eq!(next.updated_at, current.updated_at);
        assert!(next.updated_at >= next.created_at);
    }
}
