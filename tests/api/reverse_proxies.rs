//! Behind nginx and HAProxy, as their packages configure them.

use reqwest::Method;
use serde_json::json;

use crate::{
    bulk::{NDJSON, bulk, count, lines, rows},
    cases,
    harness::{App, Context, ProxyKind, Reply, ReverseProxy},
};

cases![
    many_rows_go_through_nginx,
    many_rows_go_through_haproxy,
    nginx_limits_bodies,
    versions_survive_compression,
    a_prefix_is_part_of_every_link,
    headers_of_strangers_are_ignored,
];

const MANY: usize = 200_000;
/// The one setting of nginx that work in bulk needs.
const ANY_SIZE: &str = "client_max_body_size 0;";

async fn behind(kind: ProxyKind, app: &App, more: &str) -> (ReverseProxy, App) {
    let proxy = ReverseProxy::before(kind, app.address, more).await;
    let through = App::at(proxy.address, &app.url);
    (proxy, through)
}

async fn many_rows(context: Context, kind: ProxyKind, more: &str) {
    let app = context.app().await;
    let (_proxy, through) = behind(kind, &app, more).await;
    let reply = bulk(&through, "", NDJSON, None, rows(0..MANY)).await;
    assert_eq!(reply.status, 200);
    let lines = lines(&reply);
    assert_eq!(lines.len(), MANY);
    assert!(lines.iter().all(|line| line["outcome"] == "created"));
    let exported = through.get("/users/export?fields=email").await;
    assert_eq!(exported.text.lines().count(), MANY);
}

async fn many_rows_go_through_nginx(context: Context) {
    many_rows(context, ProxyKind::Nginx, ANY_SIZE).await;
}

async fn many_rows_go_through_haproxy(context: Context) {
    many_rows(context, ProxyKind::HaProxy, "").await;
}

async fn nginx_limits_bodies(context: Context) {
    let app = context.app().await;
    let (_proxy, through) = behind(ProxyKind::Nginx, &app, "").await;
    // As OPERATIONS.md says, by a megabyte.
    assert_eq!(bulk(&through, "", NDJSON, None, rows(0..30_000)).await.status, 413);
    assert_eq!(count(&app).await, 0);
    assert_eq!(bulk(&through, "?report=summary", NDJSON, None, rows(0..10_000)).await.status, 200);
}

async fn versions_survive_compression(context: Context) {
    let app = context.app().await;
    let id = app.create("Ann", "ann@example.com").await["id"].as_str().unwrap().to_owned();
    for (kind, more) in [
        (ProxyKind::Nginx, "gzip_types application/json; gzip_min_length 1; gzip_proxied any; gzip_http_version 1.0;"),
        (ProxyKind::HaProxy, "compression algo gzip\n  compression type application/json"),
    ] {
        let (_proxy, through) = behind(kind, &app, more).await;
        let path = format!("/users/{id}");
        let compressed = through.request(Method::GET, &path).header("accept-encoding", "gzip").send().await.unwrap();
        assert_eq!(compressed.headers()["content-encoding"], "gzip", "{kind:?}");
        let tag = compressed.headers()["etag"].clone();
        assert!(tag.to_str().unwrap().starts_with("W/"), "{kind:?} makes it weak: {tag:?}");
        let change = json!({"name": format!("Ann of {kind:?}")});
        let patched = Reply::of(through.request(Method::PATCH, &path).header("if-match", tag).json(&change)).await;
        assert_eq!(patched.status, 200, "{}", patched.text);
    }
}

async fn a_prefix_is_part_of_every_link(context: Context) {
    let public = "https://api.example.com/v1";
    let configured = context.app_with(&[("server.public_url", public)]).await;
    let trusting = context.app_with(&[("server.trusted_proxies", "127.0.0.0/8")]).await;
    let forwarding = "proxy_set_header X-Forwarded-Prefix /v1;\nproxy_set_header X-Forwarded-Proto https;\n\
                      proxy_set_header X-Forwarded-Host api.example.com;";
    for (app, more) in [(configured, ""), (trusting, forwarding)] {
        let (_proxy, through) = behind(ProxyKind::Nginx, &app, more).await;
        let created = through.post("/users", &json!({"name": "Ann", "email": "ann@example.com"})).await;
        let id = created.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(created.header("location"), format!("{public}/users/{id}"));
        through.create("Bob", "bob@example.com").await;
        let list = through.get("/users?limit=1").await;
        let links = list.header("link");
        assert!(links.split(", ").all(|link| link.starts_with(&format!("<{public}/users?limit=1"))), "{links}");
        assert!(links.contains("rel=\"next\""), "{links}");
        let document = through.get("/openapi.json").await.json();
        assert_eq!(document["servers"], json!([{"url": public}]));
        // A page finds its parts and the document by paths relative to its own.
        for path in ["/", "/swagger"] {
            let redirect = through.get(path).await;
            assert_eq!((redirect.status.is_redirection(), redirect.header("location")), (true, "swagger/"), "{path}");
        }
    }
}

async fn headers_of_strangers_are_ignored(context: Context) {
    for settings in [&[][..], &[("server.trusted_proxies", "10.0.0.0/8, 192.0.2.7")]] {
        let app = context.app_with(settings).await;
        let request = app.request(Method::GET, "/users").header("x-forwarded-prefix", "/evil");
        let list =
            Reply::of(request.header("x-forwarded-proto", "https").header("x-forwarded-host", "evil.example")).await;
        assert_eq!(list.header("link"), "</users?limit=20>; rel=\"first\"");
        assert_eq!(app.get("/openapi.json").await.json()["servers"], json!([{"url": "/"}]));
    }
}
