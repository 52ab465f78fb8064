//! Authentication: which credentials are refused, what a key permits, and how long it works.

use std::process::Output;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::{
    cases,
    harness::{App, Context, Engine, Proxy, Reply, binary, eventually},
};

cases![
    every_protected_route_refuses_other_callers_without_a_statement,
    other_routes_require_no_credentials,
    a_scope_permits_its_routes_only,
    a_revoked_key_stops_working_on_every_process,
    an_expired_key_stops_working,
    during_a_database_outage_only_known_keys_work,
    idempotency_keys_belong_to_the_caller,
];

const SCOPES: [&str; 8] =
    ["users:read", "users:write", "users:delete", "users:bulk", "feed:read", "messages:send", "ops:read", "keys:admin"];

/// Settings that require authentication. Keys are read again so rarely that a case sees only its own statements.
pub const REQUIRED: [(&str, &str); 3] =
    [("auth.mode", "required"), ("auth.refresh", "1h"), ("limits.failures_per_address", "0")];
/// The same, with keys that are read every 100 ms.
pub const REFRESHED: [(&str, &str); 2] = [("auth.mode", "required"), ("auth.refresh", "100ms")];

/// Runs `users-api keys` on a database.
pub async fn keys(context: &Context, url: &str, arguments: &[&str]) -> Output {
    let mut command = binary(context.folder(), &[("DATABASE_URL", url)]);
    command.arg("keys").args(arguments).output().await.unwrap()
}

/// Runs `users-api keys` and returns what it prints.
pub async fn printed(context: &Context, url: &str, arguments: &[&str]) -> String {
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

pub fn with_key(app: &App, method: Method, path: &str, key: &str) -> RequestBuilder {
    app.request(method, path).bearer_auth(key)
}

pub async fn get(app: &App, path: &str, key: &str) -> Reply {
    Reply::of(with_key(app, Method::GET, path, key)).await
}

pub async fn send(app: &App, method: Method, path: &str, key: &str, body: &Value) -> Reply {
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
    assert_eq!(operations.len(), 22, "{operations:?}");
    operations
}

/// The number of operations so far.
async fn acquired(app: &App, key: &str) -> Value {
    let reply = get(app, "/pool", key).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()["counters"]["operations"].clone()
}

/// Headers of a request, by name.
type Headers = Vec<(&'static str, String)>;

/// Keys that do not work: unknown, revoked, expired, rotated.
async fn keys_that_do_not_work(context: &Context, url: &str) -> Vec<String> {
    let unknown = printed(context, url, &["generate"]).await;
    let revoked = key(context, url, &["all"]).await;
    printed(context, url, &["revoke", id_of(&revoked)]).await;
    let expired = printed(context, url, &["create", "--name", "x", "--scope", "all", "--expires", "0s"]).await;
    let rotated = key(context, url, &["all"]).await;
    printed(context, url, &["rotate", id_of(&rotated), "--overlap", "0s"]).await;
    vec![unknown, revoked, expired, rotated]
}

/// Texts that resemble a valid key.
fn similar_to(valid: &str, unknown: &str) -> Vec<String> {
    assert_eq!(with_checksum(&valid[..60]), valid);
    let other_letter = if valid.ends_with('0') { '1' } else { '0' };
    vec![
        // Its id with the secret of another key.
        with_checksum(&format!("{}{}", &valid[..17], &unknown[17..60])),
        valid[..65].to_owned(),
        format!("{valid}0"),
        format!("{}{other_letter}", &valid[..65]),
        valid.to_uppercase(),
        format!("{valid} {valid}"),
        valid[..16].to_owned(),
    ]
}

/// A valid key in headers that are malformed or ambiguous.
fn invalid_headers(valid: &str) -> Vec<Headers> {
    let (valid, bearer) = (valid.to_owned(), format!("Bearer {valid}"));
    vec![
        vec![("authorization", valid.clone())],
        vec![("authorization", format!("Basic {valid}"))],
        vec![("authorization", format!("Bearer\t{valid}"))],
        vec![("authorization", bearer.clone()), ("authorization", bearer.clone())],
        vec![("authorization", bearer.clone()), ("x-api-key", valid.clone())],
        vec![("x-api-key", valid.clone()), ("x-api-key", valid)],
        vec![("x-api-key", bearer)],
    ]
}

async fn every_protected_route_refuses_other_callers_without_a_statement(context: Context) {
    let url = migrated(&context).await;
    let ops = key(&context, &url, &["ops:read"]).await;
    let all = key(&context, &url, &["all"]).await;
    let mut tokens = keys_that_do_not_work(&context, &url).await;
    tokens.extend(similar_to(&all, &tokens[0]));
    tokens.extend([String::new(), "x".to_owned(), "a".repeat(8000)]);
    let mut refused = invalid_headers(&all);
    refused.extend(tokens.iter().map(|token| vec![("authorization", format!("Bearer {token}"))]));
    let app = context.app_on(&url, &REQUIRED).await;
    let operations = protected_operations(&app).await;
    let before = acquired(&app, &ops).await;
    for (method, path, scope) in &operations {
        for query in [String::new(), format!("?access_token={all}"), format!("?api_key={all}")] {
            let reply = Reply::of(app.request(method.clone(), &format!("{path}{query}"))).await;
            reply.problem(401, "credentials-required");
            assert_eq!(reply.header("www-authenticate"), "Bearer realm=\"users-api\"");
        }
        let request = || app.request(method.clone(), path);
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
}

async fn other_routes_require_no_credentials(context: Context) {
    let url = migrated(&context).await;
    let app = context.app_on(&url, &REQUIRED).await;
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
        // This one has no end.
        let permitted = if path == "/pool/live" { Method::HEAD } else { method.clone() };
        let reply = Reply::of(with_key(&app, permitted, &path, only)).await;
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

async fn during_a_database_outage_only_known_keys_work(context: Context) {
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
    // The same caller, with its key in another header.
    let again = create(users().header("x-api-key", &callers[0]), "a@example.com").await;
    assert_eq!((again.header("idempotency-replayed"), &again.text), ("true", &first.text));
}
