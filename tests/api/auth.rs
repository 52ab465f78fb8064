//! Authentication: who is refused, what a key may do, and how long it works.

use std::process::Output;

use reqwest::{Method, RequestBuilder};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};

use crate::{
    cases,
    harness::{App, Context, Engine, Proxy, Reply, binary, connect, eventually},
};

cases![
    every_protected_route_refuses_other_callers_without_a_statement,
    a_scope_permits_its_routes_only,
    keys_are_created_rotated_and_revoked,
    a_caller_grants_no_scope_that_it_lacks,
    a_revoked_key_stops_working_on_every_process,
    an_expired_key_stops_working,
    while_the_database_is_away_only_known_keys_work,
    idempotency_keys_belong_to_the_caller,
    the_last_use_of_a_key_is_stored,
    an_invalid_row_locks_no_one_out,
    without_authentication_no_one_manages_keys,
];

const SCOPES: [&str; 6] = ["users:read", "users:write", "users:delete", "users:bulk", "ops:read", "keys:admin"];

/// Settings that require authentication. Keys are read again so rarely that a case sees only its own statements.
const REQUIRED: [(&str, &str); 3] =
    [("auth.mode", "required"), ("auth.refresh", "1h"), ("limits.failures_per_address", "0")];
/// The same, with keys that are read all the time.
const REFRESHED: [(&str, &str); 2] = [("auth.mode", "required"), ("auth.refresh", "100ms")];

/// Runs `users-api keys` on a database.
async fn keys(context: &Context, url: &str, arguments: &[&str]) -> Output {
    let mut command = binary(context.folder(), &[("DATABASE_URL", url)]);
    command.arg("keys").args(arguments).output().await.unwrap()
}

/// Runs `users-api keys` and returns what it prints.
async fn printed(context: &Context, url: &str, arguments: &[&str]) -> String {
    let output = keys(context, url, arguments).await;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Creates a key with these scopes.
pub async fn key(context: &Context, url: &str, scopes: &[&str]) -> String {
    let mut arguments = vec!["create", "--name", "test"];
    for scope in scopes {
        arguments.extend(["--scope", scope]);
    }
    printed(context, url, &arguments).await
}

/// A database with its schema.
pub async fn migrated(context: &Context) -> String {
    let url = context.database().await;
    let output = binary(context.folder(), &[("DATABASE_URL", &url)]).arg("migrate").output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    url
}

/// The id of a key, which is not secret.
pub fn id_of(key: &str) -> &str {
    &key[4..16]
}

/// A key with the checksum of its text.
fn with_checksum(text: &str) -> String {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut rest = crc32fast::hash(text.as_bytes()) as usize;
    let mut digits = Vec::new();
    for _ in 0..6 {
        digits.push(char::from(ALPHABET[rest % 62]));
        rest /= 62;
    }
    text.chars().chain(digits.into_iter().rev()).collect()
}

fn with_key(app: &App, method: Method, path: &str, key: &str) -> RequestBuilder {
    app.request(method, path).bearer_auth(key)
}

pub async fn get(app: &App, path: &str, key: &str) -> Reply {
    Reply::of(with_key(app, Method::GET, path, key)).await
}

async fn send(app: &App, method: Method, path: &str, key: &str, body: &Value) -> Reply {
    Reply::of(with_key(app, method, path, key).json(body)).await
}

/// Each protected operation of the document: its method, a path, and the scope that it requires.
async fn protected_operations(app: &App) -> Vec<(Method, String, String)> {
    let document = app.get("/openapi.json").await.json();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Some(security) = operation["security"].as_array() else { continue };
            let scope = security[0]["apiKey"][0].as_str().unwrap().to_owned();
            for status in ["401", "403", "503"] {
                assert!(!operation["responses"][status].is_null(), "{method} {path} does not document {status}");
            }
            let id = if path.starts_with("/keys") { "0123456789ab" } else { "019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40" };
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            operations.push((method, path.replace("{id}", id), scope));
        }
    }
    assert_eq!(operations.len(), 14, "{operations:?}");
    operations
}

