//! API keys: how they are created, rotated and revoked, over HTTP and on the command line.

use reqwest::Method;
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};

use crate::{
    auth::{REFRESHED, REQUIRED, get, id_of, key, keys, migrated, printed, send, with_key},
    cases,
    harness::{App, Context, Engine, Reply, connect, eventually},
};

cases![
    keys_are_created_rotated_and_revoked,
    the_command_line_shows_creates_and_revokes_keys,
    a_caller_grants_no_scope_that_it_lacks,
    the_last_use_of_a_key_is_stored,
    an_invalid_row_locks_no_one_out,
    without_authentication_no_one_manages_keys,
];

/// Creates a key over HTTP, rotates it and revokes the first one. Returns both.
async fn rotated(app: &App, admin: &str) -> (String, String) {
    let body = json!({"name": "billing", "scope": "users:write users:read"});
    let created = send(app, Method::POST, "/keys", admin, &body).await;
    assert_eq!((created.status.as_u16(), created.header("cache-control")), (201, "no-store"), "{}", created.text);
    let created = created.json();
    assert_eq!(created["scope"], "users:read users:write");
    let first = created["key"].as_str().unwrap().to_owned();
    let works = async |key: &str, status: u16| {
        eventually(&format!("status {status}"), || async {
            (get(app, "/users", key).await.status == status).then_some(())
        })
        .await;
    };
    works(&first, 200).await;
    let path = format!("/keys/{}", id_of(&first));
    let rotated = send(app, Method::POST, &format!("{path}/rotate"), admin, &json!({})).await;
    assert_eq!(rotated.status, 201, "{}", rotated.text);
    let second = rotated.json()["key"].as_str().unwrap().to_owned();
    works(&second, 200).await;
    assert_eq!(get(app, "/users", &first).await.status, 200, "both work during the overlap");
    assert_eq!(Reply::of(with_key(app, Method::DELETE, &path, admin)).await.status, 204);
    assert_eq!(Reply::of(with_key(app, Method::DELETE, &path, admin)).await.status, 204, "again");
    works(&first, 401).await;
    assert_eq!(get(app, "/users", &second).await.status, 200);
    (first, second)
}

async fn keys_are_created_rotated_and_revoked(context: Context) {
    let url = migrated(&context).await;
    let admin = key(&context, &url, &["all"]).await;
    let app = context.app_on(&url, &REFRESHED).await;
    let (first, second) = rotated(&app, &admin).await;
    let rotate =
        async |id: &str, body: Value| send(&app, Method::POST, &format!("/keys/{id}/rotate"), &admin, &body).await;
    rotate(id_of(&first), json!({})).await.problem(409, "key-inactive");
    assert_eq!(rotate(id_of(&second), json!({"overlap": "1h"})).await.status, 201);
    rotate(id_of(&second), json!({})).await.problem(409, "key-inactive");
    rotate("0123456789ab", json!({})).await.problem(404, "key-not-found");
    let revoke = async |id: &str| Reply::of(with_key(&app, Method::DELETE, &format!("/keys/{id}"), &admin)).await;
    revoke("0123456789ab").await.problem(404, "key-not-found");
    revoke("0").await.problem(400, "invalid-id");

    let listed = get(&app, "/keys", &admin).await;
    assert!(!listed.text.contains("uak_"), "{}", listed.text);
    let listed = listed.json();
    let of = |key: &str| listed.as_array().unwrap().iter().find(|it| it["id"] == id_of(key)).unwrap().clone();
    assert!(of(&first)["revokedAt"].is_string() && of(&first)["expiresAt"].is_string(), "{listed}");
    assert_eq!(of(&first)["replacedBy"], id_of(&second));
    assert!(of(&second)["revokedAt"].is_null() && of(&second)["expiresAt"].is_string(), "{listed}");
    assert_eq!(of(&second)["name"], "billing");
}

async fn the_command_line_shows_creates_and_revokes_keys(context: Context) {
    let url = migrated(&context).await;
    let admin = key(&context, &url, &["all"]).await;
    let app = context.app_on(&url, &REFRESHED).await;
    let (first, second) = rotated(&app, &admin).await;
    let table = printed(&context, &url, &["list"]).await;
    assert!(table.starts_with("ID            STATE  "), "{table}");
    assert!(!table.contains('\u{1b}'), "colours are for terminals only: {table:?}");
    assert!(table.contains(&format!("{}  revoked", id_of(&first))), "{table}");
    assert!(table.contains(&format!("{}  active", id_of(&second))), "{table}");
    printed(&context, &url, &["rotate", id_of(&second), "--overlap", "1h"]).await;
    let table = printed(&context, &url, &["list"]).await;
    assert!(table.contains(&format!("{}  until", id_of(&second))), "{table}");
    let lines = printed(&context, &url, &["list", "--json"]).await;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[2]["scope"], "users:read users:write");
    let created = printed(&context, &url, &["create", "--name", "x", "--scope", "users:read", "--json"]).await;
    let created: Value = serde_json::from_str(&created).unwrap();
    assert_eq!(id_of(created["key"].as_str().unwrap()), created["id"].as_str().unwrap());
    let revoked = printed(&context, &url, &["revoke", created["id"].as_str().unwrap(), "--json"]).await;
    assert_eq!(revoked, format!("{{\"id\":{},\"revoked\":true}}", created["id"]));
    assert_eq!(keys(&context, &url, &["revoke", "0123456789ab"]).await.status.code(), Some(1));
    assert_eq!(keys(&context, &url, &["revoke", "0"]).await.status.code(), Some(2));
    for scope in ["users", "users:self"] {
        assert_eq!(keys(&context, &url, &["create", "--name", "x", "--scope", scope]).await.status.code(), Some(2));
    }
    let refused = keys(&context, &url, &["rotate", id_of(&second), "--overlap", "366d"]).await;
    assert_eq!(refused.status.code(), Some(2), "the limit is that of POST /keys/{{id}}/rotate");
}

