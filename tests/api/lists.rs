//! Lists: filters, sort orders, fields and counts, and their combinations.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use url::form_urlencoded::byte_serialize;

use crate::{
    cases,
    harness::{App, Context},
};

cases![
    filters_and_sort_orders_combine,
    names_are_matched_case_insensitively,
    time_filters_are_exact_to_the_microsecond,
    a_cursor_is_valid_only_for_its_query,
    fields_selects_members,
    total_count_is_returned_on_request,
    invalid_parameters_are_reported_by_name,
    sorted_pages_are_stable_under_writes,
];

pub const NAMES: [&str; 12] = [
    "Ada Lovelace",
    "ADA YONATH",
    "Alan Turing",
    "alan turing",
    "Grace Hopper",
    "Élodie Dupont",
    "élodie Ádám",
    "Zoë de la Cruz",
    "Ann",
    "Ann Ado",
    "李 小龙",
    "Łukasz Ångström",
];

async fn fill(app: &App) -> Vec<Value> {
    let mut users = Vec::new();
    for number in 0..30 {
        let name = NAMES[number * 7 % NAMES.len()];
        // The orders by email, by name and by creation are unrelated.
        let email = format!("{}{number}@{}.example", ["Ada", "bob", "ann", "cruz"][number % 4], number * 11 % 30);
        users.push(app.create(name, &email).await);
    }
    users
}

fn text<'a>(user: &'a Value, member: &str) -> &'a str {
    user[member].as_str().unwrap()
}

pub fn encode(value: &str) -> String {
    byte_serialize(value.as_bytes()).collect()
}

/// Follows the pages to the last one and back, and returns the ids of all users.
async fn walk(app: &App, query: &str) -> Vec<String> {
    let mut page = app.get(&format!("/users?limit=4&{query}")).await;
    let mut forward = page.ids();
    while let Some(next) = page.link("next") {
        page = app.get(&next).await;
        forward.extend(page.ids());
    }
    let mut backward = page.ids();
    while let Some(previous) = page.link("prev") {
        page = app.get(&previous).await;
        backward.splice(0..0, page.ids());
    }
    assert_eq!(backward, forward, "{query}");
    forward
}

/// A filter as a query parameter, and the expected predicate.
type FilterModel<'a> = (String, Box<dyn Fn(&Value) -> bool + Send + Sync + 'a>);

async fn filters_and_sort_orders_combine(context: Context) {
    let app = context.app().await;
    let users = fill(&app).await;
    let key = |user: &Value| text(user, "name").to_lowercase();
    let email = |user: &Value| text(user, "email").to_lowercase();
    let (early, late) = (text(&users[4], "createdAt"), text(&users[27], "createdAt"));
    let some: Vec<&str> = users.iter().step_by(3).map(|user| text(user, "id")).collect();

    let filters: Vec<FilterModel> = vec![
        ("name=aDa".to_owned(), Box::new(|user| key(user).starts_with("ada"))),
        (
            "q=ad".to_owned(),
            Box::new(|user| {
                let (key, email) = (key(user), email(user));
                [key.as_str(), key.rsplit(' ').next().unwrap(), &email].iter().any(|text| text.starts_with("ad"))
            }),
        ),
        (format!("createdAfter={early}"), Box::new(|user| text(user, "createdAt") > early)),
        (format!("createdBefore={late}"), Box::new(|user| text(user, "createdAt") < late)),
        (format!("ids={}", some.join(",")), Box::new(|user| some.contains(&text(user, "id")))),
        (format!("email={}", encode(&text(&users[9], "email").to_uppercase())), {
            let expected = text(&users[9], "email");
            Box::new(move |user| text(user, "email") == expected)
        }),
    ];
    let compare = |sort: &str, a: &Value, b: &Value| {
        let by_id = text(a, "id").cmp(text(b, "id"));
        match sort.trim_start_matches('-') {
            "name" => key(a).cmp(&key(b)).then(by_id),
            "email" => email(a).cmp(&email(b)),
            _ => text(a, "createdAt").cmp(text(b, "createdAt")).then(by_id),
        }
    };
    // No filter, each alone, each pair, and all but the last, in every sort order.
    let all = 1u32 << filters.len();
    for sort in ["", "createdAt", "-createdAt", "name", "-name", "email", "-email"] {
        for chosen in (0..all).filter(|chosen| chosen.count_ones() <= 2).chain([all / 2 - 1]) {
            let chosen: Vec<&FilterModel> =
                filters.iter().enumerate().filter(|(place, _)| chosen >> place & 1 == 1).map(|(_, f)| f).collect();
            let mut query: Vec<&str> = chosen.iter().map(|(query, _)| query.as_str()).collect();
            let order = format!("sort={sort}");
            if !sort.is_empty() {
                query.push(&order);
            }
            let mut expected: Vec<&Value> =
                users.iter().filter(|user| chosen.iter().all(|(_, holds)| holds(user))).collect();
            expected.sort_by(|a, b| compare(sort, a, b));
            if sort.starts_with('-') {
                expected.reverse();
            }
            let expected: Vec<&str> = expected.into_iter().map(|user| text(user, "id")).collect();
            assert_eq!(walk(&app, &query.join("&")).await, expected, "{query:?}");
        }
    }
}

