//! The rules, each of which looks for some kinds of violations.

mod creations;
mod emails;
mod events;
mod feed;
mod presence;
pub(crate) mod readers;
mod refusals;
mod values;
mod versions;

use crate::{
    Operation, Outcome, Violation,
    index::{Account, Index, Refusal},
};

/// Applies all rules.
pub(crate) fn apply(index: &Index<'_>, violations: &mut Vec<Violation>) {
    creations::apply(index, violations);
    emails::apply(index, violations);
    refusals::apply_to_creations(index, violations);
    feed::apply(index.events, violations);
    for (id, account) in &index.accounts {
        presence::apply(id, account, violations);
        versions::apply(id, account, violations);
        values::apply(id, account, violations);
        refusals::apply(id, account, violations);
        events::apply(id, account, violations);
    }
    responses(index, violations);
}

/// The response to a change is about its user.
fn responses(index: &Index<'_>, violations: &mut Vec<Violation>) {
    for record in index.records {
        let (Operation::Update { id: requested, .. } | Operation::Delete { id: requested, .. }) = &record.operation
        else {
            continue;
        };
        if let Outcome::Acknowledged { id: found, .. } = &record.outcome
            && found != requested
        {
            violations.push(Violation::WrongUser { requested: requested.clone(), found: found.clone() });
        }
    }
}

/// Returns the violation of a change that no operation explains: a refused update or deletion of the user took effect,
/// if there is one for the version before.
fn refused_with_effect(id: &str, account: &Account<'_>, version: i64, is_deletion: bool) -> Option<Violation> {
    let is_candidate = |refusal: &&Refusal<'_>| {
        matches!(refusal.record.operation, Operation::Delete { .. }) == is_deletion
            && refusal.expected.is_none_or(|expected| expected.checked_add(1) == Some(version))
    };
    let refusal = account.refusals.iter().find(is_candidate)?;
    Some(Violation::RefusedWithEffect { id: id.to_owned(), version, status: refusal.status })
}

/// Returns the form in which emails are compared.
fn canonical(email: &str) -> String {
    email.to_lowercase()
}
