//! Each version of a user has one set of values: those that its change gave it.

use crate::{
    Violation,
    index::{Account, Claim, Effect},
};

/// A value, and when the change that gave it was acknowledged.
type Value<'a> = Option<(&'a str, u64)>;

/// What is known of a version.
#[derive(Clone, Copy, Debug)]
struct Values<'a> {
    version: i64,
    name: Value<'a>,
    email: Value<'a>,
}

pub(super) fn apply(id: &str, account: &Account<'_>, violations: &mut Vec<Violation>) {
    let mut known: Vec<Values<'_>> = Vec::new();
    for claims in account.claims.chunk_by(|one, other| one.version == other.version) {
        if let Some(values) = of_version(claims, known.last()) {
            known.push(values);
        } else {
            let (version, end) = (claims[0].version, claims[0].end);
            violations.push(Violation::LostUpdate { id: id.to_owned(), version, end });
        }
    }
    let find = |version: i64| known.binary_search_by_key(&version, |values| values.version).ok().map(|at| known[at]);
    for user in &account.users {
        if let Some(values) = find(user.version) {
            let found = (Some(user.name.as_str()), Some(user.email.as_str()));
            compare(id, values, found, false, violations);
        }
    }
    for event in &account.events {
        if let Some(values) = find(event.version) {
            compare(id, values, (event.name.as_deref(), event.email.as_deref()), true, violations);
        }
    }
}

/// Returns the values that the changes which returned a version agree on, or `None` if they contradict each other.
fn of_version<'a>(claims: &[Claim<'a>], previous: Option<&Values<'a>>) -> Option<Values<'a>> {
    let version = claims.first()?.version;
    let mut writers = claims.iter().filter(|claim| claim.effect == Effect::Certain);
    let writer = writers.next();
    if writers.next().is_some() {
        return None;
    }
    let mut name = one_value(claims, |claim| claim.name)?;
    let mut email = one_value(claims, |claim| claim.email)?;
    // What the change left as it was comes from the version before.
    let previous = previous.filter(|previous| previous.version.checked_add(1) == Some(version));
    if let (Some(writer), Some(previous)) = (writer, previous) {
        if writer.name.is_none() {
            name = name.or(previous.name);
        }
        if writer.email.is_none() {
            email = email.or(previous.email);
        }
    }
    Some(Values { version, name, email })
}

/// Returns the value that all of these changes give, if any does, or `None` if they differ.
fn one_value<'a>(claims: &[Claim<'a>], field: impl Fn(&Claim<'a>) -> Option<&'a str>) -> Option<Value<'a>> {
    let mut values = claims.iter().filter_map(|claim| Some((field(claim)?, claim.end)));
    let first = values.next();
    values.all(|(value, _)| first.is_some_and(|(first, _)| first == value)).then_some(first)
}

fn compare(
    id: &str,
    values: Values<'_>,
    (name, email): (Option<&str>, Option<&str>),
    is_event: bool,
    violations: &mut Vec<Violation>,
) {
    for (known, found) in [(values.name, name), (values.email, email)] {
        if let (Some((expected, end)), Some(found)) = (known, found)
            && expected != found
        {
            violations.push(Violation::ValuesDiffer {
                id: id.to_owned(),
                version: values.version,
                expected: expected.to_owned(),
                found: found.to_owned(),
                is_event,
                end,
            });
        }
    }
}
