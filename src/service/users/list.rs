//! Pages of the unfiltered list in creation order, which many clients request at the same time.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use entity::users::{Column, Entity};
use orm_pool::Connection;
use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, JoinType, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select,
    sea_query::{Alias, Expr, ExprTrait, Query},
};
use uuid::Uuid;

use super::{
    page::{Edge, Page, Position, build_page},
    row::{self, COLUMNS},
};
use crate::{domain::User, service::statement::unnest};

/// A requested page: its position and the maximum number of users.
pub(super) type PageRequest = (Position, u64);

/// Loads several pages, in the order of the requests.
pub(super) async fn pages(db: Connection, requests: Arc<[PageRequest]>) -> Result<Vec<Arc<Page>>, DbErr> {
    let mut grouped: HashMap<PageRequest, Arc<Page>> = HashMap::with_capacity(requests.len());
    if db.get_database_backend() == DbBackend::Postgres {
        for ((direction, limit), ids) in groups(&requests) {
            for (id, users) in load_group(&db, direction, limit, &ids).await? {
                let request = (direction.position(id), limit);
                let page = to_page(&request, users);
                grouped.insert(request, Arc::new(page));
            }
        }
    }
    let mut pages = Vec::with_capacity(requests.len());
    for request in requests.iter() {
        pages.push(match grouped.remove(request) {
            Some(page) => page,
            None => Arc::new(to_page(request, load_single(&db, request).await?)),
        });
    }
    Ok(pages)
}

/// On which side of an id a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Direction {
    After,
    Before,
}

impl Direction {
    fn position(self, id: Uuid) -> Position {
        let edge = Edge::of_id(id.into());
        match self {
            Self::After => Position::After(edge),
            Self::Before => Position::Before(edge),
        }
    }

    /// Returns a query for the users on this side of an id, the nearest first.
    fn select(self, edge: impl Into<Expr>) -> Select<Entity> {
        let id = Expr::col((Entity, Column::Id));
        match self {
            Self::After => row::select().filter(id.gt(edge)).order_by_asc(Column::Id),
            Self::Before => row::select().filter(id.lt(edge)).order_by_desc(Column::Id),
        }
    }
}

/// Groups the requests that one statement can serve: pages of the same length in the same direction. Groups of a single
/// page are left out, because a simpler statement serves it.
fn groups(requests: &[PageRequest]) -> HashMap<(Direction, u64), Vec<Uuid>> {
    let mut groups: HashMap<_, Vec<Uuid>> = HashMap::new();
    for (position, limit) in requests {
        let (direction, edge) = match position {
            Position::First => continue,
            Position::After(edge) => (Direction::After, edge),
            Position::Before(edge) => (Direction::Before, edge),
        };
        groups.entry((direction, *limit)).or_default().push(edge.id.as_uuid());
    }
    groups.retain(|_, ids| ids.len() > 1);
    groups
}

/// Loads the users of one page, the nearest to the edge first. One more than `limit` shows, without a count, whether
/// there is another page.
async fn load_single(db: &Connection, (position, limit): &PageRequest) -> Result<Vec<User>, DbErr> {
    let select = match position {
        Position::First => row::select().order_by_asc(Column::Id),
        Position::After(edge) => Direction::After.select(edge.id.as_uuid()),
        Position::Before(edge) => Direction::Before.select(edge.id.as_uuid()),
    };
    let rows = db.query_all(&select.limit(limit + 1).into_query()).await?;
    rows.iter().map(|row| row::read_user(row, 0)).collect()
}

/// Loads the users of several pages, by the ids of their edges, with a lateral join.
async fn load_group(
    db: &Connection,
    direction: Direction,
    limit: u64,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Vec<User>>, DbErr> {
    let (edge, page) = (Alias::new("edge"), Alias::new("page"));
    let rows = direction.select(Expr::col((edge.clone(), edge.clone()))).limit(limit + 1).into_query();
    let mut query = Query::select();
    query
        .column((edge.clone(), edge.clone()))
        .columns(COLUMNS.map(|column| (page.clone(), column)))
        .from_subquery(Query::select().expr_as(unnest(ids.iter().copied()), edge.clone()).take(), edge)
        .join_lateral(JoinType::InnerJoin, rows, page, Expr::cust("TRUE"));
    let mut users_by_id: HashMap<Uuid, Vec<User>> = ids.iter().map(|id| (*id, Vec::new())).collect();
    for row in db.query_all(&query).await? {
        users_by_id.entry(row.try_get_by_index(0)?).or_default().push(row::read_user(&row, 1)?);
    }
    for users in users_by_id.values_mut() {
        // A join guarantees no order. Usually the rows are sorted already, and sorting them costs nearly nothing.
        match direction {
            Direction::After => users.sort_unstable_by_key(|user| user.id),
            Direction::Before => users.sort_unstable_by_key(|user| Reverse(user.id)),
        }
    }
    Ok(users_by_id)
}

fn to_page((position, limit): &PageRequest, users: Vec<User>) -> Page {
    build_page(position, *limit, users, |user| Edge::of_id(user.id), |user| user)
}
