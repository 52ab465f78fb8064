//! Faults of versions: lost updates, and versions that no change made.

use history::{Operation, Outcome, Violation};

use crate::fault::{acknowledged, made_version, must_find, rename, target};

#[test]
fn two_updates_of_one_version_are_found() {
    must_find(
        |world, random| {
            let at = world.pick(random, |record| made_version(record).is_some())?;
            let record = world.records[at].clone();
            world.push(record.operation.clone(), record.outcome.clone());
            Some(target(&record)?.to_owned())
        },
        |violation, user| matches!(violation, Violation::LostUpdate { id, .. } if id == user),
    );
}

#[test]
fn a_lost_update_without_an_expected_version_is_found() {
    must_find(
        |world, random| {
            let is_named = |operation: &Operation| matches!(operation, Operation::Update { name: Some(_), .. });
            let at = world.pick(random, |record| made_version(record).is_some() && is_named(&record.operation))?;
            let record = &world.records[at];
            let (id, version) = (target(record)?.to_owned(), made_version(record)?);
            world.push(rename(&id, None, "Other"), acknowledged(&id, version));
            Some(id)
        },
        |violation, user| matches!(violation, Violation::LostUpdate { id, .. } if id == user),
    );
}

#[test]
fn a_version_that_goes_backwards_is_found() {
    must_find(
        |world, random| {
            let at = world.pick(random, |record| made_version(record).is_some())?;
            let id = target(&world.records[at])?.to_owned();
            let nothing = Operation::Update { id: id.clone(), expected: None, name: None, email: None };
            world.push(nothing, acknowledged(&id, 1));
            Some(id)
        },
        |violation, user| matches!(violation, Violation::VersionBackwards { id, after: 1, .. } if id == user),
    );
}

#[test]
fn a_wrong_version_of_an_update_is_found() {
    must_find(
        |world, random| {
            let at = world.pick(random, |record| made_version(record).is_some())?;
            let id = target(&world.records[at])?.to_owned();
            let version = made_version(&world.records[at])?;
            world.records[at].outcome = acknowledged(&id, version + 1);
            Some(id)
        },
        |violation, user| matches!(violation, Violation::WrongVersion { id, .. } if id == user),
    );
}

#[test]
fn a_wrong_version_of_a_creation_is_found() {
    must_find(
        |world, random| {
            let is_created = |record: &history::Record| {
                matches!(
                    (&record.operation, &record.outcome),
                    (Operation::Create { key: None, .. }, Outcome::Acknowledged { .. })
                )
            };
            let at = world.pick(random, is_created)?;
            let Outcome::Acknowledged { id, version, .. } = &mut world.records[at].outcome else { return None };
            *version = Some(2);
            Some(id.clone())
        },
        |violation, user| matches!(violation, Violation::WrongVersion { id, expected: 1, version: 2 } if id == user),
    );
}

#[test]
fn a_version_without_a_change_is_found() {
    must_find(
        |world, random| {
            let at = world.pick_user(random, |user| !world.has_unknown(&user.id))?;
            world.change(at, "Changed");
            Some(world.state.0[at].id.clone())
        },
        |violation, user| matches!(violation, Violation::UnexplainedVersion { id, .. } if id == user),
    );
}

#[test]
fn more_versions_than_unknown_changes_are_found() {
    must_find(
        |world, random| {
            let at = world.pick_user(random, |user| !world.has_unknown(&user.id) && !world.has_refused(&user.id))?;
            let id = world.state.0[at].id.clone();
            world.push(rename(&id, None, "Changed"), Outcome::Unknown);
            let version = world.state.0[at].version;
            // Explains no version that exists.
            world.push(rename(&id, Some(version + 5), "Changed"), Outcome::Unknown);
            world.change(at, "Changed");
            assert!(world.check().is_clean());
            world.change(at, "Changed");
            Some(id)
        },
        |violation, user| matches!(violation, Violation::UnexplainedVersion { id, unknown: 1, .. } if id == user),
    );
}

#[test]
fn a_response_with_another_user_is_found() {
    must_find(
        |world, random| {
            let at = world.pick(random, |record| made_version(record).is_some())?;
            let id = target(&world.records[at])?.to_owned();
            world.records[at].outcome = acknowledged("other", made_version(&world.records[at])?);
            Some(id)
        },
        |violation, user| matches!(violation, Violation::WrongUser { requested, .. } if requested == user),
    );
}
