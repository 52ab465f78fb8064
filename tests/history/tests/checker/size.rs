//! Long histories.

use std::time::Instant;

use history::{Event, EventKind, FinalState, History, Operation, Outcome, User};

use crate::{
    random::Random,
    simulation::{World, simulate_steps},
};

#[test]
fn a_history_of_100_000_operations_and_events_is_checked() {
    let mut world = World { records: Vec::new(), state: FinalState::default(), events: Vec::new() };
    // No two parts share a user or an email.
    for part in 0..1_000 {
        let mut added = simulate_steps(Random::new(part), 400);
        let (time, position) = (world.now(), world.events.last().map_or(0, |event| event.position));
        rename(&mut added, part);
        for mut record in added.records {
            record.start += time;
            record.end = record.end.map(|end| end + time);
            world.records.push(record);
        }
        world.events.extend(added.events.into_iter().map(|mut event| {
            event.position += position;
            event
        }));
        world.state.0.extend(added.state.0);
    }
    assert!(world.records.len() > 100_000, "{}", world.records.len());
    check("many users", &world);
}

#[test]
fn a_user_with_100_000_versions_is_checked() {
    let history = History::new();
    let mut user = User { id: "1".to_owned(), name: "0".to_owned(), email: "ann@example.com".to_owned(), version: 1 };
    let mut events = Vec::new();
    for version in 1..=100_000 {
        (user.version, user.name) = (version, version.to_string());
        let (name, email) = (user.name.clone(), user.email.clone());
        let expected = (version % 2 == 0).then_some(version - 1);
        let operation = match version {
            1 => Operation::Create { name, email, key: None },
            _ => Operation::Update { id: user.id.clone(), expected, name: Some(name), email: Some(email) },
        };
        let outcome = Outcome::Acknowledged { status: 200, id: user.id.clone(), version: Some(version) };
        history.begin(operation).end(if version % 3 == 2 { Outcome::Unknown } else { outcome });
        let kind = if version == 1 { EventKind::Created } else { EventKind::Updated };
        events.push(Event::of(version, kind, &user));
    }
    check("one user", &World { records: history.records(), state: FinalState(vec![user]), events });
}

fn check(name: &str, world: &World) {
    let begin = Instant::now();
    let report = world.check();
    let (operations, events) = (world.records.len(), world.events.len());
    println!("{name}: {operations} operations and {events} events in {:?}", begin.elapsed());
    assert!(report.is_clean(), "{report}");
}

fn rename(world: &mut World, part: u64) {
    let rename = |text: &mut String| *text = format!("{part}-{text}");
    for record in &mut world.records {
        match &mut record.operation {
            Operation::Create { email, key, .. } => [Some(email), key.as_mut()].into_iter().flatten().for_each(rename),
            Operation::Update { id, email, .. } => [Some(id), email.as_mut()].into_iter().flatten().for_each(rename),
            Operation::Delete { id, .. } => rename(id),
        }
        if let Outcome::Acknowledged { id, .. } = &mut record.outcome {
            rename(id);
        }
    }
    for user in &mut world.state.0 {
        [&mut user.id, &mut user.email].into_iter().for_each(rename);
    }
    for event in &mut world.events {
        [Some(&mut event.id), event.email.as_mut()].into_iter().flatten().for_each(rename);
    }
}
