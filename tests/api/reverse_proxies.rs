//! Behind nginx and HAProxy, with their packages' configuration.

use reqwest::Method;
use serde_json::json;

use crate::{
    cases,
    harness::{
        App, Context, EventStream, ProxyKind, Reply, ReverseProxy, Socket,
        bulk::{NDJSON, bulk, count, lines, rows},
    },
};

cases![
    bulk_operations_pass_through_nginx,
    bulk_operations_pass_through_haproxy,
    live_events_pass_through_nginx,
    live_events_pass_through_haproxy,
    nginx_limits_the_body_size,
    etags_survive_compression,
    every_link_has_the_public_prefix,
    forwarded_headers_of_untrusted_clients_are_ignored,
];

const ROWS: usize = 200_000;
/// The only nginx setting that bulk operations need.
const UNLIMITED_BODY: &str = "client_max_body_size 0;";

async fn behind(kind: ProxyKind, app: &App, config: &str) -> (ReverseProxy, App) {
    let proxy = ReverseProxy::before(kind, app.address, config).await;
    let proxied = App::at(proxy.address, &app.url);
    (proxy, proxied)
}

async fn import_and_export(context: Context, kind: ProxyKind, config: &str) {
    let app = context.app().await;
    let (_proxy, proxied) = behind(kind, &app, config).await;
    let reply = bulk(&proxied, "", NDJSON, None, rows(0..ROWS)).await;
    assert_eq!(reply.status, 200);
    let lines = lines(&reply);
    assert_eq!(lines.len(), ROWS);
    assert!(lines.iter().all(|line| line["outcome"] == "created"));
    let exported = proxied.get("/users/export?fields=email").await;
    assert_eq!(exported.text.lines().count(), ROWS);
}

async fn bulk_operations_pass_through_nginx(context: Context) {
    import_and_export(context, ProxyKind::Nginx, UNLIMITED_BODY).await;
}

async fn bulk_operations_pass_through_haproxy(context: Context) {
    import_and_export(context, ProxyKind::HaProxy, "").await;
}

/// What nginx needs for a WebSocket, of pages of the same origin too.
const WEBSOCKET: &str = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; \
    proxy_set_header Host $http_host;";

async fn live_events(context: Context, kind: ProxyKind, config: &str) {
    let app = context.app().await;
    // Event streams need no configuration.
    let (_plain, streamed) = behind(kind, &app, "").await;
    let (mut stream, _) = EventStream::open(&streamed, "", "").await;
    let (proxy, proxied) = behind(kind, &app, config).await;
    let origin = format!("http://{}", proxied.address);
    let (mut socket, _) = Socket::open_with(proxied.address, "/ws", &[("origin", &origin)]).await.unwrap();
    socket.begin(&json!({})).await;
    for number in 0..3 {
        let user = proxied.create("Ann", &format!("ann{number}@example.com")).await;
        // Each at once: nothing is collected before it is passed on.
        assert_eq!(stream.event().await["data"], user);
        assert_eq!(socket.events(1).await[0]["data"], user);
    }
    assert_eq!(socket.close().await, None);
    drop(proxy);
}

async fn live_events_pass_through_nginx(context: Context) {
    live_events(context, ProxyKind::Nginx, WEBSOCKET).await;
}

async fn live_events_pass_through_haproxy(context: Context) {
    live_events(context, ProxyKind::HaProxy, "").await;
}

async fn nginx_limits_the_body_size(context: Context) {
    let app = context.app().await;
    let (_proxy, proxied) = behind(ProxyKind::Nginx, &app, "").await;
    // To 1 MiB, as OPERATIONS.md says.
    assert_eq!(bulk(&proxied, "", NDJSON, None, rows(0..30_000)).await.status, 413);
    assert_eq!(count(&app).await, 0);
    assert_eq!(bulk(&proxied, "?report=summary", NDJSON, None, rows(0..10_000)).await.status, 200);
}

async fn etags_survive_compression(context: Context) {
    let app = context.app().await;
    let id = app.create("Ann", "ann@example.com").await["id"].as_str().unwrap().to_owned();
    for (kind, config) in [
        (ProxyKind::Nginx, "gzip_types application/json; gzip_min_length 1; gzip_proxied any; gzip_http_version 1.0;"),
        (ProxyKind::HaProxy, "compression algo gzip\n  compression type application/json"),
    ] {
        let (_proxy, proxied) = behind(kind, &app, config).await;
        let path = format!("/users/{id}");
        let compressed = proxied.request(Method::GET, &path).header("accept-encoding", "gzip").send().await.unwrap();
        assert_eq!(compressed.headers()["content-encoding"], "gzip", "{kind:?}");
        let etag = compressed.headers()["etag"].clone();
        assert!(etag.to_str().unwrap().starts_with("W/"), "{kind:?} weakens it: {etag:?}");
        let change = json!({"name": format!("Ann of {kind:?}")});
        let patched = Reply::of(proxied.request(Method::PATCH, &path).header("if-match", etag).json(&change)).await;
        assert_eq!(patched.status, 200, "{}", patched.text);
    }
}

async fn every_link_has_the_public_prefix(context: Context) {
    let public = "https://api.example.com/v1";
    let configured = context.app_with(&[("server.public_url", public)]).await;
    let trusting = context.app_with(&[("server.trusted_proxies", "127.0.0.0/8")]).await;
    let forwarding = "proxy_set_header X-Forwarded-Prefix /v1;\nproxy_set_header X-Forwarded-Proto https;\n\
                      proxy_set_header X-Forwarded-Host api.example.com;";
    for (app, config) in [(configured, ""), (trusting, forwarding)] {
        let (_proxy, proxied) = behind(ProxyKind::Nginx, &app, config).await;
        let created = proxied.post("/users", &json!({"name": "Ann", "email": "ann@example.com"})).await;
        let id = created.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(created.header("location"), format!("{public}/users/{id}"));
        proxied.create("Bob", "bob@example.com").await;
        let list = proxied.get("/users?limit=1").await;
        let links = list.header("link");
        assert!(links.split(", ").all(|link| link.starts_with(&format!("<{public}/users?limit=1"))), "{links}");
        assert!(links.contains("rel=\"next\""), "{links}");
        let document = proxied.get("/openapi.json").await.json();
        assert_eq!(document["servers"], json!([{"url": public}]));
        // The pages refer to their files and to the document by relative paths.
        let redirect = proxied.get("/swagger").await;
        assert_eq!((redirect.status.is_redirection(), redirect.header("location")), (true, "swagger/"));
        for path in ["/", "/dashboard", "/assets/style.css", "/docs/POOL.md"] {
            assert_eq!(proxied.get(path).await.status, 200, "{path}");
        }
    }
}

async fn forwarded_headers_of_untrusted_clients_are_ignored(context: Context) {
    for settings in [&[][..], &[("server.trusted_proxies", "10.0.0.0/8, 192.0.2.7")]] {
        let app = context.app_with(settings).await;
        let request = app.request(Method::GET, "/users").header("x-forwarded-prefix", "/evil");
        let list =
            Reply::of(request.header("x-forwarded-proto", "https").header("x-forwarded-host", "evil.example")).await;
        assert_eq!(list.header("link"), "</users?limit=20>; rel=\"first\"");
        assert_eq!(app.get("/openapi.json").await.json()["servers"], json!([{"url": "/"}]));
    }
}
