//! The users resource: create, find, replace, patch, delete.

use orm_pool::{DatabaseUrl, Pool, PoolOptions};
use serde_json::{Value, json};
use users_api::{
    domain::{Actor, Author, Email, Name, Precondition, Version},
    service::{Change, Draft, Error, SchemaService, UserService},
};

use crate::{
    cases,
    harness::{Context, End, Reply, Server, new_database},
};

cases![
    a_created_user_is_found,
    head_matches_get,
    an_email_is_unique_in_every_spelling,
    an_email_conflict_is_detected_in_every_server_language,
    the_email_of_a_deleted_user_is_free_again,
    put_replaces_a_user,
    patch_changes_only_the_given_members,
    a_patch_without_changes_is_not_written,
    updates_reject_an_email_in_use,
    delete_removes_a_user,
    unknown_users_paths_and_methods_are_rejected,
    names_are_stored_unchanged,
    invisible_names_and_emails_are_rejected,
    times_are_utc_with_microseconds,
    every_concurrent_update_increments_the_version,
    only_the_current_version_is_accepted,
];

async fn a_created_user_is_found(context: Context) {
    let app = context.app().await;
    let reply = app.post("/users", &json!({"name": "  Ann  ", "email": "Ann@Example.com"})).await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    let created = reply.json();
    let members: Vec<&String> = created.as_object().unwrap().keys().collect();
    assert_eq!(members.len(), 6, "{created}");
    assert_eq!(
        (&created["name"], &created["email"], &created["version"]),
        (&json!("Ann"), &json!("Ann@Example.com"), &json!(1))
    );
    assert_eq!(created["createdAt"], created["updatedAt"]);
    let id = created["id"].as_str().unwrap();
    assert_eq!(id.as_bytes()[14], b'7', "a UUIDv7: {id}");
    assert_eq!(reply.header("location"), format!("/users/{id}"));
    assert_eq!(reply.header("content-type"), "application/json");

    let found = app.get(reply.header("location")).await;
    assert_eq!((found.status.as_u16(), found.json()), (200, created.clone()));
    assert_eq!(app.get(&format!("/users/{}", id.to_uppercase())).await.json(), created);
}

async fn head_matches_get(context: Context) {
    let app = context.app().await;
    let id = app.create("Ann", "ann@example.com").await["id"].as_str().unwrap().to_owned();
    for path in [format!("/users/{id}"), "/users".to_owned(), "/health/ready".to_owned(), "/users/nobody".to_owned()] {
        let get = app.get(&path).await;
        let head = Reply::of(app.request(reqwest::Method::HEAD, &path)).await;
        assert_eq!((head.status, head.text.as_str()), (get.status, ""));
        assert_eq!(head.header("content-length"), get.text.len().to_string());
        assert_eq!(head.header("content-type"), get.header("content-type"));
    }
}

async fn an_email_is_unique_in_every_spelling(context: Context) {
    let app = context.app().await;
    app.create("Ann", "ann@bücher.example").await;
    for email in ["ann@bücher.example", "ANN@BÜCHER.example", "ann@xn--bcher-kva.example"] {
        app.post("/users", &json!({"name": "Other", "email": email})).await.problem(409, "email-taken");
    }
    app.create("Other", "a.nn@bücher.example").await;
    app.create("Other", "ann+x@bücher.example").await;
    app.create("Other", "änn@bücher.example").await;
}

/// MySQL and MariaDB name the violated key only in their message, which is localized.
async fn an_email_conflict_is_detected_in_every_server_language(context: Context) {
    if !context.engine().is_mysql_like() {
        return;
    }
    let mut server = Server::new(context.engine(), &["--lc-messages=cs_CZ"]);
    server.start(End::Orderly);
    server.await_ready();
    let app = context.app_on(&new_database(server.url()).await, &[]).await;
    app.create("Ann", "ann@example.com").await;
    let bob = app.create("Bob", "bob@example.com").await;
    let taken = json!({"name": "Bob", "email": "ANN@example.com"});
    app.post("/users", &taken).await.problem(409, "email-taken");
    app.put(&format!("/users/{}", bob["id"].as_str().unwrap()), &taken).await.problem(409, "email-taken");
    app.stop().await.unwrap().unwrap();
    server.stop();
}

