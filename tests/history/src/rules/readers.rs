//! A client that stores its position reads each event of the feed once, in the order of the feed.

use std::collections::{BTreeMap, HashSet};

use crate::{Event, Reader, Violation};

pub(crate) fn apply(events: &[Event], readers: &[Reader], violations: &mut Vec<Violation>) {
    let feed: BTreeMap<i64, &Event> = events.iter().map(|event| (event.position, event)).collect();
    for reader in readers {
        sequence(reader, &feed, violations);
    }
}

fn sequence(reader: &Reader, feed: &BTreeMap<i64, &Event>, violations: &mut Vec<Violation>) {
    let name = || reader.name.clone();
    let mut last = reader.after;
    let mut seen = HashSet::new();
    for event in &reader.events {
        let position = event.position;
        if !seen.insert(position) {
            violations.push(Violation::ReadTwice { reader: name(), position });
        } else if position <= last {
            violations.push(Violation::ReadLate { reader: name(), previous: last, position });
        }
        if feed.get(&position).is_none_or(|expected| !is_same(event, expected)) {
            violations.push(Violation::ReadOther { reader: name(), position });
        }
        last = last.max(position);
    }
    let expected = feed.range(reader.after.saturating_add(1)..).map(|(position, _)| *position);
    let missed = expected.filter(|position| !seen.contains(position));
    violations.extend(missed.map(|position| Violation::NotRead { reader: name(), position }));
}

/// Returns whether what was read is the event of the feed, whose values may have been erased since.
fn is_same(read: &Event, expected: &Event) -> bool {
    let has_value = |read: &Option<String>, expected: &Option<String>| expected.is_none() || read == expected;
    (read.kind, &read.id, read.version) == (expected.kind, &expected.id, expected.version)
        && has_value(&read.name, &expected.name)
        && has_value(&read.email, &expected.email)
}
