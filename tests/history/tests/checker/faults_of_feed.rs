//! Faults of the feed.

use history::{Event, EventKind, Operation, Outcome, User, Violation};

use crate::{
    fault::{is_acknowledged, made_version, must_find, target},
    random::Random,
    simulation::World,
};

/// Returns the place of an event and that of the next one of the same user.
fn pair(world: &World, random: &mut Random) -> Option<(usize, usize)> {
    let next = |at: usize| world.events_of(&world.events[at].id).into_iter().find(|next| *next > at);
    random.pick((0..world.events.len()).filter_map(|at| Some((at, next(at)?))))
}

#[test]
fn a_gap_is_found() {
    must_find(
        |world, random| {
            let (at, _) = pair(world, random)?;
            Some(world.events.remove(at).id)
        },
        |violation, user| matches!(violation, Violation::FeedGap { id, .. } if id == user),
    );
}

#[test]
fn an_acknowledged_change_without_its_event_is_found() {
    must_find(
        |world, random| {
            let fits = |event: &Event| {
                event.kind != EventKind::Deleted && world.is_version_acknowledged(&event.id, event.version)
            };
            let at = random.pick((0..world.events.len()).filter(|at| fits(&world.events[*at])))?;
            if random.percent(50) {
                world.events[at].kind = EventKind::Deleted;
                return Some(world.events[at].id.clone());
            }
            Some(world.events.remove(at).id)
        },
        |violation, user| matches!(violation, Violation::MissingEvent { id, version: Some(_), .. } if id == user),
    );
}

#[test]
fn a_deletion_without_its_event_is_found() {
    must_find(
        |world, random| {
            let is_deletion = |operation: &Operation, _| matches!(operation, Operation::Delete { .. });
            let fits =
                |event: &Event| event.kind == EventKind::Deleted && world.has_acknowledged(&event.id, is_deletion);
            let at = random.pick((0..world.events.len()).filter(|at| fits(&world.events[*at])))?;
            Some(world.events.remove(at).id)
        },
        |violation, user| matches!(violation, Violation::MissingEvent { id, version: None, .. } if id == user),
    );
}

#[test]
fn a_duplicate_is_found() {
    must_find(
        |world, random| {
            let event = random.pick(world.events.clone())?;
            world.add_event(event.clone());
            Some(event.id)
        },
        |violation, user| matches!(violation, Violation::DuplicateEvent { id, .. } if id == user),
    );
}

#[test]
fn an_event_out_of_order_is_found() {
    must_find(
        |world, random| {
            let (one, other) = pair(world, random)?;
            world.events.swap(one, other);
            let position = world.events[one].position;
            world.events[one].position = world.events[other].position;
            world.events[other].position = position;
            // The deletion of a user is found as such.
            (world.events[one].kind != EventKind::Deleted).then(|| world.events[one].id.clone())
        },
        |violation, user| matches!(violation, Violation::EventOrder { id, .. } if id == user),
    );
}

#[test]
fn positions_out_of_order_are_found() {
    must_find(
        |world, random| {
            let at = random.pick(1..world.events.len().max(1))?;
            let position = world.events[at - 1].position;
            world.events[at].position = position - i64::from(random.percent(50));
            Some(position.to_string())
        },
        |violation, planted| match violation {
            Violation::PositionOrder { previous, .. } => previous.to_string() == planted,
            _ => false,
        },
    );
}

#[test]
fn an_event_without_a_change_is_found() {
    must_find(
        |world, random| {
            let at = world.pick_user(random, |user| !world.has_unknown(&user.id) && !world.has_refused(&user.id))?;
            world.change(at, "Changed");
            Some(world.state.0[at].id.clone())
        },
        |violation, user| matches!(violation, Violation::UnexplainedEvent { id, .. } if id == user),
    );
}

#[test]
fn an_event_with_values_that_no_change_gave_is_found() {
    must_find(
        |world, random| {
            let at = world.pick_user(random, |user| !world.has_unknown(&user.id) && !world.has_refused(&user.id))?;
            let User { id, version, .. } = world.state.0[at].clone();
            let expected = random.percent(50).then_some(version);
            world.push(crate::fault::rename(&id, expected, "Requested"), Outcome::Unknown);
            world.change(at, "Corrupted");
            Some(id)
        },
        |violation, user| matches!(violation, Violation::UnexplainedEvent { id, .. } if id == user),
    );
}

