//! Pages of the list as a whole, in the order of creation: what most clients ask for, and many at the same time.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use entity::users::{Column, Entity};
use orm_pool::Connection;
use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, JoinType, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select,
    sea_query::{Alias, Expr, ExprTrait, Query},
};
use uuid::Uuid;

use super::{
    page::{Edge, Page, Position, page_of},
    row::{self, COLUMNS, unnest},
};
use crate::domain::User;

/// A page that is asked for: from where, and how many at the most.
pub(super) type PageRequest = (Position, u64);

/// Several pages, in their order.
pub(super) async fn pages(db: Connection, pages: Arc<[PageRequest]>) -> Result<Vec<Arc<Page>>, DbErr> {
    let mut pages_by_request: HashMap<PageRequest, Arc<Page>> = HashMap::with_capacity(pages.len());
    if db.get_database_backend() == DbBackend::Postgres {
        for (kind, edges) in alike(&pages) {
            for (edge, rows) in beside(&db, kind, &edges).await? {
                let page = (kind.0.at(edge), kind.1);
                let slice = of(&page, rows);
                pages_by_request.insert(page, Arc::new(slice));
            }
        }
    }
    let mut answers = Vec::with_capacity(pages.len());
    for page in pages.iter() {
        answers.push(match pages_by_request.remove(page) {
            Some(slice) => slice,
            None => Arc::new(of(page, one(&db, page).await?)),
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
        let edge = Edge::of_id(id.into());
        match self {
            Self::After => Position::After(edge),
            Self::Before => Position::Before(edge),
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
fn alike(pages: &[PageRequest]) -> HashMap<(Side, u64), Vec<Uuid>> {
    let mut kinds: HashMap<_, Vec<Uuid>> = HashMap::new();
    for (position, limit) in pages {
        let (side, edge) = match position {
            Position::First => continue,
            Position::After(edge) => (Side::After, edge),
            Position::Before(edge) => (Side::Before, edge),
        };
        kinds.entry((side, *limit)).or_default().push(edge.id.as_uuid());
    }
    kinds.retain(|_, ids| ids.len() > 1);
    kinds
}

/// The rows of one page, the nearest to its edge first, and one more: it tells whether there is a further page, without
/// counting.
async fn one(db: &Connection, (position, limit): &PageRequest) -> Result<Vec<User>, DbErr> {
    let select = match position {
        Position::First => row::select().order_by_asc(Column::Id),
        Position::After(edge) => Side::After.of(edge.id.as_uuid()),
        Position::Before(edge) => Side::Before.of(edge.id.as_uuid()),
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
fn of((position, limit): &PageRequest, users: Vec<User>) -> Page {
    page_of(position, *limit, users, |user| Edge::of_id(user.id), |user| user)
}
