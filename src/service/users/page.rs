//! Pages of a list (keyset pagination).

use crate::domain::{User, UserId};

/// A row next to which a page begins or ends. Unlike an offset, it does not move while rows are added and deleted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Edge {
    /// The row's sort key; empty if the list is sorted by id.
    pub key: String,
    /// The row's id.
    pub id: UserId,
}

impl Edge {
    pub(super) fn of_id(id: UserId) -> Self {
        Self { key: String::new(), id }
    }
}

/// The position of a page in its list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Position {
    /// It is the first page.
    First,
    /// It begins immediately after this row.
    After(Edge),
    /// It ends immediately before this row.
    Before(Edge),
}

/// A page of a list, in the order of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<U = User> {
    /// The users.
    pub users: Vec<U>,
    /// The end of the previous page, if there may be one.
    pub previous: Option<Edge>,
    /// The beginning of the next page, if there is one.
    pub next: Option<Edge>,
}

/// Builds a page from its rows, of which `limit + 1` were requested. The first row is the one next to the edge.
pub(super) fn build_page<R, U>(
    position: &Position,
    limit: u64,
    mut rows: Vec<R>,
    edge: impl Fn(&R) -> Edge,
    user: impl FnMut(R) -> U,
) -> Page<U> {
    let has_more = rows.len() as u64 > limit;
    if has_more {
        rows.pop();
    }
    // An empty page has no rows, so its links use the edge that was requested.
    let (from, has_previous, has_next) = match position {
        Position::First => (None, false, has_more),
        Position::After(from) => (Some(from), true, has_more),
        Position::Before(from) => {
            rows.reverse();
            (Some(from), has_more, true)
        }
    };
    let edge_at = |row: Option<&R>| row.map(&edge).or_else(|| from.cloned());
    let previous = if has_previous { edge_at(rows.first()) } else { None };
    let next = if has_next { edge_at(rows.last()) } else { None };
    Page { users: rows.into_iter().map(user).collect(), previous, next }
}