async fn names_are_matched_case_insensitively(context: Context) {
    let app = context.app().await;
    let user = app.create("Ada Lovelace", "ada@example.com").await;
    let path = format!("/users/{}", text(&user, "id"));
    assert_eq!(app.get("/users?name=ADA%20LOVE").await.ids().len(), 1);
    assert_eq!(app.get("/users?q=LoveLace%20a").await.ids().len(), 1);
    app.create("Élodie Dupont", "elodie@example.com").await;
    for (name, found) in [("ÉLODIE D", 1), ("E\u{301}lo", 1), ("elodie", 0)] {
        assert_eq!(app.get(&format!("/users?name={}", encode(name))).await.ids().len(), found, "{name}");
    }
    // The search follows changes of the name.
    app.patch(&path, &json!({"name": "Augusta King"})).await;
    for (query, found) in [("name=ada", 0), ("q=lovelace", 0), ("name=augusta", 1), ("q=king", 1), ("q=ada@", 1)] {
        assert_eq!(app.get(&format!("/users?{query}")).await.ids().len(), found, "{query}");
    }
    app.put(&path, &json!({"name": "Ada Byron", "email": "byron@example.com"})).await;
    for (query, found) in [("name=ada", 1), ("q=byr", 1), ("q=ada@", 0), ("q=king", 0)] {
        assert_eq!(app.get(&format!("/users?{query}")).await.ids().len(), found, "{query}");
    }
    // Case folding and IDNA: the final sigma, and a domain in Unicode.
    app.create("ΚΩΣΤΑΣ ΠΑΠΑΣ", "ΑΣ+x@bücher.example").await;
    for (query, found) in [
        ("name=ΚΩΣ", 1),
        ("name=κωστας", 1),
        ("q=παπας", 1),
        ("q=ας+x@BÜCHER.example", 1),
        ("q=ασ+x@xn--b", 1),
        ("q=ασ+x@büchse.example", 0),
    ] {
        let (name, value) = query.split_once('=').unwrap();
        assert_eq!(app.get(&format!("/users?{name}={}", encode(value))).await.ids().len(), found, "{query}");
    }
    let taken = json!({"name": "Another", "email": "ας+x@bücher.example"});
    app.post("/users", &taken).await.problem(409, "email-taken");
    // SQL wildcards and quotes are ordinary characters.
    app.create("100% _Sure_ 'O''Hara\\", "odd@example.com").await;
    for (name, found) in [("100%", 1), ("1%", 0), ("100% _s", 1), ("100%__s", 0), ("100% _sure_ 'o''hara\\", 1)] {
        assert_eq!(app.get(&format!("/users?name={}", encode(name))).await.ids().len(), found, "{name}");
    }
}

async fn time_filters_are_exact_to_the_microsecond(context: Context) {
    let app = context.app().await;
    let user = app.create("Ada", "ada@example.com").await;
    let created: DateTime<Utc> = text(&user, "createdAt").parse().unwrap();
    let found = async |parameter: &str, nanoseconds: i64| {
        let time = (created + TimeDelta::nanoseconds(nanoseconds)).to_rfc3339();
        app.get(&format!("/users?{parameter}={}", encode(&time))).await.ids().len()
    };
    for (nanoseconds, after, before) in
        [(-1000, 1, 0), (-999, 1, 0), (-1, 1, 0), (0, 0, 0), (1, 0, 1), (999, 0, 1), (1000, 0, 1)]
    {
        assert_eq!(found("createdAfter", nanoseconds).await, after, "{nanoseconds}");
        assert_eq!(found("createdBefore", nanoseconds).await, before, "{nanoseconds}");
    }
    for (query, found) in [
        ("createdAfter=0000-01-01T00:00:00Z", 1),
        ("createdBefore=9999-12-31T23:59:59.999999999Z", 1),
        ("createdAfter=9999-12-31T23:59:59.999999999Z", 0),
    ] {
        assert_eq!(app.get(&format!("/users?{query}")).await.ids().len(), found, "{query}");
    }
}

async fn a_cursor_is_valid_only_for_its_query(context: Context) {
    let app = context.app().await;
    fill(&app).await;
    let queries =
        ["", "sort=name", "sort=-name", "sort=email", "sort=-createdAt", "name=a", "q=a", "name=a&sort=name", "q=an"];
    for query in queries {
        let next = app.get(&format!("/users?limit=1&{query}")).await.link("next").unwrap();
        let cursor = next.rsplit_once("cursor=").unwrap().1;
        for other in queries {
            let reply = app.get(&format!("/users?{other}&limit=3&fields=id&count=exact&cursor={cursor}")).await;
            if other == query {
                assert_eq!(reply.ids().len(), 3, "limit, fields and count may change");
            } else {
                reply.problem(400, "invalid-cursor");
            }
        }
    }
}

