//! Faults of refused operations: some took effect, others were refused without a reason.

use history::{Operation, Outcome, Record, User, Violation};

use crate::{
    fault::{acknowledged, must_find, rename, target},
    random::Random,
    simulation::World,
};

const CREATED: &str = "planted";

fn is_refused(record: &Record) -> bool {
    matches!(record.outcome, Outcome::Refused { .. })
}

#[test]
fn a_refused_creation_with_effect_is_found() {
    must_find(
        |world, random| {
            let is_creation = |record: &Record| matches!(record.operation, Operation::Create { .. });
            let at = world.pick(random, |record| is_refused(record) && is_creation(record))?;
            let Operation::Create { email, .. } = world.records[at].operation.clone() else { return None };
            let is_other = |record: &Record| match &record.operation {
                Operation::Create { email: other, .. } => *other == email && record.outcome == Outcome::Unknown,
                _ => false,
            };
            if world.records.iter().any(is_other) {
                return None;
            }
            world.create(CREATED, &email);
            Some(CREATED.to_owned())
        },
        |violation, user| matches!(violation, Violation::RefusedWithEffect { id, .. } if id == user),
    );
}

/// Returns the place of a user whose changes all have known outcomes, and that of a refused operation on it.
fn refused(world: &World, random: &mut Random, fits: impl Fn(&Operation) -> bool) -> Option<(usize, usize)> {
    let at = world.pick(random, |record| {
        is_refused(record)
            && fits(&record.operation)
            && target(record).is_some_and(|id| !world.has_unknown(id))
            && world.state.0.iter().any(|user| Some(user.id.as_str()) == target(record))
    })?;
    let user = world.state.0.iter().position(|user| Some(user.id.as_str()) == target(&world.records[at]))?;
    Some((at, user))
}

#[test]
fn a_refused_update_with_effect_is_found() {
    must_find(
        |world, random| {
            let (at, user) = refused(world, random, |operation| matches!(operation, Operation::Update { .. }))?;
            let User { id, version, .. } = world.state.0[user].clone();
            world.records[at].operation = rename(&id, Some(version), "Refused");
            world.change(user, "Refused");
            Some(id)
        },
        |violation, user| matches!(violation, Violation::RefusedWithEffect { id, .. } if id == user),
    );
}

#[test]
fn a_refused_deletion_with_effect_is_found() {
    must_find(
        |world, random| {
            let (at, user) = refused(world, random, |operation| matches!(operation, Operation::Delete { .. }))?;
            let User { id, version, .. } = world.state.0[user].clone();
            world.records[at].operation = Operation::Delete { id: id.clone(), expected: Some(version) };
            world.delete(user);
            Some(id)
        },
        |violation, user| matches!(violation, Violation::RefusedWithEffect { id, .. } if id == user),
    );
}

#[test]
fn a_refused_change_of_another_version_explains_nothing() {
    must_find(
        |world, random| {
            let at = world.pick_user(random, |user| !world.has_unknown(&user.id) && !world.has_refused(&user.id))?;
            let User { id, version, .. } = world.state.0[at].clone();
            world.push(rename(&id, Some(version + 1), "Changed"), Outcome::Refused { status: 412 });
            world.change(at, "Changed");
            Some(id)
        },
        |violation, user| matches!(violation, Violation::UnexplainedEvent { id, .. } if id == user),
    );
}

#[test]
fn a_404_for_an_existing_user_is_found() {
    must_find(
        |world, random| {
            let is_certain = |user: &User| !world.has_unknown(&user.id) && world.is_creation_acknowledged(&user.id);
            let at = world.pick_user(random, is_certain)?;
            let id = world.state.0[at].id.clone();
            world.push(rename(&id, None, "Refused"), Outcome::Refused { status: 404 });
            Some(id)
        },
        |violation, user| matches!(violation, Violation::RefusedWithoutReason { id, status: 404, .. } if id == user),
    );
}

#[test]
fn a_412_for_the_current_version_is_found() {
    must_find(
        |world, random| {
            let is_certain =
                |user: &User| !world.has_unknown(&user.id) && world.is_version_acknowledged(&user.id, user.version);
            let at = world.pick_user(random, is_certain)?;
            let User { id, version, .. } = world.state.0[at].clone();
            world.push(rename(&id, Some(version), "Refused"), Outcome::Refused { status: 412 });
            // A change that began later does not explain the refusal.
            world.push(rename(&id, Some(version), "Changed"), acknowledged(&id, version + 1));
            world.change(at, "Changed");
            Some(id)
        },
        |violation, user| matches!(violation, Violation::RefusedWithoutReason { id, status: 412, .. } if id == user),
    );
}

#[test]
fn a_409_for_a_free_email_is_found() {
    must_find(
        |world, _| {
            let email = "free@example.com".to_owned();
            let creation = Operation::Create { name: "Ann".to_owned(), email: email.clone(), key: None };
            world.push(creation.clone(), Outcome::Refused { status: 409 });
            // A creation that began later does not explain the refusal.
            world.push(creation, acknowledged(CREATED, 1));
            world.create(CREATED, &email);
            Some(email)
        },
        |violation, planted| matches!(violation, Violation::EmailNotTaken { email, .. } if email == planted),
    );
}
