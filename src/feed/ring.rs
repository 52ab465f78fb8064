//! The latest events in memory.

use std::collections::{HashSet, VecDeque};

use super::{Event, EventType};
use crate::domain::UserId;

/// The latest events, without gaps, up to a number of bytes.
pub(super) struct Ring {
    events: VecDeque<Event>,
    /// The position of the latest event, or where the next one continues.
    latest: u64,
    bytes: usize,
    capacity: usize,
}

impl Ring {
    pub(super) fn new(capacity: usize) -> Self {
        Self { events: VecDeque::new(), latest: 0, bytes: 0, capacity }
    }

    /// Removes all events. The next one follows this position.
    pub(super) fn restart(&mut self, latest: u64) {
        self.events.clear();
        (self.latest, self.bytes) = (latest, 0);
    }

    /// Appends events, and removes the oldest to make room.
    pub(super) fn extend(&mut self, events: Vec<Event>) {
        self.erase(&events);
        for event in events {
            self.latest = event.number();
            self.bytes += event.size();
            self.events.push_back(event);
        }
        while self.bytes > self.capacity {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.size();
        }
    }

    /// Erases the values of users that these events delete.
    fn erase(&mut self, events: &[Event]) {
        let deletions = events.iter().filter(|event| event.event_type() == Some(EventType::Deleted));
        let deleted: HashSet<UserId> = deletions.map(Event::user).collect();
        if deleted.is_empty() {
            return;
        }
        for event in self.events.iter_mut().filter(|event| deleted.contains(&event.user())) {
            let erased = event.erased();
            self.bytes = self.bytes - event.size() + erased.size();
            *event = erased;
        }
    }

    /// Returns the events after a position, up to another one; `None` if the next event has been evicted.
    pub(super) fn between(&self, after: u64, last: u64) -> Option<impl Iterator<Item = &Event>> {
        let missing = self.latest.checked_sub(after)?;
        let skipped = self.events.len().checked_sub(usize::try_from(missing).ok()?)?;
        Some(self.events.range(skipped..).take_while(move |event| event.number() <= last))
    }

    /// Returns the latest event.
    pub(super) fn last(&self) -> Option<&Event> {
        self.events.back()
    }

    /// Returns the number of events and their size.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.events.len(), self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::event::tests::event_at;

    #[test]
    fn events_are_returned_up_to_a_position() {
        let mut ring = Ring::new(usize::MAX);
        ring.restart(4);
        ring.extend((5..=9).map(event_at).collect());
        let between = |after, last| Some(ring.between(after, last)?.map(Event::number).collect::<Vec<_>>());
        assert_eq!(between(4, 9), Some(vec![5, 6, 7, 8, 9]));
        // A subscriber that does not know of the latest events yet.
        assert_eq!(between(6, 8), Some(vec![7, 8]));
        assert_eq!(between(8, 8), Some(Vec::new()));
        assert_eq!(between(3, 9), None, "the next event is not in memory");
        assert_eq!(between(10, 10), None);
    }
}