async fn the_email_of_a_deleted_user_is_free_again(context: Context) {
    let app = context.app().await;
    let ann = app.create("Ann", "ann@example.com").await;
    app.delete(&format!("/users/{}", ann["id"].as_str().unwrap())).await;
    app.create("Ann", "ann@example.com").await;
}

async fn put_replaces_a_user(context: Context) {
    let app = context.app().await;
    let ann = app.create("Ann", "ann@example.com").await;
    let path = format!("/users/{}", ann["id"].as_str().unwrap());
    let reply = app.put(&path, &json!({"name": "Bob", "email": "bob@example.com"})).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let bob = reply.json();
    assert_eq!((&bob["name"], &bob["email"], &bob["version"]), (&json!("Bob"), &json!("bob@example.com"), &json!(2)));
    assert_eq!((&bob["id"], &bob["createdAt"]), (&ann["id"], &ann["createdAt"]));
    assert!(bob["updatedAt"].as_str() > ann["updatedAt"].as_str());
    assert_eq!(app.get(&path).await.json(), bob);
    assert_eq!(app.put(&path, &json!({"name": "Bob"})).await.validation_errors(), ["/email required"]);
}

async fn patch_changes_only_the_given_members(context: Context) {
    let app = context.app().await;
    let ann = app.create("Ann", "ann@example.com").await;
    let path = format!("/users/{}", ann["id"].as_str().unwrap());
    let named = app.patch(&path, &json!({"name": "Bob"})).await.json();
    assert_eq!((&named["name"], &named["email"], &named["version"]), (&json!("Bob"), &ann["email"], &json!(2)));
    let mailed = app.patch(&path, &json!({"email": "bob@example.com"})).await.json();
    assert_eq!((&mailed["name"], &mailed["version"]), (&json!("Bob"), &json!(3)));
    assert_eq!(app.get(&path).await.json(), mailed);
    assert_eq!(
        app.patch(&path, &json!({"name": null, "version": 9})).await.validation_errors(),
        ["/name required", "/version unknown-member"]
    );
}

async fn a_patch_without_changes_is_not_written(context: Context) {
    let app = context.app().await;
    let ann = app.create("Ann", "ann@example.com").await;
    let path = format!("/users/{}", ann["id"].as_str().unwrap());
    for patch in [json!({}), json!({"name": " Ann "}), json!({"name": "Ann", "email": "ann@example.com"})] {
        assert_eq!(app.patch(&path, &patch).await.json(), ann);
    }
    // Another spelling of the same email is a change, and no conflict with the user's own email.
    let changed = app.patch(&path, &json!({"email": "Ann@Example.com"})).await.json();
    assert_eq!((&changed["email"], &changed["version"]), (&json!("Ann@Example.com"), &json!(2)));
}

async fn updates_reject_an_email_in_use(context: Context) {
    let app = context.app().await;
    app.create("Ann", "ann@example.com").await;
    let bob = app.create("Bob", "bob@example.com").await;
    let path = format!("/users/{}", bob["id"].as_str().unwrap());
    app.patch(&path, &json!({"name": "X", "email": "ANN@example.com"})).await.problem(409, "email-taken");
    app.put(&path, &json!({"name": "X", "email": "ann@example.com"})).await.problem(409, "email-taken");
    assert_eq!(app.get(&path).await.json(), bob, "a rejected update changes nothing");
}

async fn delete_removes_a_user(context: Context) {
    let app = context.app().await;
    let ann = app.create("Ann", "ann@example.com").await;
    let path = format!("/users/{}", ann["id"].as_str().unwrap());
    let reply = app.delete(&path).await;
    assert_eq!((reply.status.as_u16(), reply.text.as_str()), (204, ""));
    app.delete(&path).await.problem(404, "user-not-found");
    app.get(&path).await.problem(404, "user-not-found");
}

