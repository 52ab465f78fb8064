//! Faults of what clients read of the feed.

use history::{Event, EventKind, Reader, Report, Violation, check_readers};

use crate::{
    random::Random,
    simulation::{World, simulate},
};

/// How many histories get each fault.
const HISTORIES: usize = 100;

/// Two clients that read the whole feed, and one that began later.
fn readers(world: &World, random: &mut Random) -> Vec<Reader> {
    let begin = random.pick(world.events.iter().map(|event| event.position)).unwrap_or(0);
    [("one", 0), ("other", 0), ("late", begin)]
        .map(|(name, after)| {
            let events = world.events.iter().filter(|event| event.position > after).cloned().collect();
            Reader { name: name.to_owned(), after, events }
        })
        .into()
}

/// Plants a fault into what one of the readers of 100 histories has read. The report must have the expected violation of
/// this reader, and none of another one. `plant` returns the position in question.
#[track_caller]
fn must_find(
    plant: impl Fn(&mut Vec<Event>, &mut Random) -> Option<i64>,
    is_expected: impl Fn(&Violation, i64) -> bool,
) {
    let mut planted = 0;
    for seed in 200_000..250_000 {
        let world = simulate(seed);
        let mut random = Random::new(seed + 1);
        let mut readers = readers(&world, &mut random);
        let at = random.below(readers.len());
        let Some(position) = plant(&mut readers[at].events, &mut random) else { continue };
        let report = check_readers(&world.events, &readers);
        let found =
            |violation: &Violation| is_expected(violation, position) && reader_of(violation) == Some(&readers[at].name);
        assert!(report.violations.iter().any(found), "seed {seed}, position {position}:\n{report}");
        let is_other = |violation: &Violation| reader_of(violation) != Some(&readers[at].name);
        assert!(!report.violations.iter().any(is_other), "seed {seed}:\n{report}");
        assert!(report.to_string().contains(&position.to_string()), "{report}");
        planted += 1;
        if planted == HISTORIES {
            return;
        }
    }
    assert_eq!(planted, HISTORIES, "too few histories have a place for the fault");
}

fn reader_of(violation: &Violation) -> Option<&str> {
    match violation {
        Violation::NotRead { reader, .. }
        | Violation::ReadTwice { reader, .. }
        | Violation::ReadLate { reader, .. }
        | Violation::ReadOther { reader, .. } => Some(reader),
        _ => None,
    }
}

#[test]
fn readers_without_a_fault_have_no_violation() {
    for seed in 0..1_000 {
        let world = simulate(seed);
        let mut readers = readers(&world, &mut Random::new(seed));
        let report = check_readers(&world.events, &readers);
        assert!(report.is_clean(), "seed {seed}:\n{report}");
        // They have read values that were erased later.
        for event in readers.iter_mut().flat_map(|reader| &mut reader.events).filter(|event| event.name.is_none()) {
            if event.kind != EventKind::Deleted {
                (event.name, event.email) = (Some("Ann".to_owned()), Some("ann@example.com".to_owned()));
            }
        }
        let report = check_readers(&world.events, &readers);
        assert!(report.is_clean(), "seed {seed}:\n{report}");
    }
    assert_eq!(check_readers(&[], &[]), Report::default());
}

#[test]
fn a_lost_event_is_found() {
    must_find(
        |events, random| {
            let at = random.pick(0..events.len())?;
            Some(events.remove(at).position)
        },
        |violation, at| matches!(violation, Violation::NotRead { position, .. } if *position == at),
    );
}

#[test]
fn an_event_that_is_read_again_is_found() {
    must_find(
        |events, random| {
            let event = events[random.pick(0..events.len())?].clone();
            let again = random.pick(0..=events.len())?;
            events.insert(again, event.clone());
            Some(event.position)
        },
        |violation, at| matches!(violation, Violation::ReadTwice { position, .. } if *position == at),
    );
}

#[test]
fn events_in_another_order_are_found() {
    must_find(
        |events, random| {
            let at = random.pick(1..events.len().max(1))?;
            events.swap(at - 1, at);
            Some(events[at].position)
        },
        |violation, at| matches!(violation, Violation::ReadLate { position, .. } if *position == at),
    );
}

#[test]
fn another_event_at_a_position_is_found() {
    must_find(
        |events, random| {
            let at = random.pick(0..events.len())?;
            let event = &mut events[at];
            match random.below(5) {
                0 => event.id.push('0'),
                1 => event.version += 1,
                2 => {
                    event.kind = if event.kind == EventKind::Created { EventKind::Updated } else { EventKind::Created }
                }
                3 => event.name.as_mut()?.push('!'),
                _ => event.email.as_mut()?.push('!'),
            }
            Some(event.position)
        },
        |violation, at| matches!(violation, Violation::ReadOther { position, .. } if *position == at),
    );
}

#[test]
fn an_event_that_the_feed_does_not_have_is_found() {
    must_find(
        |events, _| {
            let event = events.last()?.clone();
            let position = event.position + 1;
            events.push(Event { position, ..event });
            Some(position)
        },
        |violation, at| matches!(violation, Violation::ReadOther { position, .. } if *position == at),
    );
}

#[test]
fn an_event_from_before_the_beginning_is_found() {
    must_find(
        |events, _| {
            let event = events.first()?.clone();
            let position = -1;
            events.insert(0, Event { position, ..event });
            Some(position)
        },
        |violation, at| matches!(violation, Violation::ReadLate { position, .. } if *position == at),
    );
}
