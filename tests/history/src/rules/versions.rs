//! The versions of a user are unique, ascend, and are made by one change each.

use std::collections::HashSet;

use crate::{
    Violation,
    index::{Account, Claim, Effect},
};

pub(super) fn apply(id: &str, account: &Account<'_>, violations: &mut Vec<Violation>) {
    wrong_versions(id, account, violations);
    backwards(id, account, violations);
    unexplained(id, account, violations);
}

/// A creation makes version 1, and a conditional update the one after the expected version.
fn wrong_versions(id: &str, account: &Account<'_>, violations: &mut Vec<Violation>) {
    let mut wrong =
        |expected, version| violations.push(Violation::WrongVersion { id: id.to_owned(), expected, version });
    for claim in account.claims.iter().filter(|claim| claim.start.is_none() && claim.version != 1) {
        wrong(1, claim.version);
    }
    for claim in account.claims.iter().filter(|claim| claim.start.is_some()) {
        match claim.expected {
            Some(expected) if claim.effect == Effect::Possible => wrong(expected.saturating_add(1), claim.version),
            None if claim.version < 1 => wrong(1, claim.version),
            _ => {}
        }
    }
}

/// A change that begins after the end of another one finds its version or a later one.
fn backwards(id: &str, account: &Account<'_>, violations: &mut Vec<Violation>) {
    let mut by_end: Vec<_> = account.claims.iter().collect();
    by_end.sort_unstable_by_key(|claim| claim.end);
    let mut by_start: Vec<_> = account.claims.iter().filter_map(|claim| Some((claim.start?, claim))).collect();
    by_start.sort_unstable_by_key(|(start, _)| *start);
    let mut ended = by_end.into_iter().peekable();
    let mut highest: Option<&Claim<'_>> = None;
    for (start, claim) in by_start {
        while let Some(earlier) = ended.next_if(|earlier| earlier.end < start) {
            if highest.is_none_or(|highest| earlier.version > highest.version) {
                highest = Some(earlier);
            }
        }
        if let Some(before) = highest.filter(|highest| highest.version > claim.version) {
            violations.push(Violation::VersionBackwards {
                id: id.to_owned(),
                before: before.version,
                after: claim.version,
                end: before.end,
                may_be_stale: claim.effect != Effect::Certain,
            });
        }
    }
}

/// Versions that no acknowledged change made were made by changes of unknown outcome: one each, and a conditional
/// update only the one after the expected version.
fn unexplained(id: &str, account: &Account<'_>, violations: &mut Vec<Violation>) {
    let last = account.users.iter().map(|user| user.version).chain(account.claims.last().map(|claim| claim.version));
    let Some(last) = last.max() else { return };
    let is_update = |version: i64| (2..=last).contains(&version);
    let made = account.claims.iter().filter(|claim| claim.effect != Effect::Nothing && is_update(claim.version));
    let made: HashSet<i64> = made.map(|claim| claim.version).collect();
    let conditional = account.unknown.iter().filter_map(|update| update.expected?.checked_add(1));
    let conditional: HashSet<i64> =
        conditional.filter(|version| is_update(*version) && !made.contains(version)).collect();
    let unconditional = account.unknown.iter().filter(|update| update.expected.is_none()).count();
    let (acknowledged, unknown) = (made.len() as u64, (conditional.len() + unconditional) as u64);
    if last.saturating_sub(1).max(0).unsigned_abs() > acknowledged + unknown {
        violations.push(Violation::UnexplainedVersion { id: id.to_owned(), version: last, acknowledged, unknown });
    }
}
