//! Pages of a part of the list, or in another order. Each is a statement of its own: two hardly ever ask alike.

use std::ops::Bound;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use entity::users::{Column, Entity};
use orm_pool::Connection;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbBackend, DbErr, EntityTrait, IdenStatic, Order, QueryFilter, QueryOrder,
    QueryResult, QuerySelect, QueryTrait, Select, Statement, StatementBuilder,
    sea_query::{Alias, Asterisk, Expr, ExprTrait, Func, Query, SelectStatement},
};

use super::{
    find::is_one_of,
    page::{Edge, Page, Position, page_of},
    row::{self, COLUMNS},
};
use crate::domain::{Email, Prefix, User, UserId};

/// Which users are meant: those for which all of it is true.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The one with this email, however it is written.
    pub email: Option<Email>,
    /// Those whose name begins so.
    pub name: Option<Prefix>,
    /// Those whose name, last name or email begins so.
    pub text: Option<Prefix>,
    /// Those created after this moment.
    pub created_after: Option<DateTime<Utc>>,
    /// Those created before this moment.
    pub created_before: Option<DateTime<Utc>>,
    /// Those among these.
    pub ids: Option<Vec<UserId>>,
}

/// What users are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortKey {
    /// By the time of creation.
    #[default]
    Created,
    /// By name, without regard to case.
    Name,
    /// By email, in the form by which it is unique.
    Email,
}

/// In which order users are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sort {
    /// What they are sorted by.
    pub key: SortKey,
    /// The last one first.
    pub descending: bool,
}

/// A part of the list in some order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Which users.
    pub filter: Filter,
    /// In which order.
    pub sort: Sort,
}

/// How carefully to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Each one.
    Exact,
    /// Each one as long as they are few; then what the database takes for their number without looking.
    Estimated,
}

/// Up to here an estimate is exact.
const FEW: u64 = 10_000;
/// So many rows of a span of time are sorted sooner than their order is walked along.
const FEW_TO_SORT: u64 = 2000;

/// How those of a span of time are found in another order than that of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortPlan {
    /// As the database thinks best.
    Planned,
    /// First those of the span, then in order. SQLite keeps no statistics, and would walk along the order until it met
    /// enough of them.
    FilterThenSort,
}

impl Selection {
    /// The statement that reads a page of this selection, and one row more.
    #[must_use]
    pub fn statement(&self, backend: DbBackend, position: &Position, limit: u64, sort_plan: SortPlan) -> Statement {
        StatementBuilder::build(&self.select(backend, position, limit, sort_plan), &backend)
    }

    /// Whether a span of time is all that is asked for, in another order.
    #[must_use]
    pub fn is_span_in_another_order(&self) -> bool {
        let Filter { created_after, created_before, .. } = self.filter;
        self.sort.key != SortKey::Created
            && self.filter != Filter::default()
            && self.filter == Filter { created_after, created_before, ..Filter::default() }
    }

    fn select(&self, backend: DbBackend, position: &Position, limit: u64, sort_plan: SortPlan) -> SelectStatement {
        let backwards = self.sort.descending != matches!(position, Position::Before(_));
        let order = if backwards { Order::Desc } else { Order::Asc };
        let mut select = row::select().filter(self.filter.condition(backend));
        if let Position::After(edge) | Position::Before(edge) = position {
            select = select.filter(self.sort.key.beyond(backend, edge, backwards, sort_plan));
        }
        for column in self.sort.key.columns() {
            select = select.order_by(sort_plan.column(*column), order.clone());
        }
        // The key of each row, for the edges.
        if let Some(key) = self.sort.key.column() {
            select = select.column(key);
        }
        select.limit(limit + 1).into_query()
    }
}

impl SortPlan {
    fn column(self, column: Column) -> Expr {
        match self {
            Self::Planned => Expr::col((Entity, column)),
            // No index is used for what is no bare column.
            Self::FilterThenSort => Expr::cust(format!("+\"users\".\"{}\"", column.as_str())),
        }
    }
}

impl SortKey {
    fn column(self) -> Option<Column> {
        match self {
            Self::Created => None,
            Self::Name => Some(Column::NameKey),
            Self::Email => Some(Column::EmailKey),
        }
    }

    /// What no two rows have in common. The id tells to the microsecond when a user was created.
    fn columns(self) -> &'static [Column] {
        match self {
            Self::Created => &[Column::Id],
            Self::Name => &[Column::NameKey, Column::Id],
            Self::Email => &[Column::EmailKey],
        }
    }

    /// Which rows lie beyond this one.
    fn beyond(self, backend: DbBackend, edge: &Edge, backwards: bool, sort_plan: SortPlan) -> Expr {
        fn beyond(left: impl ExprTrait, right: impl Into<Expr>, backwards: bool) -> Expr {
            if backwards { left.lt(right) } else { left.gt(right) }
        }
        let id = edge.id.as_uuid();
        match self {
            Self::Created => beyond(Expr::col((Entity, Column::Id)), id, backwards),
            Self::Email => beyond(sort_plan.column(Column::EmailKey), edge.key.as_str(), backwards),
            Self::Name => {
                let (name, row) = (sort_plan.column(Column::NameKey), sort_plan.column(Column::Id));
                let key = edge.key.as_str();
                if backend == DbBackend::MySql {
                    // It uses the index for this form only.
                    let among_equals = name.clone().eq(key).and(beyond(row, id, backwards));
                    return beyond(name, key, backwards).or(among_equals);
                }
                beyond(Expr::tuple([name, row]), Expr::tuple([Expr::val(key), Expr::val(id)]), backwards)
            }
        }
    }
}

impl Filter {
    /// The key of the email, if nothing else is asked for.
    pub(super) fn email_alone(&self) -> Option<&str> {
        let email = self.email.as_ref()?;
        let alone = Self { email: Some(email.clone()), ..Self::default() };
        (*self == alone).then(|| email.key())
    }

