//! Acknowledged changes are there at the end, and acknowledged deletions are final.

use crate::{
    Violation,
    index::{Account, Deletion, Effect},
};

pub(super) fn apply(id: &str, account: &Account<'_>, violations: &mut Vec<Violation>) {
    match account.users.as_slice() {
        [] => lost_writes(id, account, violations),
        [user, others @ ..] => {
            let older = account.claims.iter().filter(|claim| claim.version > user.version);
            violations.extend(older.map(|claim| Violation::Outdated {
                id: id.to_owned(),
                version: user.version,
                acknowledged: claim.version,
                end: claim.end,
            }));
            violations.extend(others.iter().map(|user| Violation::ListedTwice { id: user.id.clone() }));
        }
    }
    deletions(id, account, violations);
}

/// A user that does not exist was deleted, at the last acknowledged version or later.
fn lost_writes(id: &str, account: &Account<'_>, violations: &mut Vec<Violation>) {
    let Some(last) = account.claims.last() else { return };
    // An acknowledged deletion of an earlier version is reported by the rule for deletions.
    let explains = |deletion: &Deletion| {
        deletion.end.is_some() || deletion.expected.is_none_or(|expected| expected >= last.version)
    };
    if !account.deletions.iter().any(explains) {
        violations.extend(account.claims.iter().map(|claim| Violation::LostWrite {
            id: id.to_owned(),
            version: claim.version,
            end: claim.end,
        }));
    }
}

fn deletions(id: &str, account: &Account<'_>, violations: &mut Vec<Violation>) {
    let acknowledged = account.deletions.iter().filter_map(|deletion| Some((deletion.end?, deletion.expected)));
    let mut acknowledged: Vec<(u64, Option<i64>)> = acknowledged.collect();
    acknowledged.sort_unstable();
    let Some(&(end, expected)) = acknowledged.first() else { return };
    if acknowledged.len() > 1 {
        violations.push(Violation::DeletedTwice { id: id.to_owned(), end });
    }
    if !account.users.is_empty() {
        violations.push(Violation::Resurrected { id: id.to_owned(), end });
    }
    for claim in &account.claims {
        let is_later = claim.start.is_some_and(|start| start > end);
        let is_beyond = expected.is_some_and(|expected| claim.version > expected);
        if is_later || is_beyond {
            violations.push(Violation::WriteAfterDeletion {
                id: id.to_owned(),
                version: claim.version,
                // If both overlapped, the change was lost before the deletion.
                end: if is_later { end } else { claim.end },
                may_be_stale: is_later && !is_beyond && claim.effect != Effect::Certain,
            });
        }
    }
}
