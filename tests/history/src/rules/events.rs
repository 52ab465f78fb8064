//! The feed has the changes that were made, and no others.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    Event, EventKind, Violation,
    index::{Account, Effect, Update},
    rules::refused_with_effect,
};

pub(super) fn apply(id: &str, account: &Account<'_>, violations: &mut Vec<Violation>) {
    let mut events: BTreeMap<i64, &Event> = BTreeMap::new();
    for event in &account.events {
        events.entry(event.version).or_insert(event);
    }
    missing(id, account, &events, violations);
    for event in unexplained(account, &events) {
        let (version, kind, position) = (event.version, event.kind, event.position);
        let refusal = refused_with_effect(id, account, version, kind == EventKind::Deleted);
        violations.push(refusal.unwrap_or(Violation::UnexplainedEvent { id: id.to_owned(), version, kind, position }));
    }
    disagreement(id, account, violations);
}

/// Each acknowledged change has an event.
fn missing(id: &str, account: &Account<'_>, events: &BTreeMap<i64, &Event>, violations: &mut Vec<Violation>) {
    let mut miss = |version, end| violations.push(Violation::MissingEvent { id: id.to_owned(), version, end });
    for claims in account.claims.chunk_by(|one, other| one.version == other.version) {
        let (version, end) = (claims[0].version, claims[0].end);
        if events.get(&version).is_none_or(|event| event.kind == EventKind::Deleted) {
            miss(Some(version), end);
        }
    }
    let deletion = account.deletions.iter().filter_map(|deletion| deletion.end).min();
    if let Some(end) = deletion.filter(|_| events.values().all(|event| event.kind != EventKind::Deleted)) {
        miss(None, end);
    }
}

/// Returns the updates and deletions that no operation can have made. The creations are the matter of another rule.
fn unexplained<'a>(account: &Account<'_>, events: &BTreeMap<i64, &'a Event>) -> Vec<&'a Event> {
    let made = account.claims.iter().filter(|claim| claim.effect != Effect::Nothing).map(|claim| claim.version);
    let made: HashSet<i64> = made.collect();
    let mut candidates = Candidates::new(&account.unknown);
    let mut is_explained = |event: &Event| match event.kind {
        EventKind::Created => true,
        EventKind::Updated => made.contains(&event.version) || candidates.explain(event),
        EventKind::Deleted => account
            .deletions
            .iter()
            .any(|deletion| deletion.expected.is_none_or(|expected| expected.checked_add(1) == Some(event.version))),
    };
    events.values().copied().filter(|event| !is_explained(event)).collect()
}

/// The updates of unknown outcome that can explain an event.
struct Candidates<'a> {
    by_expected: HashMap<i64, Vec<&'a Update<'a>>>,
    /// The values that updates without an expected version set.
    values: HashSet<(Option<&'a str>, Option<&'a str>)>,
    /// How many of these updates explain no event yet. An update makes one version.
    unconditional: usize,
}

impl<'a> Candidates<'a> {
    fn new(updates: &'a [Update<'a>]) -> Self {
        let mut by_expected: HashMap<i64, Vec<&Update<'_>>> = HashMap::new();
        let mut values = HashSet::new();
        let mut unconditional = 0;
        for update in updates {
            if let Some(expected) = update.expected {
                by_expected.entry(expected).or_default().push(update);
            } else {
                values.insert((update.name, update.email));
                unconditional += 1;
            }
        }
        Self { by_expected, values, unconditional }
    }

    /// Returns whether an update can have made the change, and takes it if it could have made another one as well.
    fn explain(&mut self, event: &Event) -> bool {
        let (name, email) = (event.name.as_deref(), event.email.as_deref());
        let fits = |set: Option<&str>, found: Option<&str>| set.is_none() || found.is_none() || set == found;
        let conditional = event.version.checked_sub(1).and_then(|expected| self.by_expected.get(&expected));
        if conditional.is_some_and(|updates| updates.iter().any(|it| fits(it.name, name) && fits(it.email, email))) {
            return true;
        }
        let is_erased = name.is_none() && email.is_none();
        let sets = [(name, email), (name, None), (None, email), (None, None)];
        let is_possible = self.unconditional > 0 && (is_erased || sets.iter().any(|set| self.values.contains(set)));
        if is_possible {
            self.unconditional -= 1;
        }
        is_possible
    }
}

/// The last event of a user has the values that exist.
fn disagreement(id: &str, account: &Account<'_>, violations: &mut Vec<Violation>) {
    let last = account.events.last().filter(|event| event.kind != EventKind::Deleted);
    let user = account.users.first();
    let agrees = match (last, user) {
        (None, None) => true,
        (Some(event), Some(user)) => {
            event.version == user.version
                && event.name.as_ref().is_none_or(|name| *name == user.name)
                && event.email.as_ref().is_none_or(|email| *email == user.email)
        }
        _ => false,
    };
    if !agrees {
        let (event, state) = (last.map(|event| event.version), user.map(|user| user.version));
        violations.push(Violation::FeedDisagrees { id: id.to_owned(), event, state });
    }
}