/// The number of operations so far.
async fn acquired(app: &App, key: &str) -> Value {
    let reply = get(app, "/pool", key).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()["counters"]["operations"].clone()
}

async fn every_protected_route_refuses_other_callers_without_a_statement(context: Context) {
    let url = migrated(&context).await;
    let ops = key(&context, &url, &["ops:read"]).await;
    let all = key(&context, &url, &["all"]).await;
    let revoked = key(&context, &url, &["all"]).await;
    printed(&context, &url, &["revoke", id_of(&revoked)]).await;
    let expired = printed(&context, &url, &["create", "--name", "x", "--scope", "all", "--expires", "0s"]).await;
    let rotated = key(&context, &url, &["all"]).await;
    printed(&context, &url, &["rotate", id_of(&rotated), "--overlap", "0s"]).await;
    let unknown = printed(&context, &url, &["generate"]).await;
    let app = context.app_on(&url, &REQUIRED).await;
    let operations = protected_operations(&app).await;
    let before = acquired(&app, &ops).await;
    // The id of a valid key with the secret of another one.
    let mixed = with_checksum(&format!("{}{}", &all[..17], &unknown[17..60]));
    assert_eq!(with_checksum(&all[..60]), all);
    let bearer = |token: &str| vec![("authorization", format!("Bearer {token}"))];
    let other_letter = if all.ends_with('0') { '1' } else { '0' };
    let refused: Vec<Vec<(&str, String)>> = vec![
        bearer(""),
        bearer("x"),
        bearer(&unknown),
        bearer(&revoked),
        bearer(&expired),
        bearer(&rotated),
        bearer(&mixed),
        bearer(&all[..65]),
        bearer(&format!("{all}0")),
        bearer(&format!("{}{other_letter}", &all[..65])),
        bearer(&all.to_uppercase()),
        bearer(&format!("{all} {all}")),
        bearer(&all[..16]),
        bearer(&"a".repeat(8000)),
        vec![("authorization", all.clone())],
        vec![("authorization", format!("Basic {all}"))],
        vec![("authorization", format!("Bearer\t{all}"))],
        vec![("authorization", format!("Bearer {all}")), ("authorization", format!("Bearer {all}"))],
        vec![("authorization", format!("Bearer {all}")), ("x-api-key", all.clone())],
        vec![("x-api-key", all.clone()), ("x-api-key", all.clone())],
        vec![("x-api-key", format!("Bearer {all}"))],
    ];
    for (method, path, scope) in &operations {
        let request = || app.request(method.clone(), path);
        for query in [String::new(), format!("?access_token={all}"), format!("?api_key={all}")] {
            let reply = Reply::of(app.request(method.clone(), &format!("{path}{query}"))).await;
            reply.problem(401, "credentials-required");
            assert_eq!(reply.header("www-authenticate"), "Bearer realm=\"users-api\"");
        }
        for headers in &refused {
            let with_headers = headers.iter().fold(request(), |request, (name, value)| request.header(*name, value));
            let reply = Reply::of(with_headers).await;
            reply.problem(401, "credentials-invalid");
            assert!(reply.header("www-authenticate").contains("error=\"invalid_token\""));
            assert!(!reply.text.contains("uak_"), "{}", reply.text);
        }
        if scope != "ops:read" {
            let reply = Reply::of(request().bearer_auth(&ops)).await;
            let problem = reply.problem(403, "scope-missing");
            assert!(problem["detail"].as_str().unwrap().contains(scope.as_str()), "{problem}");
            assert!(reply.header("www-authenticate").contains(&format!("scope=\"{scope}\"")));
        }
    }
    assert_eq!(acquired(&app, &ops).await, before, "a refused request used the database");
    // Anyone may use the others.
    for path in ["/health/live", "/health/ready", "/healthz", "/livez", "/readyz", "/openapi.json", "/swagger/"] {
        assert_eq!(app.get(path).await.status, 200, "{path}");
    }
}

