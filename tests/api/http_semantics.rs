//! HTTP details that browsers, proxies, caches and HTTP/1.0 clients rely on.

use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    cases,
    harness::{App, Context, Prometheus, Reply},
};

cases![
    prometheus_scrapes_openmetrics,
    routes_match_their_unencoded_path_only,
    responses_have_cache_headers,
    static_content_is_revalidated_by_etag,
    pages_have_a_content_security_policy,
    long_responses_are_compressed_on_request,
    http_1_0_clients_get_no_chunked_encoding,
    upgrade_requests_are_ignored,
    common_paths_are_served,
    time_offsets_need_no_colon,
];

async fn prometheus_scrapes_openmetrics(context: Context) {
    let app = context.app().await;
    let metrics = |accept: &'static str| Reply::of(app.request(Method::GET, "/metrics").header("accept", accept));
    let open = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let plain = "text/plain; version=0.0.4; charset=utf-8";
    for (accept, content_type) in [
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1", open),
        ("application/openmetrics-text", open),
        ("text/plain, application/openmetrics-text", plain),
        ("application/openmetrics-text;q=0", plain),
        ("*/*", plain),
    ] {
        assert_eq!(metrics(accept).await.header("content-type"), content_type, "{accept}");
    }
    assert!(metrics("application/openmetrics-text").await.text.ends_with("\n# EOF\n"));
    // Prometheus itself prefers OpenMetrics and rejects malformed output.
    let prometheus = Prometheus::before(app.address).await;
    let target = prometheus.target().await;
    assert_eq!((&target["health"], &target["lastError"]), (&json!("up"), &json!("")), "{target}");
    prometheus.series("http_server_requests_total{http_route=%22/metrics%22}").await;
}

async fn routes_match_their_unencoded_path_only(context: Context) {
    let app = context.app().await;
    let user = app.create("Ann", "ann@example.com").await;
    for path in ["/%70ool", "/p%6Fol", "/%6detrics", "/health/liv%65", "/%75sers", "//pool", "/pool/"] {
        app.get(path).await.problem(404, "not-found");
    }
    // A path parameter may be percent-encoded, but never matches another route.
    let id = user["id"].as_str().unwrap();
    assert_eq!(app.get(&format!("/users/{}", id.replace('-', "%2d"))).await.json(), user);
    app.get("/users/%65xport").await.problem(400, "invalid-id");
}

async fn responses_have_cache_headers(context: Context) {
    let app = context.app().await;
    let user = app.create("Ann", "ann@example.com").await;
    let one = format!("/users/{}", user["id"].as_str().unwrap());
    for (path, cache_control, vary) in [
        ("/users", "private, no-cache", ""),
        (one.as_str(), "private, no-cache", ""),
        ("/users/export", "private, no-cache", "Accept, accept-encoding"),
        ("/openapi.json", "public, no-cache", "accept-encoding"),
        ("/pool", "no-store", ""),
        ("/metrics", "no-store", "Accept, accept-encoding"),
        ("/health/live", "no-store", ""),
        ("/health/ready", "no-store", ""),
        ("/nowhere", "no-store", ""),
        ("/users/1", "no-store", ""),
        ("/users?limit=x", "no-store", ""),
    ] {
        let reply = app.get(path).await;
        let varies: Vec<_> = reply.headers.get_all("vary").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!((reply.header("cache-control"), varies.join(", ").as_str()), (cache_control, vary), "{path}");
        assert_eq!(reply.header("x-content-type-options"), "nosniff", "{path}");
    }
    let rejected = app.post("/users", &json!({})).await;
    assert_eq!((rejected.status.as_u16(), rejected.header("cache-control")), (422, "no-store"));
    let unchanged = app.request(Method::GET, &one).header("if-none-match", "\"1\"");
    let unchanged = Reply::of(unchanged).await;
    assert_eq!((unchanged.status.as_u16(), unchanged.header("cache-control")), (304, "private, no-cache"));
}

async fn static_content_is_revalidated_by_etag(context: Context) {
    let app = context.app().await;
    for path in ["/openapi.json", "/swagger/", "/swagger/swagger-ui-bundle.js", "/swagger/swagger-initializer.js"] {
        let first = app.get(path).await;
        let tag = first.header("etag").to_owned();
        assert!(first.status == 200 && tag.len() > 10, "{path}: {tag}");
        for matching in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
            let again = Reply::of(app.request(Method::GET, path).header("if-none-match", matching.as_str())).await;
            assert_eq!((again.status.as_u16(), again.text.as_str()), (304, ""), "{path} {matching}");
            assert_eq!(again.header("etag"), tag, "{path}");
        }
        let other = Reply::of(app.request(Method::GET, path).header("if-none-match", "\"x\"")).await;
        assert_eq!((other.status.as_u16(), other.text), (200, first.text), "{path}");
    }
}

async fn pages_have_a_content_security_policy(context: Context) {
    let app = context.app().await;
    let page = app.get("/swagger/").await;
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src 'self'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(!policy.contains("script-src") && !policy.contains("unsafe-eval"), "{policy}");
    assert_eq!((page.header("x-frame-options"), page.header("referrer-policy")), ("DENY", "no-referrer"));
}

