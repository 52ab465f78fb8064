//! Counts and query plans of lists in large tables.

use chrono::{DateTime, TimeDelta, Utc};
use entity::users::{Entity, Model};
use sea_orm::{ConnectionTrait, DatabaseConnection, EntityTrait, IntoActiveModel, Statement};
use serde_json::Value;
use users_api::{
    domain::{Email, Name, Prefix, UserId},
    service::{Edge, Filter, Position, Selection, Sort, SortKey, SortPlan},
};

use crate::{
    cases,
    harness::{Context, Engine, connect},
    lists::{NAMES, encode},
};

cases![counts_of_large_results_are_estimated, no_list_scans_the_table];

/// Inserts rows as the service writes them, but without the service.
async fn seed(database: &DatabaseConnection, count: usize) {
    let created = DateTime::from_timestamp(1_750_000_000, 0).unwrap();
    let rows: Vec<Model> = (0..count)
        .map(|number| {
            let name = Name::parse(&format!("{} N{:05}", NAMES[number % NAMES.len()], number * 7919 % count)).unwrap();
            let email = Email::parse(&format!("u{:05}@example.com", number * 104_729 % count)).unwrap();
            let (name_key, last_word_key) = name.keys();
            let (email_key, email) = (email.key(), email.into_string());
            let created_at = created + TimeDelta::seconds(i64::try_from(number).unwrap());
            Model {
                id: UserId::generate(created_at).as_uuid(),
                name_key,
                last_word_key,
                name: name.into_string(),
                email,
                email_key,
                version: 1,
                created_at,
                updated_at: created_at,
            }
        })
        .collect();
    for chunk in rows.chunks(1000) {
        let rows = chunk.iter().map(|row| row.clone().into_active_model());
        Entity::insert_many(rows).exec_without_returning(database).await.unwrap();
    }
    match database.get_database_backend() {
        sea_orm::DbBackend::Postgres => database.execute_unprepared("ANALYZE users").await.unwrap(),
        sea_orm::DbBackend::MySql => database.execute_unprepared("ANALYZE TABLE users").await.unwrap(),
        // SQLite does not analyze automatically, as the servers do.
        _ => return,
    };
}

async fn counts_of_large_results_are_estimated(context: Context) {
    let app = context.app().await;
    let database = connect(&app.url).await;
    seed(&database, 15_000).await;
    database.close().await.unwrap();
    let count = async |query: &str| -> u64 {
        let reply = app.get(&format!("/users?limit=1{query}")).await;
        reply.header("x-total-count").parse().unwrap()
    };
    assert_eq!(count("&count=exact").await, 15_000);
    for query in ["", "&createdAfter=2020-01-01T00:00:00Z"] {
        let estimated = count(&format!("&count=estimated{query}")).await;
        assert!((10_001..40_000).contains(&estimated), "{estimated} of 15000, {query}");
    }
    assert_eq!(count("&count=estimated&name=grace").await, 1250, "small results are counted exactly");
    // A time span in another sort order: one with many users, and one with few.
    let emails = async |time: i64| -> Vec<Value> {
        let time = DateTime::from_timestamp(1_750_000_000 + time, 0).unwrap().to_rfc3339();
        let query = format!("createdAfter={}&sort=-email&fields=email", encode(&time));
        let (mut emails, mut page) = (Vec::new(), app.get(&format!("/users?limit=2&{query}")).await);
        for _ in 0..2 {
            emails.extend(page.json().as_array().unwrap().iter().map(|user| user["email"].clone()));
            page = app.get(&page.link("next").unwrap()).await;
        }
        emails
    };
    assert_eq!(emails(0).await, [14_999, 14_998, 14_997, 14_996].map(|number| format!("u{number:05}@example.com")));
    let mut last: Vec<usize> = (14_900..15_000).map(|number| number * 104_729 % 15_000).collect();
    last.sort_unstable();
    let last = last.into_iter().rev().take(4).map(|number| format!("u{number:05}@example.com"));
    assert_eq!(emails(14_899).await, last.collect::<Vec<_>>());
}