async fn a_scope_permits_its_routes_only(context: Context) {
    let url = migrated(&context).await;
    let mut with = Vec::new();
    for scope in SCOPES {
        let others: Vec<&str> = SCOPES.into_iter().filter(|other| *other != scope).collect();
        with.push((scope, key(&context, &url, &[scope]).await, key(&context, &url, &others).await));
    }
    let app = context.app_on(&url, &REQUIRED).await;
    for (method, path, scope) in protected_operations(&app).await {
        let (_, only, without) = with.iter().find(|(name, ..)| *name == scope).unwrap();
        let reply = Reply::of(with_key(&app, method.clone(), &path, only)).await;
        assert!(
            !matches!(reply.status.as_u16(), 401 | 403 | 500..),
            "{method} {path}: {} {}",
            reply.status,
            reply.text
        );
        Reply::of(with_key(&app, method, &path, without)).await.problem(403, "scope-missing");
    }
    let (_, read, _) = &with[0];
    let reply = Reply::of(app.request(Method::GET, "/users").header("x-api-key", read)).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

async fn keys_are_created_rotated_and_revoked(context: Context) {
    let url = migrated(&context).await;
    let admin = key(&context, &url, &["all"]).await;
    let app = context.app_on(&url, &REFRESHED).await;
    let works = async |key: &str, status: u16| {
        eventually(&format!("status {status}"), || async {
            (get(&app, "/users", key).await.status == status).then_some(())
        })
        .await;
    };
    let body = json!({"name": "billing", "scope": "users:write users:read"});
    let created = send(&app, Method::POST, "/keys", &admin, &body).await;
    assert_eq!((created.status.as_u16(), created.header("cache-control")), (201, "no-store"), "{}", created.text);
    let created = created.json();
    assert_eq!(created["scope"], "users:read users:write");
    let first = created["key"].as_str().unwrap().to_owned();
    works(&first, 200).await;
    let path = format!("/keys/{}", id_of(&first));
    let rotated = send(&app, Method::POST, &format!("{path}/rotate"), &admin, &json!({})).await;
    assert_eq!(rotated.status, 201, "{}", rotated.text);
    let second = rotated.json()["key"].as_str().unwrap().to_owned();
    works(&second, 200).await;
    assert_eq!(get(&app, "/users", &first).await.status, 200, "both work during the overlap");
    assert_eq!(Reply::of(with_key(&app, Method::DELETE, &path, &admin)).await.status, 204);
    assert_eq!(Reply::of(with_key(&app, Method::DELETE, &path, &admin)).await.status, 204, "again");
    works(&first, 401).await;
    assert_eq!(get(&app, "/users", &second).await.status, 200);
    send(&app, Method::POST, &format!("{path}/rotate"), &admin, &json!({})).await.problem(404, "key-not-found");
    let twice = format!("/keys/{}/rotate", id_of(&second));
    assert_eq!(send(&app, Method::POST, &twice, &admin, &json!({"overlap": "1h"})).await.status, 201);
    send(&app, Method::POST, &twice, &admin, &json!({})).await.problem(404, "key-not-found");
    let unknown = Reply::of(with_key(&app, Method::DELETE, "/keys/0123456789ab", &admin)).await;
    unknown.problem(404, "key-not-found");
    Reply::of(with_key(&app, Method::DELETE, "/keys/0", &admin)).await.problem(400, "invalid-id");

    let listed = get(&app, "/keys", &admin).await;
    assert!(!listed.text.contains("uak_"), "{}", listed.text);
    let listed = listed.json();
    let of = |key: &str| listed.as_array().unwrap().iter().find(|it| it["id"] == id_of(key)).unwrap().clone();
    assert!(of(&first)["revokedAt"].is_string() && of(&first)["expiresAt"].is_string(), "{listed}");
    assert_eq!(of(&first)["replacedBy"], id_of(&second));
    assert!(of(&second)["revokedAt"].is_null() && of(&second)["expiresAt"].is_string(), "{listed}");
    assert_eq!(of(&second)["name"], "billing");
    // The command line shows the same.
    let table = printed(&context, &url, &["list"]).await;
    assert!(table.contains(&format!("{}  revoked", id_of(&first))), "{table}");
    assert!(table.contains(&format!("{}  until", id_of(&second))), "{table}");
    let lines = printed(&context, &url, &["list", "--json"]).await;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[2]["scope"], "users:read users:write");
    assert_eq!(keys(&context, &url, &["revoke", "0123456789ab"]).await.status.code(), Some(1));
    assert_eq!(keys(&context, &url, &["revoke", "0"]).await.status.code(), Some(2));
    assert_eq!(keys(&context, &url, &["create", "--name", "x", "--scope", "users"]).await.status.code(), Some(2));
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

async fn a_revoked_key_stops_working_on_every_process(context: Context) {
    let url = migrated(&context).await;
    let admin = key(&context, &url, &["all"]).await;
    let reader = key(&context, &url, &["users:read"]).await;
    let apps = [context.app_on(&url, &REFRESHED).await, context.app_on(&url, &REFRESHED).await];
    for app in &apps {
        assert_eq!(get(app, "/users", &reader).await.status, 200);
    }
    let path = format!("/keys/{}", id_of(&reader));
    assert_eq!(Reply::of(with_key(&apps[0], Method::DELETE, &path, &admin)).await.status, 204);
    for app in &apps {
        eventually("the key is refused", || async { (get(app, "/users", &reader).await.status == 401).then_some(()) })
            .await;
        assert_eq!(get(app, "/users", &admin).await.status, 200);
    }
}

async fn an_expired_key_stops_working(context: Context) {
    let url = migrated(&context).await;
    let short = printed(&context, &url, &["create", "--name", "x", "--scope", "all", "--expires", "2s"]).await;
    // The keys are not read again: the expiry itself ends the key.
    let app = context.app_on(&url, &REQUIRED).await;
    eventually("the key expires", || async {
        let reply = get(&app, "/users", &short).await;
        (reply.status == 401).then(|| reply.problem(401, "credentials-invalid"))
    })
    .await;
}

async fn while_the_database_is_away_only_known_keys_work(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let direct = migrated(&context).await;
    let (proxy, url) = Proxy::before(&direct).await;
    let known = key(&context, &direct, &["all"]).await;
    let unknown = printed(&context, &direct, &["generate"]).await;
    let settings = [("auth.mode", "required"), ("auth.refresh", "100ms"), ("auth.stale", "6s")];
    let app = context.app_on(&url, &settings).await;
    get(&app, "/users", &unknown).await.problem(401, "credentials-invalid");
    proxy.cut();
    eventually("keys cannot be read", || async {
        let reply = get(&app, "/users", &unknown).await;
        (reply.status == 503).then(|| reply.problem(503, "database-unavailable"))
    })
    .await;
    assert_eq!(get(&app, "/pool", &known).await.status, 200);
    get(&app, "/users", &known).await.problem(503, "database-unavailable");
    app.get("/users").await.problem(401, "credentials-required");
    get(&app, "/users", "uak_x").await.problem(401, "credentials-invalid");
    // After `auth.stale`, the keys in memory are too old.
    eventually("known keys are too old", || async {
        let reply = get(&app, "/pool", &known).await;
        (reply.status == 503).then(|| reply.problem(503, "database-unavailable"))
    })
    .await;
    proxy.restore();
    eventually("keys can be read", || async { (get(&app, "/users", &known).await.status == 200).then_some(()) }).await;
    get(&app, "/users", &unknown).await.problem(401, "credentials-invalid");
}

async fn idempotency_keys_belong_to_the_caller(context: Context) {
    let url = migrated(&context).await;
    let callers = [key(&context, &url, &["all"]).await, key(&context, &url, &["all"]).await];
    let app = context.app_on(&url, &REQUIRED).await;
    let create = |request: RequestBuilder, email: &str| {
        let body = json!({"name": "Ann", "email": email});
        Reply::of(request.header("idempotency-key", "k").json(&body))
    };
    let users = || app.request(Method::POST, "/users");
    let first = create(users().bearer_auth(&callers[0]), "a@example.com").await;
    let second = create(users().bearer_auth(&callers[1]), "b@example.com").await;
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (201, 201), "{}", second.text);
    // The same caller, however it sends its key.
    let again = create(users().header("x-api-key", &callers[0]), "a@example.com").await;
    assert_eq!((again.header("idempotency-replayed"), &again.text), ("true", &first.text));
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
