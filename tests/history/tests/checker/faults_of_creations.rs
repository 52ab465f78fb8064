//! Faults of creations: phantoms, repeated creations, and emails of two users.

use history::{Operation, Outcome, Record, User, Violation};

use crate::{
    fault::{acknowledged, must_find},
    random::Random,
    simulation::World,
};

const CREATED: &str = "planted";

fn creation(email: &str, key: Option<&str>) -> Operation {
    Operation::Create { name: "Ann".to_owned(), email: email.to_owned(), key: key.map(str::to_owned) }
}

fn key(record: &Record) -> Option<&str> {
    match &record.operation {
        Operation::Create { key, .. } => key.as_deref(),
        _ => None,
    }
}

/// Returns the key of a creation that was acknowledged.
fn executed_key(world: &World, random: &mut Random) -> Option<String> {
    let is_executed = |record: &Record| key(record).is_some() && matches!(record.outcome, Outcome::Acknowledged { .. });
    let at = world.pick(random, is_executed)?;
    key(&world.records[at]).map(str::to_owned)
}

/// Asserts that a user without an explanation is found; `plant` adds one and returns its id.
fn must_find_phantom(plant: impl Fn(&mut World, &mut Random) -> Option<String>) {
    must_find(plant, |violation, user| matches!(violation, Violation::Phantom { id, .. } if id == user));
}

#[test]
fn a_phantom_is_found() {
    must_find_phantom(|world, _| {
        world.create(CREATED, "phantom@example.com");
        Some(CREATED.to_owned())
    });
}

#[test]
fn a_phantom_without_an_email_is_found() {
    must_find(
        |world, _| {
            let is_unknown = |record: &Record| {
                matches!((&record.operation, &record.outcome), (Operation::Create { .. }, Outcome::Unknown))
            };
            if world.records.iter().any(is_unknown) {
                return None;
            }
            world.push(creation("phantom@example.com", None), Outcome::Unknown);
            world.create(CREATED, "phantom@example.com");
            world.push(Operation::Delete { id: CREATED.to_owned(), expected: None }, acknowledged(CREATED, 2));
            let at = world.state.0.len() - 1;
            world.delete(at);
            assert!(world.check().is_clean());
            // The only attempt explains this user, whose email is known.
            world.create("planted-2", "phantom@example.com");
            Some(CREATED.to_owned())
        },
        |violation, user| matches!(violation, Violation::Phantom { id, email: None } if id == user),
    );
}

#[test]
fn an_attempt_with_an_executed_key_explains_no_other_user() {
    must_find_phantom(|world, random| {
        let key = executed_key(world, random)?;
        world.push(creation("phantom@example.com", Some(&key)), Outcome::Unknown);
        world.create(CREATED, "phantom@example.com");
        Some(CREATED.to_owned())
    });
}

#[test]
fn attempts_with_one_key_explain_one_user() {
    must_find_phantom(|world, _| {
        world.push(creation("phantom@example.com", Some("planted")), Outcome::Unknown);
        world.push(creation("phantom@example.com", Some("planted")), Outcome::Unknown);
        world.create(CREATED, "phantom@example.com");
        assert!(world.check().is_clean());
        world.create("planted-2", "phantom@example.com");
        Some("planted-2".to_owned())
    });
}

#[test]
fn two_creations_of_one_user_are_found() {
    must_find(
        |world, random| {
            let at = world.pick(random, |record| {
                key(record).is_none()
                    && matches!(record.operation, Operation::Create { .. })
                    && matches!(record.outcome, Outcome::Acknowledged { .. })
            })?;
            let record = world.records[at].clone();
            world.push(record.operation, record.outcome.clone());
            let Outcome::Acknowledged { id, .. } = record.outcome else { return None };
            Some(id)
        },
        |violation, user| matches!(violation, Violation::CreatedTwice { id } if id == user),
    );
}

#[test]
fn two_users_of_one_key_are_found() {
    must_find(
        |world, random| {
            let key = executed_key(world, random)?;
            world.push(creation("again@example.com", Some(&key)), acknowledged(CREATED, 1));
            world.create(CREATED, "again@example.com");
            Some(CREATED.to_owned())
        },
        |violation, user| matches!(violation, Violation::KeyExecutedTwice { second, .. } if second == user),
    );
}

#[test]
fn two_users_with_one_email_are_found() {
    must_find(
        |world, random| {
            let first = world.pick_user(random, |_| true)?;
            let email = world.state.0[first].email.to_uppercase();
            let second = world.pick_user(random, |user| user.id != world.state.0[first].id)?;
            world.state.0[second].email = email;
            Some(world.state.0[second].id.clone())
        },
        |violation, user| match violation {
            Violation::DoubleEmail { first, second, .. } => first == user || second == user,
            _ => false,
        },
    );
}

/// Creates and deletes a user with an email that another one has all the time.
#[test]
fn a_creation_with_the_email_of_another_user_is_found() {
    must_find(
        |world, random| {
            let gives_email = |user: &User, operation: &Operation| {
                matches!(operation, Operation::Create { email, .. } | Operation::Update { email: Some(email), .. }
                    if *email == user.email)
            };
            let is_certain = |user: &User| {
                let fits =
                    |operation: &Operation, version| version == Some(user.version) && gives_email(user, operation);
                !world.has_unknown(&user.id) && world.has_acknowledged(&user.id, fits)
            };
            let at = world.pick_user(random, is_certain)?;
            let User { id, email, .. } = world.state.0[at].clone();
            if random.percent(50) {
                // It gives the email to the same user.
                let update = Operation::Update { id, expected: None, name: None, email: Some(email.clone()) };
                world.push(update, Outcome::Unknown);
            }
            let email = email.to_uppercase();
            world.push(creation(&email, None), acknowledged(CREATED, 1));
            world.create(CREATED, &email);
            world.push(Operation::Delete { id: CREATED.to_owned(), expected: None }, acknowledged(CREATED, 2));
            let at = world.state.0.len() - 1;
            world.delete(at);
            Some(CREATED.to_owned())
        },
        |violation, user| matches!(violation, Violation::EmailSharedOnce { second, .. } if second == user),
    );
}