async fn fields_selects_members(context: Context) {
    let app = context.app().await;
    let user = app.create("Ada", "ada@example.com").await;
    for query in ["", "q=ada&", "email=ada@example.com&"] {
        let reply = app.get(&format!("/users?{query}fields=email,id,email")).await;
        assert_eq!(reply.text, format!(r#"[{{"id":{},"email":"ada@example.com"}}]"#, user["id"]));
        let listed = app.get(&format!("/users?{query}fields=email&fields=id")).await;
        assert_eq!(listed.text, reply.text, "a repeated parameter is a list, too");
        let all = app.get(&format!("/users?{query}fields=updatedAt,createdAt,version,email,name,id")).await;
        assert_eq!(all.text, app.get(&format!("/users?{query}")).await.text, "the order of members is fixed");
    }
}

async fn total_count_is_returned_on_request(context: Context) {
    let app = context.app().await;
    let users = fill(&app).await;
    for count in ["exact", "estimated"] {
        for query in ["", "&name=ada", "&q=a&sort=name", "&email=nobody@example.com"] {
            let reply = app.get(&format!("/users?count={count}&limit=100{query}")).await;
            assert_eq!(reply.header("x-total-count"), reply.ids().len().to_string(), "{query}");
        }
        let page = app.get(&format!("/users?count={count}&limit=4")).await;
        let next = app.get(&page.link("next").unwrap()).await;
        assert_eq!(next.header("x-total-count"), users.len().to_string(), "the total of all pages");
    }
    assert!(app.get("/users").await.headers.get("x-total-count").is_none(), "only on request");
}

async fn invalid_parameters_are_reported_by_name(context: Context) {
    let app = context.app().await;
    let ids = vec!["0197b5f0-3c4a-7def-8123-456789abcdef"; 101].join(",");
    let plus = app.get("/users?email=ann+x@example.com").await.problem(400, "invalid-query");
    assert!(plus["detail"].as_str().unwrap().contains("%2B"), "{plus}");
    for (query, parameter, code) in [
        ("sort=id", "sort", "unknown-value"),
        ("sort=name,email", "sort", "unknown-value"),
        ("sort=", "sort", "unknown-value"),
        ("sort=--name", "sort", "unknown-value"),
        ("fields=", "fields", "unknown-value"),
        ("fields=id,secret", "fields", "unknown-value"),
        ("fields=emailKey", "fields", "unknown-value"),
        ("count=yes", "count", "unknown-value"),
        ("name=", "name", "empty"),
        ("name=%20", "name", "empty"),
        ("q=a%00", "q", "control-character"),
        ("ids=", "ids", "malformed"),
        ("ids=1", "ids", "malformed"),
        (&format!("ids={ids}"), "ids", "too-many"),
        ("createdAfter=yesterday", "createdAfter", "malformed"),
        ("createdAfter=2026-11-21", "createdAfter", "malformed"),
        ("createdBefore=2026-11-21T10:00:00+01:00", "createdBefore", "malformed"),
        ("q=a&q=b", "q", "duplicate-parameter"),
        ("created_after=2026-11-21T10:00:00Z", "created_after", "unknown-parameter"),
    ] {
        let problem = app.get(&format!("/users?{query}")).await.problem(400, "invalid-query");
        let error = &problem["errors"][0];
        assert_eq!((error["parameter"].as_str(), error["code"].as_str()), (Some(parameter), Some(code)), "{query}");
    }
    let problem = app.get("/users?sort=x&count=y&fields=z&page=1").await.problem(400, "invalid-query");
    assert_eq!(problem["errors"].as_array().unwrap().len(), 4, "all errors are reported");
}

async fn sorted_pages_are_stable_under_writes(context: Context) {
    let app = context.app().await;
    let steady: BTreeSet<String> = fill(&app).await.iter().map(|user| text(user, "id").to_owned()).collect();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writer = {
        let app = app.clone();
        tokio::spawn(async move {
            let mut count = 0;
            while !*stopped.borrow() {
                // Across the whole list, before and after the current page.
                let name = NAMES[count % NAMES.len()];
                let user = app.create(name, &format!("{}guest{count}@example.com", ["a", "m", "z"][count % 3])).await;
                if count % 4 != 0 {
                    app.delete(&format!("/users/{}", text(&user, "id"))).await;
                }
                count += 1;
            }
            count
        })
    };
    for sort in ["name", "-name", "email", "-email", "-createdAt"] {
        let mut seen = BTreeSet::new();
        let mut page = app.get(&format!("/users?limit=3&sort={sort}")).await;
        loop {
            for id in page.ids() {
                assert!(seen.insert(id), "duplicate id, {sort}");
            }
            match page.link("next") {
                Some(next) => page = app.get(&next).await,
                None => break,
            }
        }
        assert!(steady.is_subset(&seen), "missing id, {sort}");
    }
    stop.send(true).unwrap();
    assert!(writer.await.unwrap() > 0, "nothing was written during the test");
}