/// The plan of a statement, one line per step.
async fn plan(database: &DatabaseConnection, sql: &str) -> Vec<String> {
    let backend = database.get_database_backend();
    let explain = if backend == sea_orm::DbBackend::Sqlite { "EXPLAIN QUERY PLAN " } else { "EXPLAIN " };
    // A parameter has its type; as literals, ids would be an array of texts.
    let sql = if backend == sea_orm::DbBackend::Postgres { sql.replace("'])", "']::uuid[])") } else { sql.to_owned() };
    let rows = database.query_all_raw(Statement::from_string(backend, format!("{explain}{sql}"))).await.unwrap();
    let line = |row: &sea_orm::QueryResult| match backend {
        sea_orm::DbBackend::Postgres => row.try_get_by_index(0).unwrap(),
        sea_orm::DbBackend::Sqlite => row.try_get("", "detail").unwrap(),
        _ => ["type", "key", "Extra"]
            .map(|column| row.try_get::<Option<String>>("", column).unwrap().unwrap_or_default())
            .join(" | "),
    };
    rows.iter().map(line).collect()
}

fn time(seconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(1_750_000_000 + seconds, 0)
}

/// Each filter selects only some dozens of users.
fn filters() -> Vec<Filter> {
    let prefix = |text| Some(Prefix::parse(text).unwrap());
    vec![
        Filter { email: Some(Email::parse("u00077@example.com").unwrap()), ..Filter::default() },
        Filter { name: prefix("ann n0001"), ..Filter::default() },
        Filter { text: prefix("u0001"), ..Filter::default() },
        Filter { created_after: time(19_950), ..Filter::default() },
        Filter { created_before: time(50), ..Filter::default() },
        Filter { created_after: time(1000), created_before: time(1050), ..Filter::default() },
        Filter { ids: Some(vec![UserId::generate(time(5).unwrap()); 3]), ..Filter::default() },
    ]
}

/// Each order of users, with the first page and those after and before a user in the middle.
fn orders() -> Vec<(Sort, Position)> {
    let edge = |key: &str| Edge { key: key.to_owned(), id: UserId::generate(time(10_000).unwrap()) };
    let mut orders = Vec::new();
    for (key, edge) in [
        (SortKey::Created, edge("")),
        (SortKey::Name, edge("grace hopper n01000")),
        (SortKey::Email, edge("u10000@example.com")),
    ] {
        for descending in [false, true] {
            for position in [Position::First, Position::After(edge.clone()), Position::Before(edge.clone())] {
                orders.push((Sort { key, descending }, position));
            }
        }
    }
    orders
}

async fn no_list_scans_the_table(context: Context) {
    let app = context.app().await;
    let database = connect(&app.url).await;
    seed(&database, 20_000).await;
    let engine = match context.engine() {
        Engine::Sqlite => orm_pool::Engine::Sqlite,
        Engine::Postgres => orm_pool::Engine::Postgres,
        Engine::MariaDb | Engine::MySql => orm_pool::Engine::MySql,
    };
    let mut plans = Vec::new();
    for (sort, position) in orders() {
        // Without a filter, an index supplies the order, from the edge on.
        let selection = Selection { filter: Filter::default(), sort };
        let unfiltered = plan(&database, &selection.sql(engine, &position, 20, SortPlan::Planned)).await;
        let text = unfiltered.join("\n");
        assert!(!["Sort", "filesort", "TEMP B-TREE"].iter().any(|sort| text.contains(sort)), "{text}");
        plans.push((selection, position.clone(), unfiltered));
        for filter in filters() {
            let selection = Selection { filter, sort };
            let is_unplanned = context.engine() == Engine::Sqlite && selection.is_span_in_another_order();
            let sort_plan = if is_unplanned { SortPlan::FilterThenSort } else { SortPlan::Planned };
            let filtered = plan(&database, &selection.sql(engine, &position, 20, sort_plan)).await;
            if is_unplanned {
                assert!(filtered[0].contains("USING PRIMARY KEY (id"), "not by its primary key: {filtered:?}");
            }
            plans.push((selection, position.clone(), filtered));
        }
    }
    database.close().await.unwrap();
    for (selection, position, plan) in plans {
        for step in plan {
            let scans = match context.engine() {
                Engine::Postgres => step.contains("Seq Scan"),
                Engine::MariaDb | Engine::MySql => step.starts_with("ALL"),
                // Reading the first 20 entries of an index is not a scan; without a filter it is the expected plan.
                Engine::Sqlite => {
                    step.starts_with("SCAN") && (selection.filter != Filter::default() || position != Position::First)
                }
            };
            assert!(!scans, "{step} for {position:?} of {selection:?}");
        }
    }
}