async fn unknown_users_paths_and_methods_are_rejected(context: Context) {
    let app = context.app().await;
    let unknown = "/users/0197b5f0-3c4a-7def-8123-456789abcdef";
    let body = json!({"name": "A", "email": "a@example.com"});
    assert_eq!(app.get(unknown).await.problem(404, "user-not-found")["instance"], unknown);
    app.put(unknown, &body).await.problem(404, "user-not-found");
    app.patch(unknown, &json!({"name": "A"})).await.problem(404, "user-not-found");
    app.delete(unknown).await.problem(404, "user-not-found");
    for path in ["/user", "/users/", "/users/a/b", "/swagger-ui", "/health"] {
        app.get(path).await.problem(404, "not-found");
    }
    for (method, path, allow) in [
        ("DELETE", "/users", "GET, HEAD, POST"),
        ("POST", unknown, "GET, HEAD, PUT, PATCH, DELETE"),
        ("OPTIONS", "/users", "GET, HEAD, POST"),
        ("BREW", "/users", "GET, HEAD, POST"),
        ("POST", "/health/live", "GET, HEAD"),
    ] {
        let reply = Reply::of(app.request(method.parse().unwrap(), path)).await;
        reply.problem(405, "method-not-allowed");
        assert_eq!(reply.header("allow"), allow, "{method} {path}");
    }
}

async fn names_are_stored_unchanged(context: Context) {
    let app = context.app().await;
    let longest = "é".repeat(200);
    let names = ["👩‍👩‍👧‍👦 🇺🇳", "Robert'); DROP TABLE users;--", "%_\\\"'", "علي", "名前", longest.as_str()];
    for (number, name) in names.into_iter().enumerate() {
        let user = app.create(name, &format!("user{number}@example.com")).await;
        assert_eq!(user["name"], name);
        assert_eq!(app.get(&format!("/users/{}", user["id"].as_str().unwrap())).await.json(), user);
    }
}

async fn times_are_utc_with_microseconds(context: Context) {
    let app = context.app().await;
    let user = app.create("Ann", "ann@example.com").await;
    for member in ["createdAt", "updatedAt"] {
        let time = user[member].as_str().unwrap();
        assert_eq!((time.len(), &time[19..20], &time[26..]), (27, ".", "Z"), "{time}");
        let parsed: chrono::DateTime<chrono::Utc> = time.parse().unwrap();
        assert!((users_api::service::clock::now() - parsed).num_minutes().abs() < 5);
    }
}

async fn every_concurrent_update_increments_the_version(context: Context) {
    let app = context.app().await;
    let ann = app.create("Ann", "ann@example.com").await;
    let path = format!("/users/{}", ann["id"].as_str().unwrap());
    let racing = (0..40).map(|number| {
        let (app, path) = (app.clone(), path.clone());
        tokio::spawn(async move { app.patch(&path, &json!({ "name": format!("Ann {number}") })).await })
    });
    let mut versions: Vec<i64> = Vec::new();
    for reply in futures_util::future::join_all(racing).await {
        let reply = reply.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text);
        versions.push(reply.json()["version"].as_i64().unwrap());
    }
    versions.sort_unstable();
    assert_eq!(versions, (2..=41).collect::<Vec<i64>>(), "each update saw the one before it");
    assert_eq!(app.get(&path).await.json()["version"], Value::from(41));
}

