//! A refusal has a reason.

use std::collections::HashMap;

use crate::{
    Operation, Outcome, Violation,
    index::{Account, Index, Refusal},
    rules::canonical,
};

/// A change is not refused for a missing user (404) that surely exists, nor for its version (412) if the user surely
/// has the expected one.
pub(super) fn apply(id: &str, account: &Account<'_>, violations: &mut Vec<Violation>) {
    if account.refusals.is_empty() {
        return;
    }
    let first_end = account.claims.iter().map(|claim| claim.end).min();
    let deletion = account.first_deletion().unwrap_or(u64::MAX);
    let unknown = account.unknown.iter().map(|update| update.start).min().unwrap_or(u64::MAX);
    // For each claim, when the first change began that made its version or a later one.
    let mut starts: Vec<u64> = vec![u64::MAX; account.claims.len() + 1];
    for (at, claim) in account.claims.iter().enumerate().rev() {
        starts[at] = starts[at + 1].min(claim.start.unwrap_or(0));
    }
    let existed_since = |refusal: &Refusal<'_>| {
        let Refusal { record, expected, status } = refusal;
        let end = match (status, expected) {
            (404, _) => first_end?,
            (412, Some(expected)) => {
                let at = account.claims.partition_point(|claim| claim.version < *expected);
                let claim = account.claims.get(at).filter(|claim| claim.version == *expected)?;
                let next = account.claims.partition_point(|claim| claim.version <= *expected);
                let change = starts[next].min(unknown);
                (change > record.end()).then_some(claim.end)?
            }
            _ => return None,
        };
        (end < record.start && deletion > record.end()).then_some(end)
    };
    for refusal in &account.refusals {
        if let Some(end) = existed_since(refusal) {
            let (id, status) = (id.to_owned(), refusal.status);
            violations.push(Violation::RefusedWithoutReason { id, status, end });
        }
    }
}

/// A creation without an idempotency key is refused with 409 only if another operation gave its email to a user.
pub(super) fn apply_to_creations(index: &Index<'_>, violations: &mut Vec<Violation>) {
    let mut uses: HashMap<String, u64> = HashMap::new();
    for record in index.records.iter().filter(|record| !matches!(record.outcome, Outcome::Refused { .. })) {
        if let Operation::Create { email, .. } | Operation::Update { email: Some(email), .. } = &record.operation {
            let first = uses.entry(canonical(email)).or_insert(record.start);
            *first = record.start.min(*first);
        }
    }
    // Another notation of the same address can be in use.
    let is_plain = |email: &str| email.is_ascii() && !canonical(email).contains("xn--");
    for attempt in index.attempts.iter().filter(|attempt| attempt.key.is_none() && is_plain(attempt.email)) {
        if attempt.status == Some(409) && uses.get(&canonical(attempt.email)).is_none_or(|start| *start > attempt.end) {
            violations.push(Violation::EmailNotTaken { email: attempt.email.to_owned(), status: 409 });
        }
    }
}