    pub(super) fn condition(&self, backend: DbBackend) -> Condition {
        let id = || Expr::col((Entity, Column::Id));
        let prefix = |column: Column, prefix: &Prefix| {
            let (from, to) = prefix.range();
            let condition = Condition::all().add(column.gte(from));
            match to {
                Bound::Excluded(to) => condition.add(column.lt(to)),
                _ => condition,
            }
        };
        Condition::all()
            .add_option(self.email.as_ref().map(|email| Column::EmailKey.eq(email.key())))
            .add_option(self.name.as_ref().map(|name| prefix(Column::NameKey, name)))
            .add_option(self.text.as_ref().map(|text| {
                Condition::any()
                    .add(prefix(Column::NameKey, text))
                    .add(prefix(Column::LastWordKey, text))
                    .add(prefix(Column::EmailKey, text))
                    .add_option(text.email_key().map(|key| Column::EmailKey.eq(key)))
            }))
            .add_option(self.created_after.map(|time| id().gte(first_after(time).as_uuid())))
            .add_option(self.created_before.map(|time| id().lt(first_from(time).as_uuid())))
            .add_option(self.ids.as_ref().map(|ids| {
                let ids: Vec<_> = ids.iter().map(|id| id.as_uuid()).collect();
                is_one_of(backend, Column::Id, &ids)
            }))
    }
}

const MICROSECOND: TimeDelta = TimeDelta::microseconds(1);

/// The least id of those created later than this.
fn first_after(time: DateTime<Utc>) -> UserId {
    UserId::first_at(time.checked_add_signed(MICROSECOND).unwrap_or(time))
}

/// The least id of those not created earlier than this.
fn first_from(time: DateTime<Utc>) -> UserId {
    match time.duration_trunc(MICROSECOND) {
        Ok(whole) if whole < time => first_after(time),
        _ => UserId::first_at(time),
    }
}

/// One page, each user with the edge behind it.
pub(super) async fn page(
    db: Connection,
    selection: &Selection,
    position: &Position,
    limit: u64,
) -> Result<Page<(User, Edge)>, DbErr> {
    let backend = db.get_database_backend();
    let is_unplanned = backend == DbBackend::Sqlite && selection.is_span_in_another_order();
    let sort_plan = if is_unplanned && few(&db, &selection.filter, FEW_TO_SORT).await? <= FEW_TO_SORT {
        SortPlan::FilterThenSort
    } else {
        SortPlan::Planned
    };
    let rows = db.query_all(&selection.select(backend, position, limit, sort_plan)).await?;
    let has_key = selection.sort.key.column().is_some();
    let read = |row: &QueryResult| -> Result<(User, Edge), DbErr> {
        let user = row::user(row, 0)?;
        let key = if has_key { row.try_get_by_index(COLUMNS.len())? } else { String::new() };
        let edge = Edge { key, id: user.id };
        Ok((user, edge))
    };
    let rows = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    Ok(page_of(position, limit, rows, |(_, edge)| edge.clone(), |row| row))
}

/// How many there are.
pub(super) async fn count(db: Connection, filter: &Filter, how: Count) -> Result<u64, DbErr> {
    let backend = db.get_database_backend();
    let matching = matching(filter, backend);
    if how == Count::Exact {
        return number(&db, matching.into_query()).await;
    }
    let few = few(&db, filter, FEW).await?;
    if few <= FEW {
        return Ok(few);
    }
    let planned = match backend {
        // It keeps no statistics unless it is told to.
        DbBackend::Sqlite => return number(&db, matching.into_query()).await,
        _ => planned(&db, &matching.into_query()).await?,
    };
    Ok(Ord::max(planned, few))
}

fn matching(filter: &Filter, backend: DbBackend) -> Select<Entity> {
    Entity::find().select_only().column(Column::Id).filter(filter.condition(backend))
}

/// How many there are, and one more than `most` if there are more.
async fn few(db: &Connection, filter: &Filter, most: u64) -> Result<u64, DbErr> {
    number(db, matching(filter, db.get_database_backend()).limit(most + 1).into_query()).await
}

async fn number(db: &Connection, rows: SelectStatement) -> Result<u64, DbErr> {
    let mut count = Query::select();
    count.expr(Func::count(Expr::col(Asterisk))).from_subquery(rows, Alias::new("matching"));
    let row = db.query_one(&count).await?;
    let count: i64 = row.map_or(Ok(0), |row| row.try_get_by_index(0))?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// How many rows the planner expects.
async fn planned(db: &Connection, rows: &SelectStatement) -> Result<u64, DbErr> {
    let backend = db.get_database_backend();
    let mut explain: Statement = StatementBuilder::build(rows, &backend);
    explain.sql.insert_str(0, "EXPLAIN ");
    let Some(row) = db.query_one_raw(explain).await? else { return Ok(0) };
    if backend == DbBackend::Postgres {
        // `Index Scan using … (cost=0.42..8.44 rows=1 width=16)`
        let plan: String = row.try_get_by_index(0)?;
        let rows = plan.split_once(" rows=").and_then(|(_, rest)| rest.split_once(' ')).map(|(rows, _)| rows.parse());
        return Ok(rows.and_then(Result::ok).unwrap_or(0));
    }
    // A number in MySQL, a text in MariaDB, which adds what a filter leaves (`120 (5%)`).
    if let Ok(rows) = row.try_get::<Option<u64>>("", "rows") {
        return Ok(rows.unwrap_or(0));
    }
    let rows: Option<String> = row.try_get("", "rows")?;
    Ok(rows.and_then(|rows| rows.split(' ').next()?.parse().ok()).unwrap_or(0))
}
