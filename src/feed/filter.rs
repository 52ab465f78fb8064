//! Filters of events.

use super::{Event, EventType};
use crate::domain::UserId;

/// A set of event types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventTypes(pub Vec<EventType>);

/// The filter of a subscription. The default delivers all events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only events of these users.
    pub users: Option<Vec<UserId>>,
    /// Only events of these types.
    pub types: Option<EventTypes>,
    /// Also messages to this user.
    pub receiver: Option<UserId>,
}

impl Filter {
    /// Returns whether an event is wanted.
    #[must_use]
    pub fn accepts(&self, event: &Event) -> bool {
        let Some(event_type) = event.event_type() else {
            return self.receiver == Some(event.user()) && !event.is_empty();
        };
        self.users.as_ref().is_none_or(|users| users.contains(&event.user()))
            && self.types.as_ref().is_none_or(|types| types.0.contains(&event_type))
    }
}
