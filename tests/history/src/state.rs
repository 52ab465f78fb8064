//! What exists after a run: the users and the events.

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The id.
    pub id: String,
    /// The name.
    pub name: String,
    /// The email.
    pub email: String,
    /// The version.
    pub version: i64,
}

/// The users at the end, as an export or all pages of the list return them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FinalState(pub Vec<User>);

/// The type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// `user.created`
    Created,
    /// `user.updated`
    Updated,
    /// `user.deleted`
    Deleted,
}

impl EventKind {
    /// Returns the kind with this name, such as `user.created`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "user.created" => Some(Self::Created),
            "user.updated" => Some(Self::Updated),
            "user.deleted" => Some(Self::Deleted),
            _ => None,
        }
    }

    /// Returns the name of the kind, such as `user.created`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "user.created",
            Self::Updated => "user.updated",
            Self::Deleted => "user.deleted",
        }
    }
}

/// An event of the feed, in the order in which the feed returned it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The number of its position. Messages have positions too, so there can be numbers between those of two events.
    pub position: i64,
    /// Its type.
    pub kind: EventKind,
    /// The id of the user.
    pub id: String,
    /// The version of the user; for a deletion, the one after the last.
    pub version: i64,
    /// The name; `None` for a deletion and after it, when the values of the user are erased.
    pub name: Option<String>,
    /// The email; `None` if the name is `None`.
    pub email: Option<String>,
}

impl Event {
    /// Creates the event of a change that made a user what it is.
    #[must_use]
    pub fn of(position: i64, kind: EventKind, user: &User) -> Self {
        let User { id, name, email, version } = user.clone();
        Self { position, kind, id, version, name: Some(name), email: Some(email) }
    }
}

/// What a client read that stores its position and continues after it, over all its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The name of the client, for the report.
    pub name: String,
    /// The number of the position after which it began.
    pub after: i64,
    /// The events, in the order in which it read them.
    pub events: Vec<Event>,
}
