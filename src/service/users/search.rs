//! Filtered and sorted pages, and counts. Each runs a separate statement, because two requests are rarely equal.

use std::ops::Bound;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use entity::users::{Column, Entity};
use orm_pool::{Connection, Engine};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbBackend, DbErr, EntityTrait, IdenStatic, Order, QueryFilter, QueryOrder,
    QueryResult, QuerySelect, QueryTrait, Select, Statement, StatementBuilder,
    sea_query::{Alias, Asterisk, Expr, ExprTrait, Func, Query, SelectStatement},
};

use super::{
    page::{Edge, Page, Position, build_page},
    row::{self, COLUMNS},
};
use crate::{
    domain::{Email, Prefix, User, UserId},
    service::statement::is_one_of,
};

/// A filter of users. All of its conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The user with this email, in any spelling.
    pub email: Option<Email>,
    /// Users whose name has this prefix.
    pub name: Option<Prefix>,
    /// Users whose name, last name or email has this prefix.
    pub text: Option<Prefix>,
    /// Users created after this time.
    pub created_after: Option<DateTime<Utc>>,
    /// Users created before this time.
    pub created_before: Option<DateTime<Utc>>,
    /// Users with one of these ids.
    pub ids: Option<Vec<UserId>>,
}

/// The key by which users are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortKey {
    /// The creation time.
    #[default]
    Created,
    /// The name, without case.
    Name,
    /// The key by which emails are unique.
    Email,
}

/// The order of users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sort {
    /// The key.
    pub key: SortKey,
    /// Whether the order is descending.
    pub descending: bool,
}

/// A filter and an order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The filter.
    pub filter: Filter,
    /// The order.
    pub sort: Sort,
}

/// The accuracy of a count of users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountMode {
    /// Exactly.
    Exact,
    /// Exactly up to 10,000 users; beyond that, as estimated by the query planner (SQLite: always exactly).
    Estimated,
}

/// The number of rows up to which an estimated count is exact.
const EXACT_COUNT_LIMIT: u64 = 10_000;
/// The number of rows up to which sorting a time range is faster than scanning the index of the order.
const SORT_LIMIT: u64 = 2000;

/// The plan by which the users of a time range are found in an order other than by creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortPlan {
    /// The plan that the database chooses.
    Planned,
    /// Filter first, then sort. SQLite has no statistics and would scan the index of the order until enough rows match.
    FilterThenSort,
}

impl Selection {
    /// Returns the SQL that reads a page of this selection, and one more row. Its values are inlined: it is for EXPLAIN
    /// and for people.
    #[must_use]
    pub fn sql(&self, engine: Engine, position: &Position, limit: u64, sort_plan: SortPlan) -> String {
        let backend = match engine {
            Engine::Sqlite => DbBackend::Sqlite,
            Engine::Postgres => DbBackend::Postgres,
            Engine::MySql => DbBackend::MySql,
        };
        let statement: Statement = StatementBuilder::build(&self.select(backend, position, limit, sort_plan), &backend);
        statement.to_string()
    }

    /// Returns whether this is only a time range, in an order other than by creation.
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
            select = select.filter(self.sort.key.after_edge(backend, edge, backwards, sort_plan));
        }
        for column in self.sort.key.columns() {
            select = select.order_by(sort_plan.column(*column), order.clone());
        }
        // For the edges.
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
            // SQLite uses no index for an expression.
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

    /// The columns of the order, which together are unique. The id contains the creation time.
    fn columns(self) -> &'static [Column] {
        match self {
            Self::Created => &[Column::Id],
            Self::Name => &[Column::NameKey, Column::Id],
            Self::Email => &[Column::EmailKey],
        }
    }

    /// Returns the condition for the rows after an edge; with `backwards`, in descending order.
    fn after_edge(self, backend: DbBackend, edge: &Edge, backwards: bool, sort_plan: SortPlan) -> Expr {
        fn beyond(left: impl ExprTrait, right: impl Into<Expr>, backwards: bool) -> Expr {
            if backwards { left.lt(right) } else { left.gt(right) }
        }
        let id = edge.id.as_uuid();
        match self {
            Self::Created => beyond(Expr::col((Entity, Column::Id)), id, backwards),
            Self::Email => beyond(sort_plan.column(Column::EmailKey), edge.key.as_str(), backwards),
            Self::Name => {
                let (name, id_column) = (sort_plan.column(Column::NameKey), sort_plan.column(Column::Id));
                let key = edge.key.as_str();
                if backend == DbBackend::MySql {
                    // MySQL uses the index only for this form.
                    let same_name = name.clone().eq(key).and(beyond(id_column, id, backwards));
                    return beyond(name, key, backwards).or(same_name);
                }
                beyond(Expr::tuple([name, id_column]), Expr::tuple([Expr::val(key), Expr::val(id)]), backwards)
            }
        }
    }
}

