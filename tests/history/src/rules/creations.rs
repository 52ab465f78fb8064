//! Each user was created once, by an operation that can have created it.

use std::collections::{HashMap, HashSet};

use crate::{
    Operation, Record, Violation,
    index::{Account, Attempt, Index},
};

pub(super) fn apply(index: &Index<'_>, violations: &mut Vec<Violation>) {
    for (id, account) in &index.accounts {
        created_twice(id, account, violations);
    }
    keys(index, violations);
    phantoms(index, violations);
}

/// Only attempts with the same idempotency key return the same user.
fn created_twice(id: &str, account: &Account<'_>, violations: &mut Vec<Violation>) {
    let key = |record: &Record| match &record.operation {
        Operation::Create { key, .. } => key.clone(),
        Operation::Update { .. } | Operation::Delete { .. } => None,
    };
    let [first, others @ ..] = account.creations.as_slice() else { return };
    let first = key(first);
    if others.iter().any(|record| first.is_none() || key(record) != first) {
        violations.push(Violation::CreatedTwice { id: id.to_owned() });
    }
}

/// Requests with one key return one user.
fn keys(index: &Index<'_>, violations: &mut Vec<Violation>) {
    let mut twice = Vec::new();
    for (key, acknowledged) in &index.keys {
        let Some((end, first)) = acknowledged.iter().min() else { continue };
        if let Some((_, second)) = acknowledged.iter().find(|(_, id)| id != first) {
            let (first, second) = ((*first).to_owned(), (*second).to_owned());
            twice.push((*key, Violation::KeyExecutedTwice { key: (*key).to_owned(), first, second, end: *end }));
        }
    }
    twice.sort_unstable_by_key(|(key, _)| *key);
    violations.extend(twice.into_iter().map(|(_, violation)| violation));
}

/// A user whose creation was not acknowledged was created by an attempt of unknown outcome: one user each, and with its
/// email.
fn phantoms(index: &Index<'_>, violations: &mut Vec<Violation>) {
    let mut attempts = unknown_attempts(index);
    let mut phantom = |id: &str, account: &Account<'_>, email: Option<&str>| {
        let is_refused = |attempt: &&Attempt<'_>| Some(attempt.email) == email && attempt.status.is_some();
        let status = index.attempts.iter().find(is_refused).and_then(|attempt| attempt.status);
        let version = account.users.first().map_or(1, |user| user.version);
        let (id, email) = (id.to_owned(), email.map(str::to_owned));
        violations.push(match status {
            Some(status) => Violation::RefusedWithEffect { id, version, status },
            None => Violation::Phantom { id, email },
        });
    };
    let mut erased = Vec::new();
    for (id, account) in &index.accounts {
        if !account.creations.is_empty() || !account.has_existed() {
            continue;
        }
        match first_email(account) {
            None => erased.push((id, account)),
            Some(email) => match attempts.get_mut(email) {
                Some(count @ 1..) => *count -= 1,
                _ => phantom(id, account, Some(email)),
            },
        }
    }
    // A user whose first email is not known fits every attempt that is left.
    let left = attempts.values().sum();
    for (id, account) in erased.into_iter().skip(left) {
        phantom(id, account, None);
    }
}

/// Returns how many users attempts of unknown outcome can have created, by email.
fn unknown_attempts<'a>(index: &Index<'a>) -> HashMap<&'a str, usize> {
    let mut keys = HashSet::new();
    let mut attempts: HashMap<&str, usize> = HashMap::new();
    for attempt in index.attempts.iter().filter(|attempt| attempt.status.is_none()) {
        // All attempts with a key create one user.
        if attempt.key.is_none_or(|key| !index.keys.contains_key(key) && keys.insert(key)) {
            *attempts.entry(attempt.email).or_default() += 1;
        }
    }
    attempts
}

/// Returns the email that the user was created with, if it is known.
fn first_email<'a>(account: &Account<'a>) -> Option<&'a str> {
    let created = account.events.iter().find(|event| event.version == 1);
    let user = account.users.iter().find(|user| user.version == 1);
    created.and_then(|event| event.email.as_deref()).or(user.map(|user| user.email.as_str()))
}
