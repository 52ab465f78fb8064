//! Pages of the list.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use entity::users::{Column, Entity};
use orm_pool::Connection;
use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, JoinType, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select,
    sea_query::{Alias, Expr, ExprTrait, Query},
};
use uuid::Uuid;

use super::row::{self, COLUMNS, unnest};
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

/// Several pages, in their order.
pub(super) async fn pages(db: Connection, pages: Arc<[Page]>) -> Result<Vec<Arc<Slice>>, DbErr> {
    let mut slices: HashMap<Page, Arc<Slice>> = HashMap::with_capacity(pages.len());
    if db.get_database_backend() == DbBackend::Postgres {
        for (kind, edges) in alike(&pages) {
            for (edge, rows) in beside(&db, kind, &edges).await? {
                let page = (kind.0.at(edge), kind.1);
                slices.insert(page, Arc::new(slice(page, rows)));
            }
        }
    }
    let mut answers = Vec::with_capacity(pages.len());
    for page in pages.iter() {
        answers.push(match slices.remove(page) {
            Some(slice) => slice,
            None => Arc::new(slice(*page, one(&db, *page).await?)),
        });
    }
    Ok(answers)
}

/// To which side of an id a page lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Side {
    After,
    Before,
}

impl Side {
    fn at(self, id: Uuid) -> Position {
        match self {
            Self::After => Position::After(id.into()),
            Self::Before => Position::Before(id.into()),
        }
    }

    /// Which rows lie there, the nearest first.
    fn of(self, edge: impl Into<Expr>) -> Select<Entity> {
        let id = Expr::col((Entity, Column::Id));
        match self {
            Self::After => row::select().filter(id.gt(edge)).order_by_asc(Column::Id),
            Self::Before => row::select().filter(id.lt(edge)).order_by_desc(Column::Id),
        }
    }
}

/// Pages that one statement can give: those of the same length, to the same side of different ids. Not of one page
/// alone, for which a simple statement does.
fn alike(pages: &[Page]) -> HashMap<(Side, u64), Vec<Uuid>> {
    let mut kinds: HashMap<_, Vec<Uuid>> = HashMap::new();
    for (position, limit) in pages {
        let (side, id) = match position {
            Position::First => continue,
            Position::After(id) => (Side::After, id),
            Position::Before(id) => (Side::Before, id),
        };
        kinds.entry((side, *limit)).or_default().push(id.as_uuid());
    }
    kinds.retain(|_, ids| ids.len() > 1);
    kinds
}

/// The rows of one page, the nearest to its edge first, and one more: it tells whether there is a further page, without
/// counting.
async fn one(db: &Connection, (position, limit): Page) -> Result<Vec<User>, DbErr> {
    let select = match position {
        Position::First => row::select().order_by_asc(Column::Id),
        Position::After(id) => Side::After.of(id.as_uuid()),
        Position::Before(id) => Side::Before.of(id.as_uuid()),
    };
    let rows = db.query_all(&select.limit(limit + 1).into_query()).await?;
    rows.iter().map(|row| row::user(row, 0)).collect()
}

/// The same for several pages at once, by their edges: a join that asks for each edge's rows in turn.
async fn beside(
    db: &Connection,
    (side, limit): (Side, u64),
    edges: &[Uuid],
) -> Result<HashMap<Uuid, Vec<User>>, DbErr> {
    let (edge, page) = (Alias::new("edge"), Alias::new("page"));
    let rows = side.of(Expr::col((edge.clone(), edge.clone()))).limit(limit + 1).into_query();
    let mut query = Query::select();
    query
        .column((edge.clone(), edge.clone()))
        .columns(COLUMNS.map(|column| (page.clone(), column)))
        .from_subquery(Query::select().expr_as(unnest(edges.iter().copied()), edge.clone()).take(), edge)
        .join_lateral(JoinType::InnerJoin, rows, page, Expr::cust("TRUE"));
    let mut found: HashMap<Uuid, Vec<User>> = edges.iter().map(|edge| (*edge, Vec::new())).collect();
    for row in db.query_all(&query).await? {
        found.entry(row.try_get_by_index(0)?).or_default().push(row::user(&row, 1)?);
    }
    for users in found.values_mut() {
        // A join promises no order. They come in the right one as a rule, which costs nothing to sort.
        match side {
            Side::After => users.sort_unstable_by_key(|user| user.id),
            Side::Before => users.sort_unstable_by_key(|user| Reverse(user.id)),
        }
    }
    Ok(found)
}

/// A page of the rows that were found for it.
fn slice((position, limit): Page, mut users: Vec<User>) -> Slice {
    let more = users.len() as u64 > limit;
    if more {
        users.pop();
    }
    let (has_previous, has_next) = match position {
        Position::First => (false, more),
        Position::After(_) => (true, more),
        Position::Before(_) => {
            users.reverse();
            (more, true)
        }
    };
    Slice { users, has_previous, has_next }
}