async fn only_the_current_version_is_accepted(context: Context) {
    let url = context.database().await;
    let pool = Pool::connect(&DatabaseUrl::parse(&url).unwrap(), &PoolOptions::default()).await.unwrap();
    SchemaService::new(pool.clone()).up(std::future::pending()).await.unwrap();
    let service = UserService::new(pool.clone(), None);
    let draft =
        |name: &str| Draft { name: Name::parse(name).unwrap(), email: Email::parse("ann@example.com").unwrap() };
    let author = || Author { actor: Actor::Anyone, request_id: None };
    let rename = |name: &str| Change { name: Some(Name::parse(name).unwrap()), email: None };
    let at = |version: i64| Precondition::from(version.to_string().parse::<Version>().unwrap());
    let id = service.create(draft("Ann"), author()).await.unwrap().id;

    assert_eq!(service.patch(id, at(1), rename("Bob"), author()).await.unwrap().version.get(), 2);
    for mismatch in [
        service.patch(id, at(1), rename("Carl"), author()).await.err(),
        service.replace(id, at(3), draft("Carl"), author()).await.err(),
        service.delete(id, at(1), author()).await.err(),
    ] {
        assert!(matches!(mismatch, Some(Error::PreconditionFailed { current }) if current.get() == 2), "{mismatch:?}");
    }
    let user = service.find(id).await.unwrap();
    assert_eq!((user.name.as_str(), user.version.get()), ("Bob", 2));

    // Of concurrent writers that expect the same version, one succeeds.
    let racing = (0..20).map(|number| {
        let (service, change) = (service.clone(), rename(&format!("Ann {number}")));
        tokio::spawn(async move { service.patch(id, at(2), change, author()).await.is_ok() })
    });
    let won = futures_util::future::join_all(racing).await.into_iter().filter(|won| *won.as_ref().unwrap()).count();
    assert_eq!((won, service.find(id).await.unwrap().version.get()), (1, 3));

    service.delete(id, at(3), author()).await.unwrap();
    assert!(matches!(service.delete(id, at(3), author()).await, Err(Error::NotFound)));
    pool.close(std::time::Duration::from_secs(5)).await.unwrap();
}

async fn invisible_names_and_emails_are_rejected(context: Context) {
    let app = context.app().await;
    for (name, code) in [
        ("\u{200b}", "invisible"),
        ("\u{2800}\u{2800}", "invisible"),
        ("\u{3164}", "invisible"),
        ("\u{301}", "invisible"),
        ("Ann\u{202e}nnA", "bidi-control"),
        ("Ann\u{2028}Bob", "control-character"),
    ] {
        let reply = app.post("/users", &json!({"name": name, "email": "ann@example.com"})).await;
        assert_eq!(reply.problem(422, "validation-failed")["errors"][0]["code"], code, "{name:?}");
    }
    for email in
        ["an\u{3164}n@example.com", "ann\u{200b}@example.com", "ann@exam\u{ad}ple.com", "\u{202a}ann@example.com"]
    {
        let reply = app.post("/users", &json!({"name": "Ann", "email": email})).await;
        assert_eq!(reply.problem(422, "validation-failed")["errors"][0]["code"], "invisible", "{email:?}");
    }
    // Users that were stored with such a name before are found and can be changed.
    let ann = app.create("Ann", "ann@example.com").await;
    let path = format!("/users/{}", ann["id"].as_str().unwrap());
    let database = crate::harness::connect(&app.url).await;
    let update = "UPDATE users SET name = '\u{200b}', name_key = '\u{200b}', last_word_key = '\u{200b}', email = 'an\u{3164}n@example.com'";
    sea_orm::ConnectionTrait::execute_unprepared(&database, update).await.unwrap();
    database.close().await.unwrap();
    assert_eq!(app.get("/users?name=%E2%80%8B").await.ids().len(), 1);
    assert_eq!(app.get(&path).await.json()["name"], "\u{200b}");
    let patched = app.patch(&path, &json!({"email": "new@example.com"})).await;
    assert_eq!((patched.status.as_u16(), &patched.json()["name"]), (200, &json!("\u{200b}")));
    let patched = app.patch(&path, &json!({"name": "Ann"})).await;
    assert_eq!((patched.status.as_u16(), &patched.json()["name"]), (200, &json!("Ann")));
}