impl Filter {
    /// Returns the key of the email, if it is the only condition.
    pub(super) fn only_email(&self) -> Option<String> {
        let email = self.email.as_ref()?;
        let only_email = Self { email: Some(email.clone()), ..Self::default() };
        (*self == only_email).then(|| email.key())
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
            .add_option(self.created_after.map(|time| id().gte(first_id_after(time).as_uuid())))
            .add_option(self.created_before.map(|time| id().lt(first_id_from(time).as_uuid())))
            .add_option(self.ids.as_ref().map(|ids| {
                let ids: Vec<_> = ids.iter().map(|id| id.as_uuid()).collect();
                is_one_of(backend, Column::Id, &ids)
            }))
    }
}

const MICROSECOND: TimeDelta = TimeDelta::microseconds(1);

/// Returns the lowest id of users created later than this.
fn first_id_after(time: DateTime<Utc>) -> UserId {
    UserId::first_at(time.checked_add_signed(MICROSECOND).unwrap_or(time))
}

/// Returns the lowest id of users created at this time or later.
fn first_id_from(time: DateTime<Utc>) -> UserId {
    match time.duration_trunc(MICROSECOND) {
        Ok(whole) if whole < time => first_id_after(time),
        _ => UserId::first_at(time),
    }
}

/// Loads a page, each user with its edge.
pub(super) async fn page(
    db: Connection,
    selection: &Selection,
    position: &Position,
    limit: u64,
) -> Result<Page<(User, Edge)>, DbErr> {
    let backend = db.get_database_backend();
    let may_sort = backend == DbBackend::Sqlite && selection.is_span_in_another_order();
    let sort_plan = if may_sort && count_up_to(&db, &selection.filter, SORT_LIMIT).await? <= SORT_LIMIT {
        SortPlan::FilterThenSort
    } else {
        SortPlan::Planned
    };
    let rows = db.query_all(&selection.select(backend, position, limit, sort_plan)).await?;
    let has_key = selection.sort.key.column().is_some();
    let read = |row: &QueryResult| -> Result<(User, Edge), DbErr> {
        let user = row::read_user(row, 0)?;
        let key = if has_key { row.try_get_by_index(COLUMNS.len())? } else { String::new() };
        let edge = Edge { key, id: user.id };
        Ok((user, edge))
    };
    let rows = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    Ok(build_page(position, limit, rows, |(_, edge)| edge.clone(), |row| row))
}

/// Counts the users of a filter.
pub(super) async fn count(db: Connection, filter: &Filter, how: CountMode) -> Result<u64, DbErr> {
    let backend = db.get_database_backend();
    let ids = select_ids(filter, backend).into_query();
    if how == CountMode::Exact {
        return count_rows(&db, ids).await;
    }
    let counted = count_up_to(&db, filter, EXACT_COUNT_LIMIT).await?;
    if counted <= EXACT_COUNT_LIMIT {
        return Ok(counted);
    }
    let estimate = match backend {
        // SQLite has no statistics unless ANALYZE is run.
        DbBackend::Sqlite => return count_rows(&db, ids).await,
        _ => estimate_rows(&db, &ids).await?,
    };
    Ok(Ord::max(estimate, counted))
}

fn select_ids(filter: &Filter, backend: DbBackend) -> Select<Entity> {
    Entity::find().select_only().column(Column::Id).filter(filter.condition(backend))
}

/// Counts the users of a filter, at most `limit + 1`.
async fn count_up_to(db: &Connection, filter: &Filter, limit: u64) -> Result<u64, DbErr> {
    count_rows(db, select_ids(filter, db.get_database_backend()).limit(limit + 1).into_query()).await
}

async fn count_rows(db: &Connection, rows: SelectStatement) -> Result<u64, DbErr> {
    let mut count = Query::select();
    count.expr(Func::count(Expr::col(Asterisk))).from_subquery(rows, Alias::new("matching"));
    let row = db.query_one(&count).await?;
    let count: i64 = row.map_or(Ok(0), |row| row.try_get_by_index(0))?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Returns the number of rows that the query planner expects.
async fn estimate_rows(db: &Connection, rows: &SelectStatement) -> Result<u64, DbErr> {
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
    // A number on MySQL. MariaDB returns a text, which may include the filtered percentage (`120 (5%)`).
    if let Ok(rows) = row.try_get::<Option<u64>>("", "rows") {
        return Ok(rows.unwrap_or(0));
    }
    let rows: Option<String> = row.try_get("", "rows")?;
    Ok(rows.and_then(|rows| rows.split(' ').next()?.parse().ok()).unwrap_or(0))
}
