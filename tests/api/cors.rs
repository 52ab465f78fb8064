//! Web pages of other origins (CORS).

use reqwest::Method;

use crate::{
    cases,
    harness::{App, Context, Reply, binary},
};

cases![
    only_pages_of_configured_origins_may_read_responses,
    preflight_requests_need_no_credentials,
    invalid_origins_are_refused,
];

const PAGE: &str = "https://app.example.com";
const ALLOW_ORIGIN: &str = "access-control-allow-origin";

async fn from(app: &App, method: Method, path: &str, origin: &str) -> Reply {
    Reply::of(app.request(method, path).header("origin", origin)).await
}

/// Whether the browser lets a page read the response.
fn is_readable(reply: &Reply) -> bool {
    match reply.headers.get(ALLOW_ORIGIN) {
        Some(origin) => origin == PAGE,
        None => false,
    }
}

async fn only_pages_of_configured_origins_may_read_responses(context: Context) {
    let app = context.app_with(&[("cors.origins", "https://app.example.com, http://localhost:3000")]).await;
    let reply = from(&app, Method::GET, "/users?count=exact", PAGE).await;
    assert!(reply.status == 200 && is_readable(&reply));
    let exposed = reply.header("access-control-expose-headers").to_lowercase();
    for name in ["etag", "link", "location", "x-total-count", "retry-after", "ratelimit", "x-request-id"] {
        assert!(exposed.contains(name), "{name} in {exposed}");
    }
    assert!(reply.header("vary").to_lowercase().contains("origin"), "{:?}", reply.headers);
    assert!(!reply.headers.contains_key("access-control-allow-credentials"), "no cookies");
    let problem = from(&app, Method::GET, "/users/x", PAGE).await;
    assert!(is_readable(&problem));
    problem.problem(400, "invalid-id");
    let unknown = from(&app, Method::GET, "/nothing", PAGE).await;
    assert!(is_readable(&unknown));
    for origin in ["https://evil.example", "https://app.example.com.evil.example", "http://app.example.com", "null"] {
        let reply = from(&app, Method::GET, "/users", origin).await;
        assert!(!reply.headers.contains_key(ALLOW_ORIGIN), "{origin}");
    }
    // By default there are none.
    let app = context.app().await;
    let reply = from(&app, Method::GET, "/users", PAGE).await;
    assert!(reply.status == 200 && !reply.headers.contains_key(ALLOW_ORIGIN));
    from(&app, Method::OPTIONS, "/users", PAGE).await.problem(405, "method-not-allowed");
}

async fn preflight_requests_need_no_credentials(context: Context) {
    let app = context.app_with(&[("cors.origins", PAGE), ("auth.mode", "required")]).await;
    let preflight = |origin: &'static str, method: &'static str, headers: &'static str| {
        let request = app.request(Method::OPTIONS, "/users/019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40");
        let request = request.header("origin", origin).header("access-control-request-method", method);
        Reply::of(request.header("access-control-request-headers", headers))
    };
    let reply = preflight(PAGE, "PATCH", "authorization,content-type,if-match").await;
    assert!(reply.status.is_success() && is_readable(&reply), "{} {:?}", reply.status, reply.headers);
    assert!(reply.header("access-control-allow-methods").contains("PATCH"));
    let allowed = reply.header("access-control-allow-headers").to_lowercase();
    for name in ["authorization", "x-api-key", "content-type", "if-match", "if-none-match", "idempotency-key"] {
        assert!(allowed.contains(name), "{name} in {allowed}");
    }
    for (origin, method, headers) in
        [("https://evil.example", "PATCH", ""), (PAGE, "TRACE", ""), (PAGE, "PATCH", "x-other")]
    {
        let reply = preflight(origin, method, headers).await;
        assert!(!reply.status.is_success(), "{origin} {method} {headers}");
    }
    // A page can read why it was refused.
    let refused = from(&app, Method::GET, "/users", PAGE).await;
    assert!(is_readable(&refused));
    refused.problem(401, "credentials-required");
}

async fn invalid_origins_are_refused(context: Context) {
    for origins in
        ["*", "null", "app.example.com", "https://app.example.com/", "https://a.example, https://b.example/x"]
    {
        let output = binary(context.folder(), &[("USERS_API__CORS__ORIGINS", origins)]).arg("config").output().await;
        let output = output.unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && text.contains("CORS__ORIGINS"), "{origins}: {text}");
    }
}
