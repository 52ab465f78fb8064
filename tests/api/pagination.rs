//! Pagination: limits, cursors, links, and pages under concurrent writes.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    cases,
    harness::{App, Context, Reply},
};

cases![
    an_empty_list_is_an_array,
    links_walk_all_pages_forward_and_backward,
    users_are_listed_in_order_of_creation,
    invalid_query_parameters_are_rejected,
    forged_cursors_are_rejected,
    cursors_are_valid_on_instances_with_the_same_key,
    concurrent_writes_cause_no_skipped_or_repeated_users,
];

async fn create_users(app: &App, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for number in 0..count {
        let user = app.create("Ann", &format!("ann{number}@example.com")).await;
        ids.push(user["id"].as_str().unwrap().to_owned());
    }
    ids
}

async fn an_empty_list_is_an_array(context: Context) {
    let app = context.app().await;
    let reply = app.get("/users").await;
    assert_eq!((reply.status.as_u16(), reply.text.as_str()), (200, "[]"));
    assert_eq!(reply.header("link"), "</users?limit=20>; rel=\"first\"");
}

async fn links_walk_all_pages_forward_and_backward(context: Context) {
    let app = context.app().await;
    let ids = create_users(&app, 23).await;

    let mut pages = vec![app.get("/users?limit=5").await];
    assert_eq!(pages[0].link("prev"), None);
    while let Some(next) = pages.last().unwrap().link("next") {
        pages.push(app.get(&next).await);
    }
    assert_eq!(pages.iter().map(|page| page.ids().len()).collect::<Vec<_>>(), [5, 5, 5, 5, 3]);
    assert_eq!(pages.iter().flat_map(Reply::ids).collect::<Vec<_>>(), ids);

    let mut backward = Vec::new();
    let mut page = pages.pop().unwrap();
    loop {
        backward.splice(0..0, page.ids());
        match page.link("prev") {
            Some(previous) => page = app.get(&previous).await,
            None => break,
        }
    }
    assert_eq!(backward, ids);
    assert_eq!(page.link("first").unwrap(), "/users?limit=5");
    assert_eq!(app.get("/users").await.ids().len(), 20);
    assert_eq!(app.get("/users?limit=100").await.ids().len(), 23);
}

async fn users_are_listed_in_order_of_creation(context: Context) {
    let app = context.app().await;
    let ids = create_users(&app, 3).await;
    assert_eq!(app.get("/users").await.ids(), ids);
}

async fn invalid_query_parameters_are_rejected(context: Context) {
    let app = context.app().await;
    for (query, parameter, code) in [
        ("limit=0", "limit", "out-of-range"),
        ("limit=101", "limit", "out-of-range"),
        ("limit=-1", "limit", "out-of-range"),
        ("limit=", "limit", "out-of-range"),
        ("limit=1e2", "limit", "out-of-range"),
        ("limit=99999999999999999999999999999999", "limit", "out-of-range"),
        ("limit=5&limit=6", "limit", "duplicate-parameter"),
        ("page=2", "page", "unknown-parameter"),
        ("Limit=2", "Limit", "unknown-parameter"),
        ("limit=5&offset=9", "offset", "unknown-parameter"),
        ("%00=1", "\0", "unknown-parameter"),
    ] {
        let problem = app.get(&format!("/users?{query}")).await.problem(400, "invalid-query");
        assert_eq!(
            (&problem["errors"][0]["parameter"], &problem["errors"][0]["code"]),
            (&Value::from(parameter), &Value::from(code))
        );
        assert!(problem["detail"].as_str().unwrap().contains(parameter), "{problem}");
    }
}

async fn forged_cursors_are_rejected(context: Context) {
    let app = context.app().await;
    create_users(&app, 2).await;
    let next = app.get("/users?limit=1").await.link("next").unwrap();
    let cursor = next.split_once("cursor=").unwrap().1.to_owned();
    let mut forged: Vec<String> = (0..cursor.len())
        .map(|index| {
            let replacement = if &cursor[index..=index] == "A" { "B" } else { "A" };
            let mut forged = cursor.clone();
            forged.replace_range(index..=index, replacement);
            forged
        })
        .collect();
    forged.extend(["", "x", "%00", "0197b5f0-3c4a-7def-8123-456789abcdef"].map(str::to_owned));
    forged.push(cursor.repeat(1000));
    forged.push(cursor[1..].to_owned());
    for cursor in forged {
        app.get(&format!("/users?cursor={cursor}")).await.problem(400, "invalid-cursor");
    }
    let other_limit = app.get(&format!("/users?limit=7&cursor={cursor}")).await;
    assert_eq!(other_limit.status, 200, "the limit may change between pages");
}

async fn cursors_are_valid_on_instances_with_the_same_key(context: Context) {
    let one = context.app().await;
    create_users(&one, 2).await;
    let next = one.get("/users?limit=1").await.link("next").unwrap();
    let two = context.app_on(&one.url, &[]).await;
    assert_eq!(two.get(&next).await.ids(), one.get(&next).await.ids());
    let three = context.app_on(&one.url, &[("users.cursor_key", "of our own")]).await;
    three.get(&next).await.problem(400, "invalid-cursor");
}

async fn concurrent_writes_cause_no_skipped_or_repeated_users(context: Context) {
    let app = context.app().await;
    let stable: BTreeSet<String> = create_users(&app, 60).await.into_iter().collect();

    // During the walk, other users are created and deleted.
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (app, stopped) = (app.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while !*stopped.borrow() {
                    let user = app.create("Guest", &format!("guest{writer}-{count}@example.com")).await;
                    if count % 2 == 0 {
                        app.delete(&format!("/users/{}", user["id"].as_str().unwrap())).await;
                    }
                    count += 1;
                }
                count
            })
        })
        .collect();

    for _ in 0..5 {
        let mut seen = BTreeSet::new();
        let mut page = app.get("/users?limit=3").await;
        // The list grows during the walk, so the walk ends once every stable user has been seen.
        while !stable.is_subset(&seen) {
            for id in page.ids() {
                assert!(seen.insert(id), "an id was repeated");
            }
            match page.link("next") {
                Some(next) => page = app.get(&next).await,
                None => break,
            }
        }
        assert!(stable.is_subset(&seen), "an id was skipped");
    }
    stop.send(true).unwrap();
    for writer in writers {
        assert!(writer.await.unwrap() > 0, "nothing was written during the walk");
    }
}
