//! The journal: who changed which user, on every path that changes users.

use std::collections::BTreeSet;

use reqwest::Method;
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};

use crate::{
    auth::{REQUIRED, get, id_of, key, migrated, send, with_key},
    cases,
    harness::{App, Context, Reply, binary, connect, eventually, number},
};

cases![
    every_change_is_recorded_with_its_author,
    what_changes_nothing_is_not_recorded,
    each_member_of_a_batch_has_its_own_author,
    a_deletion_erases_the_values_of_the_user,
    a_history_has_pages,
    the_command_line_audits_and_is_audited,
    old_changes_are_deleted,
];

/// The history of a user, oldest first: `version action changed`.
async fn history(app: &App, id: &str, key: &str) -> Vec<String> {
    let reply = get(app, &format!("/users/{id}/history?limit=100"), key).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let describe = |change: &Value| {
        let changed: Vec<&str> = change["changed"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        format!("{} {} {}", change["version"], change["action"].as_str().unwrap(), changed.join(" "))
    };
    reply.json().as_array().unwrap().iter().rev().map(|change| describe(change).trim().to_owned()).collect()
}

fn id(user: &Value) -> &str {
    user["id"].as_str().unwrap()
}

/// Imports rows and returns the report's lines.
async fn import(app: &App, query: &str, key: &str, rows: &[Value], idempotency_key: Option<&str>) -> Vec<Value> {
    let body: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let mut request = with_key(app, Method::POST, &format!("/users/bulk?{query}"), key);
    request = request.header("content-type", "application/x-ndjson").body(body);
    if let Some(key) = idempotency_key {
        request = request.header("idempotency-key", key);
    }
    let reply = Reply::of(request).await;
    reply.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn every_change_is_recorded_with_its_author(context: Context) {
    let url = migrated(&context).await;
    let writer = key(&context, &url, &["all"]).await;
    let auditor = key(&context, &url, &["ops:read"]).await;
    let app = context.app_on(&url, &REQUIRED).await;
    let request = |method, path: &str| with_key(&app, method, path, &writer).header("x-request-id", "of-the-client");
    let ann = json!({"name": "Ann", "email": "ann@example.com"});
    let created = Reply::of(request(Method::POST, "/users").json(&ann)).await.json();
    let path = format!("/users/{}", id(&created));
    assert_eq!(send(&app, Method::PATCH, &path, &writer, &json!({"name": "Anna"})).await.status, 200);
    let other = json!({"name": "Ann", "email": "ann.other@example.com"});
    assert_eq!(send(&app, Method::PUT, &path, &writer, &other).await.status, 200);
    let rows = [
        json!({"name": "Ann", "email": "ANN.other@example.com"}),
        json!({"name": "Ben", "email": "ben@example.com"}),
        json!({"name": "Ben", "email": "Ben@example.com"}),
    ];
    let lines = import(&app, "mode=upsert", &writer, &rows, None).await;
    assert_eq!((&lines[0]["outcome"], &lines[1]["outcome"]), (&json!("updated"), &json!("created")), "{lines:?}");
    assert_eq!(lines[2]["outcome"], "updated", "{lines:?}");
    assert_eq!(
        history(&app, id(&created), &auditor).await,
        ["1 created", "2 updated name", "3 updated name email", "4 updated email"]
    );
    assert_eq!(history(&app, id(&lines[1]), &auditor).await, ["1 created", "2 updated email"]);

    let first = get(&app, &format!("{path}/history?before=2"), &writer).await.json();
    let (actor, created_at) = (format!("key:{}", id_of(&writer)), &created["createdAt"]);
    assert_eq!(first[0]["actor"], json!(actor), "{first}");
    assert_eq!(first[0]["requestId"], "of-the-client", "{first}");
    assert_eq!(first[0]["changedAt"], *created_at, "{first}");
    assert_eq!((&first[0]["name"], &first[0]["email"]), (&ann["name"], &ann["email"]), "{first}");
    let without_values = get(&app, &format!("{path}/history"), &auditor).await;
    assert!(!without_values.text.contains("example.com"), "the caller may not read users: {}", without_values.text);

    // With an idempotency key, once; so are the rows of an import.
    for _ in 0..2 {
        let body = json!({"name": "Carl", "email": "carl@example.com"});
        let created = request(Method::POST, "/users").header("idempotency-key", "once").json(&body);
        let created = Reply::of(created).await.json();
        assert_eq!(history(&app, id(&created), &auditor).await, ["1 created"]);
        let rows = [json!({"name": "Dora", "email": "dora@example.com"})];
        let lines = import(&app, "", &writer, &rows, Some("rows")).await;
        assert_eq!(history(&app, id(&lines[0]), &auditor).await, ["1 created"]);
        let lines =
            import(&app, "atomic=true", &writer, &[json!({"name": "Eve", "email": "eve@example.com"})], Some("all"))
                .await;
        assert_eq!(history(&app, id(&lines[0]), &auditor).await, ["1 created"]);
    }
}

async fn what_changes_nothing_is_not_recorded(context: Context) {
    let app = context.app().await;
    let ann = app.create("Ann", "ann@example.com").await;
    let path = format!("/users/{}", id(&ann));
    let count = async || {
        let database = connect(&app.url).await;
        let count = number(&database, "SELECT COUNT(*) FROM users_journal").await.unwrap();
        database.close().await.unwrap();
        count
    };
    assert_eq!(app.patch(&path, &json!({"name": "Ann"})).await.status, 200);
    app.post("/users", &json!({"name": "Ann", "email": "ANN@example.com"})).await.problem(409, "email-taken");
    let stale = app.request(Method::PATCH, &path).header("if-match", "\"7\"").json(&json!({"name": "Bob"}));
    Reply::of(stale).await.problem(412, "precondition-failed");
    app.delete("/users/019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40").await.problem(404, "user-not-found");
    let ben = app.create("Ben", "ben@example.com").await;
    app.patch(&path, &json!({"email": "ben@example.com"})).await.problem(409, "email-taken");
    let rows = [json!({"name": "New", "email": "new@example.com"}), json!({"name": "Ann", "email": "ann@example.com"})];
    for query in ["atomic=true", "dryRun=true", "dryRun=true&mode=upsert"] {
        import(&app, query, "", &rows, None).await;
    }
    import(&app, "mode=upsert", "", &rows[1..], None).await;
    assert_eq!(count().await, 2, "only the two creations");
    assert_eq!(history(&app, id(&ben), "").await, ["1 created"]);

    // A user that is older than the journal has no history; a user that never existed is not found.
    let database = connect(&app.url).await;
    database.execute_unprepared("DELETE FROM users_journal").await.unwrap();
    database.close().await.unwrap();
    assert!(history(&app, id(&ann), "").await.is_empty());
    app.get("/users/019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40/history").await.problem(404, "user-not-found");
    app.get(&format!("{path}/history?before=0&limit=101")).await.problem(400, "invalid-query");
}

async fn each_member_of_a_batch_has_its_own_author(context: Context) {
    let url = migrated(&context).await;
    let keys = [key(&context, &url, &["all"]).await, key(&context, &url, &["all"]).await];
    let app = context
        .app_on(&url, &[&REQUIRED[..], &[("pool.max", "1"), ("pool.min", "0"), ("pool.acquire", "30s")]].concat())
        .await;
    let creating = (0..60).map(|number| {
        let (app, key) = (app.clone(), keys[number % 2].clone());
        tokio::spawn(async move {
            let body = json!({"name": "Ann", "email": format!("ann{}@example.com", number / 3)});
            let mut request = with_key(&app, Method::POST, "/users", &key).header("x-request-id", format!("r{number}"));
            if number % 4 == 0 {
                request = request.header("idempotency-key", format!("k{number}"));
            }
            (number, Reply::of(request.json(&body)).await)
        })
    });
    let mut expected = BTreeSet::new();
    for created in futures_util::future::join_all(creating).await {
        let (number, reply) = created.unwrap();
        if reply.status == 201 {
            let user = reply.json();
            expected.insert((id(&user).to_owned(), format!("key:{}", id_of(&keys[number % 2])), format!("r{number}")));
        }
    }
    assert_eq!(expected.len(), 20);
    let mut found = BTreeSet::new();
    for (user, ..) in &expected {
        let change = get(&app, &format!("/users/{user}/history"), &keys[0]).await.json();
        let text = |member: &str| change[0][member].as_str().unwrap().to_owned();
        assert_eq!(change.as_array().unwrap().len(), 1, "{change}");
        found.insert((user.clone(), text("actor"), text("requestId")));
    }
    assert_eq!(found, expected);
}

async fn a_deletion_erases_the_values_of_the_user(context: Context) {
    let app = context.app().await;
    let ann = app.create("Ann", "ann@example.com").await;
    let ben = app.create("Ben", "ben@example.com").await;
    let path = format!("/users/{}", id(&ann));
    assert_eq!(app.patch(&path, &json!({"name": "Anna"})).await.status, 200);
    let deletion = app.request(Method::DELETE, &path).header("if-match", "\"2\"");
    assert_eq!(Reply::of(deletion).await.status, 204);
    assert_eq!(history(&app, id(&ann), "").await, ["1 created", "2 updated name", "3 deleted"]);
    let changes = app.get(&format!("{path}/history")).await;
    assert!(!changes.text.contains("Ann") && !changes.text.contains("example.com"), "{}", changes.text);
    let other = app.get(&format!("/users/{}/history", id(&ben))).await;
    assert!(other.text.contains("ben@example.com"), "only the values of the deleted user: {}", other.text);
    // The email is free again, and its new user is another one.
    let again = app.create("Ann", "ann@example.com").await;
    assert_eq!(history(&app, id(&again), "").await, ["1 created"]);
}

async fn a_history_has_pages(context: Context) {
    let app = context.app().await;
    let ann = app.create("Ann", "ann@example.com").await;
    let path = format!("/users/{}", id(&ann));
    for number in 2..=25 {
        assert_eq!(app.patch(&path, &json!({"name": format!("Ann {number}")})).await.status, 200);
    }
    let (mut next, mut versions) = (Some(format!("{path}/history?limit=10")), Vec::new());
    while let Some(page) = next {
        let reply = app.get(&page).await;
        let changes = reply.json();
        versions.extend(changes.as_array().unwrap().iter().map(|change| change["version"].as_i64().unwrap()));
        next = reply.headers.get("link").and_then(|_| reply.link("next"));
    }
    assert_eq!(versions, (1..=25).rev().collect::<Vec<i64>>());
    assert_eq!(app.get(&format!("{path}/history")).await.json().as_array().unwrap().len(), 20, "the default");
    assert_eq!(app.get(&format!("{path}/history?before=1")).await.json(), json!([]));
    app.get("/users/019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40/history?before=5").await.problem(404, "user-not-found");
    assert_eq!(app.delete(&path).await.status, 204);
    assert_eq!(app.get(&format!("{path}/history?before=1")).await.json(), json!([]));
}

async fn the_command_line_audits_and_is_audited(context: Context) {
    let app = context.app().await;
    let url = app.url.clone();
    let run = async |arguments: &[&str]| {
        let output = binary(context.folder(), &[("DATABASE_URL", &url)]).args(arguments).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let ann = app.create("Ann", "ann@example.com").await;
    let rows = "{\"name\":\"Anna\",\"email\":\"ann@example.com\"}\n{\"name\":\"Ben\",\"email\":\"ben@example.com\"}\n";
    std::fs::write(context.folder().join("rows.ndjson"), rows).unwrap();
    run(&["import", "--mode", "upsert", "rows.ndjson"]).await;
    let audit = async |arguments: &[&str]| -> Vec<Value> {
        let arguments = [&["audit", "--json"], arguments].concat();
        run(&arguments).await.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let user = std::process::Command::new("id").arg("-un").output().unwrap().stdout;
    let operator = format!("cli:{}", String::from_utf8(user).unwrap().trim());
    let all = audit(&[]).await;
    let actions: Vec<_> =
        all.iter().map(|it| (it["action"].as_str().unwrap(), it["actor"].as_str().unwrap())).collect();
    let (mut imported, first) = (actions[..2].to_vec(), actions[2]);
    imported.sort_unstable();
    assert_eq!(imported, [("created", operator.as_str()), ("updated", operator.as_str())]);
    assert_eq!((first, actions.len()), (("created", "anyone"), 3));
    let of_ann = audit(&["--user", id(&ann)]).await;
    let versions: Vec<_> = of_ann.iter().map(|change| change["version"].as_i64().unwrap()).collect();
    assert_eq!(versions, [2, 1]);
    assert_eq!((&of_ann[0]["name"], &of_ann[0]["requestId"]), (&json!("Anna"), &Value::Null));
    assert_eq!(audit(&["--actor", "anyone"]).await.len(), 1);
    assert_eq!(audit(&["--since", "1h", "--limit", "2"]).await.len(), 2);
    assert_eq!(audit(&["--since", "2099-01-01T00:00:00Z"]).await.len(), 0);
    let text = run(&["audit", "--user", id(&ann)]).await;
    assert!(text.contains("version 2  updated") && text.contains("(name)") && text.contains(&operator), "{text}");
    for arguments in [["--user", "x"], ["--since", "yesterday"]] {
        let output =
            binary(context.folder(), &[("DATABASE_URL", &url)]).arg("audit").args(arguments).output().await.unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

async fn old_changes_are_deleted(context: Context) {
    let app = context.app().await;
    let rows: Vec<Value> =
        (0..2000).map(|number| json!({"name": "Ann", "email": format!("ann{number}@example.com")})).collect();
    import(&app, "report=summary", "", &rows, None).await;
    app.stop().await.unwrap().unwrap();
    let database = connect(&app.url).await;
    let count = async || number(&database, "SELECT COUNT(*) FROM users_journal").await.unwrap();
    let first = number(&database, "SELECT MIN(id) FROM users_journal").await.unwrap();
    // Entries of a clock that was wrong, more than are examined at a time, before old ones and the last ones.
    for (time, from, until) in [("2099-01-01", 0, 700), ("2020-01-01", 700, 1900)] {
        let sql = format!(
            "UPDATE users_journal SET changed_at = '{time} 00:00:00' WHERE id >= {} AND id < {}",
            first + from,
            first + until
        );
        database.execute_unprepared(&sql).await.unwrap();
    }
    let app = context.app_on(&app.url, &[("journal.keep", "1s")]).await;
    // The last ones expire in the meantime.
    eventually("old entries are deleted", || async { (count().await == 700).then_some(()) }).await;
    database.close().await.unwrap();
    assert_eq!(app.get("/users").await.ids().len(), 20, "users are kept");
}
