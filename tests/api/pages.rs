//! Lists: limits, cursors, links, and pages under writes.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    cases,
    harness::{App, Context, Reply},
};

cases![
    an_empty_list_is_an_array,
    walks_there_and_back,
    newest_comes_last,
    refuses_what_it_does_not_know,
    refuses_forged_cursors,
    another_instance_understands_the_cursor,
    pages_under_writes_lose_and_repeat_nothing,
];

async fn fill(app: &App, count: usize) -> Vec<String> {
    let mut made = Vec::new();
    for number in 0..count {
        let user = app.create("Ann", &format!("ann{number}@example.com")).await;
        made.push(user["id"].as_str().unwrap().to_owned());
    }
    made
}

async fn an_empty_list_is_an_array(context: Context) {
    let app = context.app().await;
    let reply = app.get("/users").await;
    assert_eq!((reply.status.as_u16(), reply.text.as_str()), (200, "[]"));
    assert_eq!(reply.header("link"), "</users?limit=20>; rel=\"first\"");
}

async fn walks_there_and_back(context: Context) {
    let app = context.app().await;
    let made = fill(&app, 23).await;

    let mut pages = vec![app.get("/users?limit=5").await];
    assert_eq!(pages[0].link("prev"), None);
    while let Some(next) = pages.last().unwrap().link("next") {
        pages.push(app.get(&next).await);
    }
    assert_eq!(pages.iter().map(|page| page.ids().len()).collect::<Vec<_>>(), [5, 5, 5, 5, 3]);
    assert_eq!(pages.iter().flat_map(Reply::ids).collect::<Vec<_>>(), made);

    let mut back = Vec::new();
    let mut page = pages.pop().unwrap();
    loop {
        back.splice(0..0, page.ids());
        match page.link("prev") {
            Some(previous) => page = app.get(&previous).await,
            None => break,
        }
    }
    assert_eq!(back, made);
    assert_eq!(page.link("first").unwrap(), "/users?limit=5");
    assert_eq!(app.get("/users").await.ids().len(), 20);
    assert_eq!(app.get("/users?limit=100").await.ids().len(), 23);
}

async fn newest_comes_last(context: Context) {
    let app = context.app().await;
    let made = fill(&app, 3).await;
    assert_eq!(app.get("/users").await.ids(), made);
}

async fn refuses_what_it_does_not_know(context: Context) {
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

async fn refuses_forged_cursors(context: Context) {
    let app = context.app().await;
    fill(&app, 2).await;
    let next = app.get("/users?limit=1").await.link("next").unwrap();
    let cursor = next.split_once("cursor=").unwrap().1.to_owned();
    let mut forged: Vec<String> = (0..cursor.len())
        .map(|place| {
            let other = if &cursor[place..=place] == "A" { "B" } else { "A" };
            let mut forged = cursor.clone();
            forged.replace_range(place..=place, other);
            forged
        })
        .collect();
    forged.extend(["", "x", "%00", "0197b5f0-3c4a-7def-8123-456789abcdef"].map(str::to_owned));
    forged.push(cursor.repeat(1000));
    forged.push(cursor[1..].to_owned());
    for cursor in forged {
        app.get(&format!("/users?cursor={cursor}")).await.problem(400, "invalid-cursor");
    }
    assert_eq!(app.get(&format!("/users?limit=7&cursor={cursor}")).await.status, 200, "the limit may change");
}

async fn another_instance_understands_the_cursor(context: Context) {
    let one = context.app().await;
    fill(&one, 2).await;
    let next = one.get("/users?limit=1").await.link("next").unwrap();
    let two = context.app_on(&one.url, &[]).await;
    assert_eq!(two.get(&next).await.ids(), one.get(&next).await.ids());
    let three = context.app_on(&one.url, &[("users.cursor_key", "of our own")]).await;
    three.get(&next).await.problem(400, "invalid-cursor");
}

async fn pages_under_writes_lose_and_repeat_nothing(context: Context) {
    let app = context.app().await;
    let steady: BTreeSet<String> = fill(&app, 60).await.into_iter().collect();

    // While pages are walked, others come and go at every place of the list.
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
        // The list grows while it is walked; it is walked until all that stood is passed.
        while !steady.is_subset(&seen) {
            for id in page.ids() {
                assert!(seen.insert(id), "an id came twice");
            }
            match page.link("next") {
                Some(next) => page = app.get(&next).await,
                None => break,
            }
        }
        assert!(steady.is_subset(&seen), "an id was passed over");
    }
    stop.send(true).unwrap();
    for writer in writers {
        assert!(writer.await.unwrap() > 0, "nothing was written meanwhile");
    }
}
