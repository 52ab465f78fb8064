//! Faults of the users at the end: lost, old and resurrected ones.

use history::{Operation, User, Violation};

use crate::fault::{acknowledged, is_acknowledged, must_find, rename, target};

fn is_deletion(record: &history::Record) -> bool {
    is_acknowledged(record) && matches!(record.operation, Operation::Delete { .. })
}

#[test]
fn a_lost_creation_is_found() {
    must_find(
        |world, random| {
            let is_certain = |user: &User| world.is_creation_acknowledged(&user.id) && !world.has_unknown(&user.id);
            let at = world.pick_user(random, is_certain)?;
            let id = world.state.0[at].id.clone();
            world.remove(&id);
            Some(id)
        },
        |violation, user| matches!(violation, Violation::LostWrite { id, .. } if id == user),
    );
}

#[test]
fn a_lost_write_is_found_if_an_unknown_deletion_was_of_an_earlier_version() {
    must_find(
        |world, random| {
            let is_certain = |user: &User| {
                world.is_version_acknowledged(&user.id, user.version)
                    && user.version > 1
                    && !world.has_unknown(&user.id)
            };
            let at = world.pick_user(random, is_certain)?;
            let User { id, version, .. } = world.state.0[at].clone();
            let deletion = Operation::Delete { id: id.clone(), expected: Some(version - 1) };
            world.push(deletion, history::Outcome::Unknown);
            world.remove(&id);
            Some(id)
        },
        |violation, user| matches!(violation, Violation::LostWrite { id, .. } if id == user),
    );
}

#[test]
fn a_final_state_older_than_acknowledged_is_found() {
    must_find(
        |world, random| {
            let is_certain = |user: &User| user.version > 1 && world.is_version_acknowledged(&user.id, user.version);
            let at = world.pick_user(random, is_certain)?;
            let user = &mut world.state.0[at];
            user.version -= 1;
            Some(user.id.clone())
        },
        |violation, user| matches!(violation, Violation::Outdated { id, .. } if id == user),
    );
}

#[test]
fn a_resurrected_user_is_found() {
    must_find(
        |world, random| {
            let at = world.pick(random, is_deletion)?;
            let id = target(&world.records[at])?.to_owned();
            let (name, email) = ("Ann".to_owned(), "resurrected@example.com".to_owned());
            world.state.0.push(User { id: id.clone(), name, email, version: 1 });
            Some(id)
        },
        |violation, user| matches!(violation, Violation::Resurrected { id, .. } if id == user),
    );
}

#[test]
fn a_second_deletion_is_found() {
    must_find(
        |world, random| {
            let at = world.pick(random, is_deletion)?;
            let record = world.records[at].clone();
            world.push(record.operation.clone(), record.outcome.clone());
            Some(target(&record)?.to_owned())
        },
        |violation, user| matches!(violation, Violation::DeletedTwice { id, .. } if id == user),
    );
}

#[test]
fn a_write_after_the_deletion_is_found() {
    must_find(
        |world, random| {
            let at = world.pick(random, is_deletion)?;
            let id = target(&world.records[at])?.to_owned();
            world.push(rename(&id, None, "Late"), acknowledged(&id, 900));
            Some(id)
        },
        |violation, user| matches!(violation, Violation::WriteAfterDeletion { id, version: 900, .. } if id == user),
    );
}

#[test]
fn a_deletion_of_an_overwritten_version_is_found() {
    must_find(
        |world, random| {
            let is_certain = |user: &User| user.version > 1 && world.is_version_acknowledged(&user.id, user.version);
            let at = world.pick_user(random, is_certain)?;
            let User { id, version, .. } = world.state.0[at].clone();
            world.delete(at);
            let deletion = Operation::Delete { id: id.clone(), expected: Some(version - 1) };
            world.push(deletion, history::Outcome::Acknowledged { status: 204, id: id.clone(), version: None });
            Some(id)
        },
        |violation, user| matches!(violation, Violation::WriteAfterDeletion { id, .. } if id == user),
    );
}

#[test]
fn a_user_that_is_listed_twice_is_found() {
    must_find(
        |world, random| {
            let at = world.pick_user(random, |_| true)?;
            let user = world.state.0[at].clone();
            world.state.0.push(user.clone());
            Some(user.id)
        },
        |violation, user| matches!(violation, Violation::ListedTwice { id } if id == user),
    );
}

#[test]
fn overwritten_values_are_found() {
    must_find(
        |world, random| {
            let is_named = |operation: &Operation| {
                matches!(operation, Operation::Create { .. } | Operation::Update { name: Some(_), .. })
            };
            let is_certain = |user: &User| {
                let fits = |operation: &Operation, version| version == Some(user.version) && is_named(operation);
                world.has_acknowledged(&user.id, fits)
            };
            let at = world.pick_user(random, is_certain)?;
            let user = &mut world.state.0[at];
            "Overwritten".clone_into(&mut user.name);
            Some(user.id.clone())
        },
        |violation, user| matches!(violation, Violation::ValuesDiffer { id, is_event: false, .. } if id == user),
    );
}
