//! Pages: where they lie, and what is known of their neighbours.

use crate::domain::{User, UserId};

/// A row that a page begins or ends beside. Pages stay where they are while rows come and go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Edge {
    /// What the row is sorted by; empty where that is the id.
    pub key: String,
    /// The row's id.
    pub id: UserId,
}

impl Edge {
    pub(super) fn of_id(id: UserId) -> Self {
        Self { key: String::new(), id }
    }
}

/// Where in a list a page lies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Position {
    /// At the beginning.
    First,
    /// Right after this row.
    After(Edge),
    /// Right before this row.
    Before(Edge),
}

/// One page of a list, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<U = User> {
    /// The users.
    pub users: Vec<U>,
    /// The row before which there may be more.
    pub previous: Option<Edge>,
    /// The row after which there are more.
    pub next: Option<Edge>,
}

/// A page of the rows that were found for it, the nearest to its edge first; `limit` and one more were asked for.
pub(super) fn page_of<R, U>(
    position: &Position,
    limit: u64,
    mut rows: Vec<R>,
    edge: impl Fn(&R) -> Edge,
    user: impl FnMut(R) -> U,
) -> Page<U> {
    let more = rows.len() as u64 > limit;
    if more {
        rows.pop();
    }
    // An empty page keeps the edge of its cursor.
    let (from, has_previous, has_next) = match position {
        Position::First => (None, false, more),
        Position::After(from) => (Some(from), true, more),
        Position::Before(from) => {
            rows.reverse();
            (Some(from), more, true)
        }
    };
    let beside = |row: Option<&R>| row.map(&edge).or_else(|| from.cloned());
    let previous = if has_previous { beside(rows.first()) } else { None };
    let next = if has_next { beside(rows.last()) } else { None };
    Page { users: rows.into_iter().map(user).collect(), previous, next }
}
