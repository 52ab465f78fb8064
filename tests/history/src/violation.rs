//! Contradictions between what clients saw and what exists.

use std::fmt;

use crate::EventKind;

/// A contradiction. The fields named `end` are the time at which the change in question was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the sentence that Display writes")]
pub enum Violation {
    /// A change was acknowledged, and its user does not exist although no deletion explains it.
    LostWrite { id: String, version: i64, end: u64 },
    /// The user at the end is older than an acknowledged version.
    Outdated { id: String, version: i64, acknowledged: i64, end: u64 },
    /// A deletion was acknowledged, and the user exists at the end.
    Resurrected { id: String, end: u64 },
    /// A user was deleted more than once.
    DeletedTwice { id: String, end: u64 },
    /// A change of a user was acknowledged although its deletion came first.
    WriteAfterDeletion { id: String, version: i64, end: u64, may_be_stale: bool },
    /// The list of the users at the end has a user more than once.
    ListedTwice { id: String },
    /// Two changes were acknowledged with the same resulting version, so that one of them overwrote the other.
    LostUpdate { id: String, version: i64, end: u64 },
    /// A version has other values than the acknowledged change gave it.
    ValuesDiffer { id: String, version: i64, expected: String, found: String, is_event: bool, end: u64 },
    /// A change that began after another one had been acknowledged got a smaller version.
    VersionBackwards { id: String, before: i64, after: i64, end: u64, may_be_stale: bool },
    /// The version in a response is not the one that the request makes.
    WrongVersion { id: String, expected: i64, version: i64 },
    /// The response to a change of one user has the id of another one.
    WrongUser { requested: String, found: String },
    /// A user has more versions than there were changes that can have made them.
    UnexplainedVersion { id: String, version: i64, acknowledged: u64, unknown: u64 },
    /// Two creations returned the same id.
    CreatedTwice { id: String },
    /// Two requests with one idempotency key created two users.
    KeyExecutedTwice { key: String, first: String, second: String, end: u64 },
    /// Two users have the same email at the end.
    DoubleEmail { email: String, first: String, second: String },
    /// Two users had the same email at the same time, by acknowledged changes.
    EmailSharedOnce { email: String, first: String, second: String, end: u64 },
    /// A user exists or existed that no operation can have created.
    Phantom { id: String, email: Option<String> },
    /// A refused operation took effect.
    RefusedWithEffect { id: String, version: i64, status: u16 },
    /// A change of an existing user was refused because the user does not exist, or because it has another version.
    RefusedWithoutReason { id: String, status: u16, end: u64 },
    /// A creation was refused although no other operation can have used its email.
    EmailNotTaken { email: String, status: u16 },
    /// The positions of the feed do not ascend.
    PositionOrder { previous: i64, position: i64 },
    /// The feed has a change more than once.
    DuplicateEvent { id: String, version: i64, position: i64 },
    /// The feed lacks versions of a user.
    FeedGap { id: String, expected: i64, version: i64, position: i64 },
    /// An event is after one of a later version of the same user.
    EventOrder { id: String, version: i64, position: i64 },
    /// The feed has events of a user after its deletion.
    EventAfterDeletion { id: String, version: i64, position: i64 },
    /// The first event of a user is not its creation, or a later one is.
    WrongKind { id: String, version: i64, kind: EventKind, position: i64 },
    /// An acknowledged change has no event.
    MissingEvent { id: String, version: Option<i64>, end: u64 },
    /// An event has no change that can have caused it.
    UnexplainedEvent { id: String, version: i64, kind: EventKind, position: i64 },
    /// The last event of a user does not agree with the final state.
    FeedDisagrees { id: String, event: Option<i64>, state: Option<i64> },
    /// A client did not read an event of the feed.
    NotRead { reader: String, position: i64 },
    /// A client read an event more than once, although it stores its position.
    ReadTwice { reader: String, position: i64 },
    /// A client read an event after a later one, or one from before its beginning.
    ReadLate { reader: String, previous: i64, position: i64 },
    /// A client read something else than the event that the feed has at the position.
    ReadOther { reader: String, position: i64 },
}

impl Violation {
    /// Returns when the change was acknowledged whose loss would explain the violation, if a loss can.
    #[must_use]
    pub fn lost_at(&self) -> Option<u64> {
        match self {
            Self::LostWrite { end, .. }
            | Self::Outdated { end, .. }
            | Self::Resurrected { end, .. }
            | Self::DeletedTwice { end, .. }
            | Self::WriteAfterDeletion { end, .. }
            | Self::LostUpdate { end, .. }
            | Self::ValuesDiffer { end, .. }
            | Self::VersionBackwards { end, .. }
            | Self::KeyExecutedTwice { end, .. }
            | Self::EmailSharedOnce { end, .. }
            | Self::RefusedWithoutReason { end, .. }
            | Self::MissingEvent { end, .. } => Some(*end),
            _ => None,
        }
    }

    /// Returns whether a request that found an older state explains the violation, which wrote nothing.
    #[must_use]
    pub fn is_stale_read(&self) -> bool {
        match self {
            Self::RefusedWithoutReason { .. } => true,
            Self::WriteAfterDeletion { may_be_stale, .. } | Self::VersionBackwards { may_be_stale, .. } => {
                *may_be_stale
            }
            _ => false,
        }
    }