async fn a_caller_grants_no_scope_that_it_lacks(context: Context) {
    let url = migrated(&context).await;
    let admin = key(&context, &url, &["keys:admin", "users:read"]).await;
    let stronger = key(&context, &url, &["users:delete"]).await;
    let app = context.app_on(&url, &REQUIRED).await;
    let body = json!({"name": "x", "scope": "users:read users:delete"});
    let refused = send(&app, Method::POST, "/keys", &admin, &body).await.problem(403, "scope-missing");
    assert!(refused["detail"].as_str().unwrap().contains("users:delete"), "{refused}");
    let rotate = format!("/keys/{}/rotate", id_of(&stronger));
    send(&app, Method::POST, &rotate, &admin, &json!({})).await.problem(403, "scope-missing");
    let body = json!({"name": " ", "scope": "users", "expiresAt": "2020-01-01T00:00:00Z", "key": "uak_"});
    let reply = send(&app, Method::POST, "/keys", &admin, &body).await;
    assert_eq!(
        reply.validation_errors(),
        ["/expiresAt past", "/key unknown-member", "/name empty", "/scope unknown-scope"]
    );
    let reply = send(&app, Method::POST, "/keys", &admin, &json!({"name": "x", "scope": ""})).await;
    assert_eq!(reply.validation_errors(), ["/scope empty"]);
    let reply = send(&app, Method::POST, &rotate, &admin, &json!({"overlap": "366d"})).await;
    assert_eq!(reply.validation_errors(), ["/overlap malformed"]);
    assert_eq!(get(&app, "/keys", &admin).await.json().as_array().unwrap().len(), 2);
}

async fn the_last_use_of_a_key_is_stored(context: Context) {
    let url = migrated(&context).await;
    let used = key(&context, &url, &["users:read"]).await;
    let app = context.app_on(&url, &REFRESHED).await;
    assert_eq!(get(&app, "/users", &used).await.status, 200);
    eventually("the use is stored", || async {
        let line: Value = serde_json::from_str(&printed(&context, &url, &["list", "--json"]).await).unwrap();
        line["lastUsedAt"].is_string().then_some(())
    })
    .await;
}

async fn an_invalid_row_locks_no_one_out(context: Context) {
    let url = migrated(&context).await;
    let valid = key(&context, &url, &["users:read"]).await;
    let invalid = key(&context, &url, &["users:read"]).await;
    let database = connect(&url).await;
    let sql = format!("UPDATE users_api_keys SET name = '' WHERE id = '{}'", id_of(&invalid));
    database.execute_unprepared(&sql).await.unwrap();
    let undecodable = key(&context, &url, &["users:read"]).await;
    if context.engine() == Engine::Sqlite {
        // The others check the types of values.
        let sql = format!("UPDATE users_api_keys SET created_at = 'x' WHERE id = '{}'", id_of(&undecodable));
        database.execute_unprepared(&sql).await.unwrap();
    }
    database.close().await.unwrap();
    let app = context.app_on(&url, &REQUIRED).await;
    assert_eq!(get(&app, "/users", &valid).await.status, 200);
    get(&app, "/users", &invalid).await.problem(401, "credentials-invalid");
    let status = if context.engine() == Engine::Sqlite { 401 } else { 200 };
    assert_eq!(get(&app, "/users", &undecodable).await.status, status);
}

async fn without_authentication_no_one_manages_keys(context: Context) {
    for mode in ["off", "gateway"] {
        let app = context.app_with(&[("auth.mode", mode)]).await;
        for (method, path) in [
            (Method::GET, "/keys"),
            (Method::POST, "/keys"),
            (Method::DELETE, "/keys/0123456789ab"),
            (Method::POST, "/keys/0123456789ab/rotate"),
        ] {
            let reply = Reply::of(app.request(method, path).json(&json!({"name": "x", "scope": "users:read"}))).await;
            reply.problem(403, "scope-missing");
        }
        assert_eq!(app.get("/pool").await.status, 200);
    }
}
