//! No two users have the same email at the same time.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    Violation,
    index::{Account, Index},
    rules::canonical,
};

pub(super) fn apply(index: &Index<'_>, violations: &mut Vec<Violation>) {
    at_the_end(index, violations);
    for (email, mut holds) in holds(index) {
        holds.sort_unstable_by_key(|hold| (hold.from, hold.id));
        shared(&email, &holds, violations);
    }
}

fn at_the_end(index: &Index<'_>, violations: &mut Vec<Violation>) {
    let mut owners: HashMap<String, &str> = HashMap::new();
    for user in index.users {
        let first = *owners.entry(canonical(&user.email)).or_insert(&user.id);
        if first != user.id {
            let (first, second) = (first.to_owned(), user.id.clone());
            violations.push(Violation::DoubleEmail { email: user.email.clone(), first, second });
        }
    }
}

/// A time during which a user surely had an email: from the end of the change that gave it, or found it, to the start
/// of the first change that can have taken it away.
#[derive(Clone, Copy, Debug)]
struct Hold<'a> {
    id: &'a str,
    from: u64,
    until: u64,
}

/// The earliest start of changes to an email, and of changes to any other one.
#[derive(Clone, Debug, Default)]
struct Earliest {
    first: Option<(u64, String)>,
    other: Option<(u64, String)>,
}

impl Earliest {
    fn add(&mut self, start: u64, email: &str) {
        let email = canonical(email);
        match &mut self.first {
            Some((first, same)) if *same == email => *first = start.min(*first),
            Some((first, _)) if start < *first => self.other = self.first.replace((start, email)),
            Some(_) if self.other.as_ref().is_none_or(|(other, _)| start < *other) => self.other = Some((start, email)),
            Some(_) => {}
            None => self.first = Some((start, email)),
        }
    }

    /// Returns the earliest start of a change to another email than this one.
    fn except(&self, email: &str) -> u64 {
        let others = [&self.first, &self.other].into_iter().flatten().filter(|(_, other)| other != email);
        others.map(|(start, _)| *start).min().unwrap_or(u64::MAX)
    }
}

fn holds<'a>(index: &Index<'a>) -> BTreeMap<String, Vec<Hold<'a>>> {
    let mut holds: BTreeMap<String, Vec<Hold<'_>>> = BTreeMap::new();
    for (id, account) in &index.accounts {
        for (email, from, until) in holds_of(account) {
            holds.entry(email).or_default().push(Hold { id, from, until });
        }
    }
    holds
}

fn holds_of(account: &Account<'_>) -> Vec<(String, u64, u64)> {
    let mut unknown = Earliest::default();
    for update in &account.unknown {
        update.email.iter().for_each(|email| unknown.add(update.start, email));
    }
    let deletion = account.first_deletion().unwrap_or(u64::MAX);
    let mut later = Earliest::default();
    let mut holds = Vec::new();
    // From the last version to the first, so that `later` has the changes after each.
    for claims in account.claims.chunk_by(|one, other| one.version == other.version).rev() {
        for claim in claims {
            if let Some(email) = claim.email.map(canonical) {
                let until = deletion.min(unknown.except(&email)).min(later.except(&email));
                if claim.end < until {
                    holds.push((email, claim.end, until));
                }
            }
        }
        for claim in claims {
            claim.start.zip(claim.email).iter().for_each(|(start, email)| later.add(*start, email));
        }
    }
    holds
}

/// Reports each pair of users once.
fn shared(email: &str, holds: &[Hold<'_>], violations: &mut Vec<Violation>) {
    let mut pairs = HashSet::new();
    // The longest holds so far, of two different users.
    let mut longest: [Option<Hold<'_>>; 2] = [None, None];
    for hold in holds {
        let rivals = longest.iter().flatten().filter(|other| other.id != hold.id && other.until > hold.from);
        for rival in rivals {
            if pairs.insert((rival.id.min(hold.id), rival.id.max(hold.id))) {
                let (first, second) = (rival.id.to_owned(), hold.id.to_owned());
                let email = email.to_owned();
                violations.push(Violation::EmailSharedOnce { email, first, second, end: rival.from });
            }
        }
        longest = with(longest, *hold);
    }
}

/// Adds a hold to the longest of two different users.
fn with<'a>([first, second]: [Option<Hold<'a>>; 2], hold: Hold<'a>) -> [Option<Hold<'a>>; 2] {
    let longer = |one: Hold<'a>, other: Option<Hold<'a>>| other.filter(|other| other.until > one.until).unwrap_or(one);
    let Some(leader) = first else { return [Some(hold), second] };
    if leader.id == hold.id {
        [Some(longer(leader, Some(hold))), second]
    } else if hold.until > leader.until {
        [Some(hold), first]
    } else {
        [first, Some(longer(hold, second))]
    }
}