    fn write_change(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LostWrite { id, version, .. } => {
                write!(f, "lost write: version {version} of user {id} was acknowledged, and the user does not exist")
            }
            Self::Outdated { id, version, acknowledged, .. } => {
                write!(f, "outdated: version {acknowledged} of user {id} was acknowledged, and the last is {version}")
            }
            Self::Resurrected { id, .. } => write!(f, "resurrected: user {id} was deleted, and exists"),
            Self::DeletedTwice { id, .. } => write!(f, "deleted twice: user {id}"),
            Self::WriteAfterDeletion { id, version, .. } => {
                write!(f, "write after deletion: version {version} of user {id} was acknowledged after its deletion")
            }
            Self::LostUpdate { id, version, .. } => {
                write!(f, "lost update: two changes made version {version} of user {id}")
            }
            Self::ValuesDiffer { id, version, expected, found, is_event, .. } => {
                let place = if *is_event { "the feed" } else { "the final state" };
                write!(f, "other values: version {version} of user {id} has {found} in {place}, instead of {expected}")
            }
            Self::VersionBackwards { id, before, after, .. } => {
                write!(f, "version backwards: user {id} had version {before}, and a later change returned {after}")
            }
            Self::WrongVersion { id, expected, version } => {
                write!(f, "wrong version: a change of user {id} returned version {version} instead of {expected}")
            }
            Self::WrongUser { requested, found } => {
                write!(f, "wrong user: a change of user {requested} returned user {found}")
            }
            Self::UnexplainedVersion { id, version, acknowledged, unknown } => write!(
                f,
                "unexplained version: user {id} reached version {version} by {acknowledged} acknowledged changes and \
                 at most {unknown} of unknown outcome"
            ),
            _ => self.write_user(f),
        }
    }

    fn write_user(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ListedTwice { id } => write!(f, "listed twice: user {id}"),
            Self::CreatedTwice { id } => write!(f, "created twice: two creations returned user {id}"),
            Self::KeyExecutedTwice { key, first, second, .. } => {
                write!(f, "key executed twice: idempotency key {key} created users {first} and {second}")
            }
            Self::DoubleEmail { email, first, second } => {
                write!(f, "double email: users {first} and {second} have {email}")
            }
            Self::EmailSharedOnce { email, first, second, .. } => {
                write!(f, "email shared once: users {first} and {second} had {email} at the same time")
            }
            Self::Phantom { id, email } => {
                write!(f, "phantom: no operation can have created user {id}")?;
                email.iter().try_for_each(|email| write!(f, " with {email}"))
            }
            Self::RefusedWithEffect { id, version, status } => {
                write!(f, "refused with effect: a change refused with {status} made version {version} of user {id}")
            }
            Self::RefusedWithoutReason { id, status, .. } => {
                write!(f, "refused without reason: a change of user {id} got {status} although nothing explains it")
            }
            Self::EmailNotTaken { email, status } => {
                write!(f, "email not taken: a creation got {status} although no other operation can have used {email}")
            }
            _ => self.write_event(f),
        }
    }

    fn write_event(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PositionOrder { previous, position } => {
                write!(f, "order of positions: {position} comes after {previous}")
            }
            Self::DuplicateEvent { id, version, position } => {
                write!(f, "duplicate event: version {version} of user {id} again, at position {position}")
            }
            Self::FeedGap { id, expected, version, position } => write!(
                f,
                "gap in the feed: version {version} of user {id}, at position {position}, where {expected} is expected"
            ),
            Self::EventOrder { id, version, position } => {
                write!(f, "order of events: version {version} of user {id}, at position {position}, is late")
            }
            Self::EventAfterDeletion { id, version, position } => {
                write!(f, "event after deletion: version {version} of user {id}, at position {position}")
            }
            Self::WrongKind { id, version, kind, position } => {
                write!(f, "wrong type: version {version} of user {id}, at position {position}, is {}", kind.name())
            }
            Self::MissingEvent { id, version: Some(version), .. } => {
                write!(f, "missing event: version {version} of user {id} was acknowledged, and has no event")
            }
            Self::MissingEvent { id, .. } => write!(f, "missing event: the deletion of user {id} has no event"),
            Self::UnexplainedEvent { id, version, kind, position } => write!(
                f,
                "unexplained event: no change explains {} of user {id} to version {version}, at position {position}",
                kind.name()
            ),
            Self::FeedDisagrees { id, event, state } => {
                let event = event.map_or("no user".to_owned(), |version| format!("version {version}"));
                let state = state.map_or("no user".to_owned(), |version| format!("version {version}"));
                write!(f, "feed disagrees: user {id}: {event} by the feed, {state} in the final state")
            }
            _ => self.write_reading(f),
        }
    }

    fn write_reading(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRead { reader, position } => {
                write!(f, "not read: {reader} did not get the event at position {position}")
            }
            Self::ReadTwice { reader, position } => {
                write!(f, "read twice: {reader} got the event at position {position} again")
            }
            Self::ReadLate { reader, previous, position } => {
                write!(f, "read late: {reader} got the event at position {position} after {previous}")
            }
            Self::ReadOther { reader, position } => {
                write!(f, "other event: {reader} got at position {position} what the feed does not have there")
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_change(f)
    }
}