#[test]
fn more_events_than_unknown_changes_are_found() {
    must_find(
        |world, random| {
            let at = world.pick_user(random, |user| !world.has_unknown(&user.id) && !world.has_refused(&user.id))?;
            let id = world.state.0[at].id.clone();
            world.push(crate::fault::rename(&id, None, "Changed"), Outcome::Unknown);
            world.change(at, "Changed");
            assert!(world.check().is_clean());
            world.change(at, "Changed");
            Some(id)
        },
        |violation, user| matches!(violation, Violation::UnexplainedEvent { id, .. } if id == user),
    );
}

#[test]
fn a_deletion_that_no_one_requested_is_found() {
    must_find(
        |world, random| {
            let at = world.pick_user(random, |user| !world.has_unknown(&user.id) && !world.has_refused(&user.id))?;
            let User { id, version, .. } = world.state.0[at].clone();
            if random.percent(50) {
                // Of another version.
                world.push(Operation::Delete { id: id.clone(), expected: Some(version + 1) }, Outcome::Unknown);
            }
            world.delete(at);
            Some(id)
        },
        |violation, user| match violation {
            Violation::UnexplainedEvent { id, kind, .. } => id == user && *kind == EventKind::Deleted,
            _ => false,
        },
    );
}

#[test]
fn an_event_after_the_deletion_is_found() {
    must_find(
        |world, random| {
            let deletions = world.events.iter().filter(|event| event.kind == EventKind::Deleted).cloned();
            let event = random.pick(deletions)?;
            let id = event.id.clone();
            world.add_event(Event { kind: EventKind::Updated, version: event.version + 1, ..event });
            Some(id)
        },
        |violation, user| matches!(violation, Violation::EventAfterDeletion { id, .. } if id == user),
    );
}

#[test]
fn a_wrong_type_is_found() {
    must_find(
        |world, random| {
            let at = random.pick(0..world.events.len())?;
            let event = &mut world.events[at];
            event.kind = if event.kind == EventKind::Created { EventKind::Updated } else { EventKind::Created };
            Some(event.id.clone())
        },
        |violation, user| matches!(violation, Violation::WrongKind { id, .. } if id == user),
    );
}

#[test]
fn an_event_with_other_values_than_acknowledged_is_found() {
    must_find(
        |world, random| {
            let is_created = |record: &history::Record| {
                is_acknowledged(record) && matches!(record.operation, Operation::Create { .. })
            };
            let at = world.pick(random, is_created)?;
            let Outcome::Acknowledged { id, .. } = world.records[at].outcome.clone() else { return None };
            let event = *world.events_of(&id).first()?;
            world.events[event].name.as_mut()?.push('!');
            Some(id)
        },
        |violation, user| matches!(violation, Violation::ValuesDiffer { id, is_event: true, .. } if id == user),
    );
}

#[test]
fn a_value_that_an_update_changed_unasked_is_found() {
    must_find(
        |world, random| {
            let is_rename = |record: &history::Record| {
                made_version(record) == Some(2) && matches!(record.operation, Operation::Update { email: None, .. })
            };
            let at = world.pick(random, is_rename)?;
            let id = target(&world.records[at])?.to_owned();
            let gives_email = |operation: &Operation, version: Option<i64>| {
                version == Some(2) && matches!(operation, Operation::Update { email: Some(_), .. })
            };
            if !world.is_creation_acknowledged(&id) || world.has_acknowledged(&id, gives_email) {
                return None;
            }
            let event = *world.events_of(&id).get(1)?;
            world.events[event].email.as_mut()?.push('!');
            Some(id)
        },
        |violation, user| match violation {
            Violation::ValuesDiffer { id, version: 2, is_event, .. } => id == user && *is_event,
            _ => false,
        },
    );
}

#[test]
fn a_last_event_that_disagrees_with_the_state_is_found() {
    must_find(
        |world, random| {
            let at = world.pick_user(random, |_| true)?;
            let user = &mut world.state.0[at];
            let id = user.id.clone();
            match random.below(4) {
                0 => user.version += 1,
                1 => user.name.push('!'),
                2 => user.email.push('!'),
                _ => drop(world.state.0.remove(at)),
            }
            Some(id)
        },
        |violation, user| matches!(violation, Violation::FeedDisagrees { id, .. } if id == user),
    );
}
