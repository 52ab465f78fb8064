//! Pages of the list.

use std::sync::Arc;

use entity::users::{COLUMN, Entity};
use orm_pool::Connection;
use sea_orm::{DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::domain::{User, UserId};

/// Where in the list a page lies. Ids are positions: they stay where they are while rows come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Position {
    /// At the beginning.
    First,
    /// Right after this id.
    After(UserId),
    /// Right before this id.
    Before(UserId),
}

/// One page of the list, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The users.
    pub users: Vec<User>,
    /// Whether there may be more before these.
    pub has_previous: bool,
    /// Whether there are more after these.
    pub has_next: bool,
}

/// A page that is asked for: from where, and how many at the most.
pub(super) type Page = (Position, u64);

/// Several pages, in their order, one after the other.
pub(super) async fn pages(db: Connection, pages: Arc<[Page]>) -> Result<Vec<Arc<Slice>>, DbErr> {
    let mut slices = Vec::with_capacity(pages.len());
    for page in pages.iter() {
        slices.push(Arc::new(one(&db, *page).await?));
    }
    Ok(slices)
}

async fn one(db: &Connection, (position, limit): Page) -> Result<Slice, DbErr> {
    // One more than asked for tells whether there is a further page, without counting.
    let query = match position {
        Position::First => Entity::find().order_by_asc(COLUMN.id),
        Position::After(id) => Entity::find().filter(COLUMN.id.gt(id.as_uuid())).order_by_asc(COLUMN.id),
        Position::Before(id) => Entity::find().filter(COLUMN.id.lt(id.as_uuid())).order_by_desc(COLUMN.id),
    };
    let mut rows = query.limit(limit + 1).all(db).await?;
    let more = rows.len() as u64 > limit;
    if more {
        rows.pop();
    }
    let (has_previous, has_next) = match position {
        Position::First => (false, more),
        Position::After(_) => (true, more),
        Position::Before(_) => {
            rows.reverse();
            (more, true)
        }
    };
    Ok(Slice { users: rows.into_iter().map(User::from).collect(), has_previous, has_next })
}
