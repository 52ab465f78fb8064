//! Rate limits: per caller, and per address for invalid credentials.

use reqwest::Method;
use serde_json::Value;

use crate::{
    auth::{get, id_of, key, migrated},
    cases,
    harness::{App, Context, Reply, Service, client},
};

cases![
    each_caller_is_limited_by_the_weight_of_its_requests,
    invalid_credentials_are_limited_per_address,
    without_authentication_there_is_no_limit,
];

/// What the response says remains.
fn remaining(reply: &Reply) -> u32 {
    reply.header("ratelimit").strip_prefix("\"caller\";r=").unwrap().parse().unwrap()
}

async fn each_caller_is_limited_by_the_weight_of_its_requests(context: Context) {
    let url = migrated(&context).await;
    let (ann, bob) = (key(&context, &url, &["all"]).await, key(&context, &url, &["users:read"]).await);
    let settings = [("auth.mode", "required"), ("limits.per_caller", "1/h"), ("limits.burst", "70")];
    let app = context.app_on(&url, &settings).await;
    // More than half of the burst remains, which is not worth a header.
    let first = get(&app, "/users", &ann).await;
    assert_eq!((first.status.as_u16(), first.headers.get("ratelimit")), (200, None));
    assert_eq!(get(&app, "/users?count=exact", &ann).await.status, 200);
    assert_eq!(remaining(&get(&app, "/users/export", &ann).await), 9);
    assert_eq!(remaining(&get(&app, "/users/019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40", &ann).await), 8, "also an error");
    // One is charged for the request, and the rest of an export cannot be.
    for request in [
        app.request(Method::GET, "/users/export"),
        app.request(Method::POST, "/users/bulk").header("content-type", "text/csv").body("name,email\n"),
        app.request(Method::GET, "/users?count=exact"),
    ] {
        let reply = Reply::of(request.bearer_auth(&ann)).await;
        let problem = reply.problem(429, "rate-limited");
        assert!(problem["detail"].as_str().unwrap().contains("caller"), "{problem}");
        let retry_after: u64 = reply.header("retry-after").parse().unwrap();
        assert!((1..=50 * 3600).contains(&retry_after), "{retry_after}");
    }
    for expected in (0..5).rev() {
        assert_eq!(remaining(&get(&app, "/users", &ann).await), expected);
    }
    let reply = get(&app, "/users", &ann).await;
    reply.problem(429, "rate-limited");
    assert_eq!(remaining(&reply), 0);
    get(&app, "/keys", &ann).await.problem(429, "rate-limited");
    // Others are not affected, and neither is what anyone may use.
    assert_eq!(get(&app, "/users", &bob).await.status, 200);
    let health = get(&app, "/health/ready", &ann).await;
    assert_eq!((health.status.as_u16(), health.headers.get("ratelimit")), (200, None));
}

async fn invalid_credentials_are_limited_per_address(context: Context) {
    let url = migrated(&context).await;
    let valid = key(&context, &url, &["users:read"]).await;
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("USERS_API__AUTH__MODE", "required"),
        ("USERS_API__LIMITS__FAILURES_PER_ADDRESS", "1/h"),
        ("USERS_API__SERVER__TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let mut service = Service::start(context.folder(), &variables).await;
    let app = App::at(service.address, &url);
    let from = |address: &'static str, token: &str| {
        let request = app.request(Method::GET, "/users").header("x-forwarded-for", address).bearer_auth(token);
        Reply::of(request)
    };
    for _ in 0..60 {
        from("192.0.2.1", "x").await.problem(401, "credentials-invalid");
    }
    let reply = from("192.0.2.1", "x").await;
    reply.problem(429, "rate-limited");
    assert!(reply.header("retry-after").parse::<u64>().unwrap() <= 3600);
    assert_eq!(from("192.0.2.1", &valid).await.status, 200, "a valid key works from there");
    from("192.0.2.2", "x").await.problem(401, "credentials-invalid");
    // What a client puts in front of the address that the proxy appends is not believed.
    from("192.0.2.9, 192.0.2.1", "x").await.problem(429, "rate-limited");
    // Missing credentials are no attempt.
    for _ in 0..5 {
        app.get("/users").await.problem(401, "credentials-required");
    }
    service.signal("TERM").await;
    assert!(service.ended().await.success());
    let log = service.log();
    let requests: Vec<&Value> = log.iter().filter(|line| line["message"] == "request").collect();
    let of = |status: u64, client: &str| {
        requests.iter().filter(|line| line["status"] == status && line["client"] == client).count()
    };
    assert_eq!((of(401, "192.0.2.1"), of(429, "192.0.2.1"), of(401, "192.0.2.2")), (60, 2, 1), "{requests:?}");
    let accepted = requests.iter().find(|line| line["status"] == 200).unwrap();
    assert_eq!(accepted["actor"], format!("key:{}", id_of(&valid)));
    assert!(accepted["client"].is_null(), "{accepted}");
}

async fn without_authentication_there_is_no_limit(context: Context) {
    let app = context.app_with(&[("limits.per_caller", "1/h"), ("limits.burst", "50")]).await;
    let client = client();
    for _ in 0..100 {
        let reply = client.get(format!("http://{}/users", app.address)).bearer_auth("x").send().await.unwrap();
        assert_eq!((reply.status().as_u16(), reply.headers().get("ratelimit")), (200, None));
    }
}
