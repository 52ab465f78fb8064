//! The records of a history by user, with what exists of each user at the end.

use std::collections::{BTreeMap, HashMap};

use crate::{Event, FinalState, Operation, Outcome, Record, User};

/// Whether an acknowledged change made the version that it returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It did.
    Certain,
    /// It did, or it changed nothing and found the version.
    Possible,
    /// It changed nothing.
    Nothing,
}

/// An acknowledged creation or update: the user had these values at this version.
#[derive(Clone, Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) version: i64,
    pub(crate) effect: Effect,
    pub(crate) expected: Option<i64>,
    pub(crate) name: Option<&'a str>,
    pub(crate) email: Option<&'a str>,
    /// When the update began; `None` for a creation, which may have been executed by an earlier attempt.
    pub(crate) start: Option<u64>,
    pub(crate) end: u64,
}

/// An update that may have taken effect.
#[derive(Clone, Debug)]
pub(crate) struct Update<'a> {
    pub(crate) expected: Option<i64>,
    pub(crate) name: Option<&'a str>,
    pub(crate) email: Option<&'a str>,
    pub(crate) start: u64,
}

/// A deletion that has or may have taken effect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deletion {
    pub(crate) expected: Option<i64>,
    pub(crate) start: u64,
    /// When it was acknowledged; `None` if its outcome is unknown.
    pub(crate) end: Option<u64>,
}

/// A refused update or deletion.
#[derive(Clone, Debug)]
pub(crate) struct Refusal<'a> {
    pub(crate) record: &'a Record,
    pub(crate) expected: Option<i64>,
    pub(crate) status: u16,
}

/// All about a user.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account<'a> {
    /// By version, and of a version in the order of their ends.
    pub(crate) claims: Vec<Claim<'a>>,
    pub(crate) unknown: Vec<Update<'a>>,
    pub(crate) deletions: Vec<Deletion>,
    pub(crate) refusals: Vec<Refusal<'a>>,
    /// The acknowledged creations.
    pub(crate) creations: Vec<&'a Record>,
    /// The user at the end: one, if the list is right.
    pub(crate) users: Vec<&'a User>,
    /// In the order of the feed.
    pub(crate) events: Vec<&'a Event>,
}

impl Account<'_> {
    /// Returns whether the user is known to have existed.
    pub(crate) fn has_existed(&self) -> bool {
        let is_deleted = self.deletions.iter().any(|deletion| deletion.end.is_some());
        is_deleted || !(self.claims.is_empty() && self.users.is_empty() && self.events.is_empty())
    }

    /// Returns when the first deletion began that was acknowledged or has an unknown outcome.
    pub(crate) fn first_deletion(&self) -> Option<u64> {
        self.deletions.iter().map(|deletion| deletion.start).min()
    }
}

/// A creation that was refused or has an unknown outcome.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt<'a> {
    pub(crate) email: &'a str,
    pub(crate) key: Option<&'a str>,
    /// The status of the refusal.
    pub(crate) status: Option<u16>,
    pub(crate) end: u64,
}

/// A history, ordered by user.
#[derive(Debug)]
pub(crate) struct Index<'a> {
    pub(crate) records: &'a [Record],
    pub(crate) users: &'a [User],
    pub(crate) events: &'a [Event],
    pub(crate) accounts: BTreeMap<&'a str, Account<'a>>,
    /// Creations that are not acknowledged.
    pub(crate) attempts: Vec<Attempt<'a>>,
    /// The acknowledged creations of each idempotency key: when, and the id.
    pub(crate) keys: HashMap<&'a str, Vec<(u64, &'a str)>>,
}

impl<'a> Index<'a> {
    pub(crate) fn new(records: &'a [Record], state: &'a FinalState, events: &'a [Event]) -> Self {
        let (accounts, attempts, keys) = Default::default();
        let mut index = Self { records, users: &state.0, events, accounts, attempts, keys };
        for record in records {
            match &record.operation {
                Operation::Create { email, key, .. } => index.add_creation(record, email, key.as_deref()),
                Operation::Update { id, expected, name, email } => {
                    let update = Update {
                        expected: *expected,
                        name: name.as_deref(),
                        email: email.as_deref(),
                        start: record.start,
                    };
                    index.account(id).add_update(record, update);
                }
                Operation::Delete { id, expected } => index.account(id).add_deletion(record, *expected),
            }
        }
        for user in &state.0 {
            index.account(&user.id).users.push(user);
        }
        for event in events {
            index.account(&event.id).events.push(event);
        }
        for account in index.accounts.values_mut() {
            account.claim_creation();
            account.claims.sort_by_key(|claim| (claim.version, claim.end));
        }
        index
    }

    fn account(&mut self, id: &'a str) -> &mut Account<'a> {
        self.accounts.entry(id).or_default()
    }

    fn add_creation(&mut self, record: &'a Record, email: &'a str, key: Option<&'a str>) {
        let status = match &record.outcome {
            Outcome::Acknowledged { id, .. } => {
                if let Some(key) = key {
                    self.keys.entry(key).or_default().push((record.end(), id));
                }
                return self.account(id).creations.push(record);
            }
            Outcome::Refused { status } => Some(*status),
            Outcome::Unknown => None,
        };
        self.attempts.push(Attempt { email, key, status, end: record.end() });
    }
}

impl<'a> Account<'a> {
    fn add_update(&mut self, record: &'a Record, update: Update<'a>) {
        let Update { expected, name, email, start } = update;
        match record.outcome {
            Outcome::Acknowledged { version: Some(version), .. } => {
                let effect = match expected {
                    Some(expected) if expected == version => Effect::Nothing,
                    Some(expected) if expected.checked_add(1) == Some(version) => Effect::Certain,
                    _ => Effect::Possible,
                };
                let (start, end) = (Some(start), record.end());
                self.claims.push(Claim { version, effect, expected, name, email, start, end });
            }
            Outcome::Acknowledged { .. } | Outcome::Unknown => self.unknown.push(update),
            Outcome::Refused { status } => self.refusals.push(Refusal { record, expected, status }),
        }
    }

    fn add_deletion(&mut self, record: &'a Record, expected: Option<i64>) {
        let end = match record.outcome {
            Outcome::Acknowledged { .. } => Some(record.end()),
            Outcome::Unknown => None,
            Outcome::Refused { status } => return self.refusals.push(Refusal { record, expected, status }),
        };
        self.deletions.push(Deletion { expected, start: record.start, end });
    }

    /// Adds one claim for all attempts with the same key: the user existed when the first of them was acknowledged.
    fn claim_creation(&mut self) {
        let Some(first) = self.creations.iter().min_by_key(|record| record.end()) else { return };
        if let (Operation::Create { name, email, .. }, Outcome::Acknowledged { version, .. }) =
            (&first.operation, &first.outcome)
        {
            let (name, email) = (Some(name.as_str()), Some(email.as_str()));
            let (effect, version) = (Effect::Certain, version.unwrap_or(1));
            self.claims.push(Claim { version, effect, expected: None, name, email, start: None, end: first.end() });
        }
    }
}
