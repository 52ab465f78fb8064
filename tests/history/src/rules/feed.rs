//! The feed is in order: its positions ascend, and the events of a user have each of its versions once, from 1 on.

use std::collections::{HashMap, HashSet};

use crate::{Event, EventKind, Violation};

/// What the events of a user have shown so far.
#[derive(Debug, Default)]
struct Progress {
    last: i64,
    versions: HashSet<i64>,
    is_deleted: bool,
}

pub(super) fn apply(events: &[Event], violations: &mut Vec<Violation>) {
    for (before, after) in events.iter().zip(events.iter().skip(1)) {
        if before.position >= after.position {
            violations.push(Violation::PositionOrder { previous: before.position, position: after.position });
        }
    }
    let mut users: HashMap<&str, Progress> = HashMap::new();
    for event in events {
        sequence(event, users.entry(&event.id).or_default(), violations);
        if (event.version == 1) != (event.kind == EventKind::Created) {
            let Event { id, version, kind, position, .. } = event.clone();
            violations.push(Violation::WrongKind { id, version, kind, position });
        }
    }
}

fn sequence(event: &Event, user: &mut Progress, violations: &mut Vec<Violation>) {
    let Event { id, version, position, .. } = event.clone();
    if !user.versions.insert(version) {
        return violations.push(Violation::DuplicateEvent { id, version, position });
    }
    let expected = user.last.saturating_add(1);
    if user.is_deleted {
        violations.push(Violation::EventAfterDeletion { id, version, position });
    } else if version < expected {
        violations.push(Violation::EventOrder { id, version, position });
    } else if version > expected {
        violations.push(Violation::FeedGap { id, expected, version, position });
    }
    user.last = user.last.max(version);
    user.is_deleted |= event.kind == EventKind::Deleted;
}