async fn long_responses_are_compressed_on_request(context: Context) {
    let app = context.app().await;
    for number in 0..30 {
        app.create(&"Ann ".repeat(10), &format!("ann{number}@example.com")).await;
    }
    let get = async |path: &str, accepted: &str| {
        app.request(Method::GET, path).header("accept-encoding", accepted).send().await.unwrap()
    };
    for path in ["/users?limit=30", "/users/export", "/openapi.json", "/swagger/swagger-ui-bundle.js", "/metrics"] {
        let plain = app.request(Method::GET, path).send().await.unwrap();
        assert_eq!(plain.headers().get("content-encoding"), None, "{path}");
        let vary: Vec<_> = plain.headers().get_all("vary").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(vary.last(), Some(&"accept-encoding"), "{path}");
        let (tag, length) = (plain.headers().get("etag").cloned(), plain.bytes().await.unwrap().len());
        for (accepted, encoding, magic) in [
            ("gzip", "gzip", &[0x1f, 0x8b][..]),
            ("br", "br", &[]),
            ("zstd", "zstd", &[0x28, 0xb5, 0x2f, 0xfd]),
            ("br;q=0.1, gzip", "gzip", &[0x1f, 0x8b]),
            ("gzip;q=0, zstd", "zstd", &[0x28, 0xb5]),
        ] {
            let compressed = get(path, accepted).await;
            assert_eq!(compressed.headers()["content-encoding"], encoding, "{path} {accepted}");
            // The ETag does not depend on the encoding.
            assert_eq!(compressed.headers().get("etag"), tag.as_ref(), "{path} {accepted}");
            let bytes = compressed.bytes().await.unwrap();
            assert!(
                bytes.starts_with(magic) && bytes.len() * 2 < length,
                "{path} {accepted}: {} of {length}",
                bytes.len()
            );
        }
        for accepted in ["", "identity", "lzma", "gzip;q=0"] {
            assert_eq!(get(path, accepted).await.headers().get("content-encoding"), None, "{path} {accepted}");
        }
    }
    for path in ["/users?limit=1", "/health/live", "/nowhere", "/swagger"] {
        assert_eq!(get(path, "gzip").await.headers().get("content-encoding"), None, "{path} is short");
    }
}

/// Sends a request and reads until the service closes the connection.
async fn exchange(app: &App, text: &str) -> String {
    let mut stream = TcpStream::connect(app.address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

async fn http_1_0_clients_get_no_chunked_encoding(context: Context) {
    let app = context.app().await;
    app.create("Ann", "ann@example.com").await;
    let bulk = "POST /users/bulk?answer=stream HTTP/1.0\r\nconnection: keep-alive\r\ncontent-type: application/x-ndjson\r\n\
                content-length: 40\r\n\r\n{\"name\":\"Bob\",\"email\":\"bob@example.com\"}";
    let export = "GET /users/export HTTP/1.0\r\nconnection: keep-alive\r\n\r\n";
    for request in [bulk, export] {
        let response = exchange(&app, request).await.to_lowercase();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("http/1.0 200"), "{head}");
        assert!(!head.contains("transfer-encoding") && !head.contains("keep-alive"), "{head}");
        assert!(body.starts_with('{') && body.ends_with("}\n"), "{body}");
    }
    // A response with a length keeps the connection alive.
    let twice = "GET /health/live HTTP/1.0\r\nconnection: keep-alive\r\n\r\nGET /health/live HTTP/1.0\r\n\r\n";
    assert_eq!(exchange(&app, twice).await.matches("HTTP/1.0 200").count(), 2);
}

async fn upgrade_requests_are_ignored(context: Context) {
    let app = context.app().await;
    app.create("Ann", "ann@example.com").await;
    for path in ["/users", "/users/export", "/nowhere"] {
        for protocol in ["h2c", "websocket"] {
            let request =
                format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\r\n");
            let response = exchange(&app, &request).await.to_lowercase();
            let (head, body) = response.split_once("\r\n\r\n").unwrap();
            assert!(head.contains("connection: close") && !head.contains("upgrade"), "{head}");
            assert!(body.starts_with(['{', '[']) && !head.contains("chunked"), "{response}");
        }
    }
}

async fn common_paths_are_served(context: Context) {
    let app = context.app().await;
    let home = app.get("/").await;
    assert_eq!((home.status.as_u16(), home.header("content-type")), (200, "text/html; charset=utf-8"));
    assert_eq!(app.get("/favicon.ico").await.status, 204);
    for path in ["/healthz", "/livez"] {
        assert_eq!(app.get(path).await.json(), json!({"status": "live"}), "{path}");
    }
    assert_eq!(app.get("/readyz").await.json(), json!({"status": "ready"}));
}

async fn time_offsets_need_no_colon(context: Context) {
    let app = context.app().await;
    let user = app.create("Ann", "ann@example.com").await;
    for before in ["2000-01-01T00:00:00%2B0000", "2000-01-01T00:00:00.123456%2B0200", "2000-01-01T00:00:00Z"] {
        let found = app.get(&format!("/users?createdAfter={before}")).await;
        assert_eq!(found.ids(), [user["id"].as_str().unwrap()], "{before}");
    }
    for wrong in ["2000-01-01T00:00:00", "2000-01-01T00:00:00%2B00", "2000-01-01%2B0000"] {
        app.get(&format!("/users?createdAfter={wrong}")).await.problem(400, "invalid-query");
    }
}
