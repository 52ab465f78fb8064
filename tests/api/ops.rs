//! Observability: health, metrics, the log, request ids.

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    cases,
    harness::{Context, Engine, Proxy, Reply, Service, client, eventually, lint},
};

cases![
    readiness_follows_the_database,
    valid_request_ids_are_echoed_and_others_replaced,
    metrics_are_labelled_by_route,
    metrics_pass_promtool,
    each_request_logs_one_line,
    a_timed_out_request_is_logged_with_its_route,
    an_internal_error_is_logged_once_and_not_exposed,
];

async fn readiness_follows_the_database(context: Context) {
    if context.engine() == Engine::Sqlite {
        let app = context.app().await;
        assert_eq!(app.get("/health/ready").await.json(), json!({"status": "ready"}));
        return;
    }
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let app = context.app_on(&url, &[("pool.acquire", "1s")]).await;
    assert_eq!(app.get("/health/ready").await.json(), json!({"status": "ready"}));
    proxy.cut();
    let not_ready = || async { Some(app.get("/health/ready").await).filter(|reply| reply.status == 503) };
    let reply = eventually("not ready", not_ready).await;
    reply.problem(503, "database-unavailable");
    assert_eq!(app.get("/health/live").await.json(), json!({"status": "live"}));
    let users = app.get("/users").await;
    users.problem(503, "database-unavailable");
    proxy.restore();
    eventually("ready again", || async { Some(app.get("/health/ready").await).filter(|reply| reply.status == 200) })
        .await;
    eventually("min is restored without any request", || async {
        let pool = app.pool().await;
        (pool["total"] == 2 && pool["state"] == "up").then_some(())
    })
    .await;
    eventually("served again", || async { Some(app.get("/users").await).filter(|reply| reply.status == 200) }).await;
}

async fn valid_request_ids_are_echoed_and_others_replaced(context: Context) {
    let app = context.app().await;
    let echoed_id = |id: String| {
        let request = app.request(reqwest::Method::GET, "/users").header("x-request-id", id);
        async { Reply::of(request).await.header("x-request-id").to_owned() }
    };
    for valid in
        ["a", "0197b5f0-3c4a-7def-8123-456789abcdef", "Root=1-67891233-abcdef012345678912345678", "a/b:c_d.e+f@g="]
    {
        assert_eq!(echoed_id(valid.to_owned()).await, valid);
    }
    for invalid in ["", "a b", "a\tb", "<script>", "a\"b", &"x".repeat(129)] {
        let id = echoed_id(invalid.to_owned()).await;
        assert!(id != invalid && !id.is_empty(), "{invalid:?} became {id:?}");
    }
    let (one, two) = (app.get("/users").await, app.get("/users").await);
    assert_ne!(one.header("x-request-id"), two.header("x-request-id"));
}

async fn metrics_are_labelled_by_route(context: Context) {
    let app = context.app().await;
    let user = app.create("Ann", "ann@example.com").await;
    let id = user["id"].as_str().unwrap();
    app.get(&format!("/users/{id}")).await;
    app.get("/nowhere/to/be/found").await;
    Reply::of(app.request("BREW".parse().unwrap(), "/users")).await;
    let reply = app.get("/metrics").await;
    assert!(reply.header("content-type").starts_with("text/plain; version=0.0.4"));
    for line in [
        r#"http_server_requests_total{http_request_method="GET",http_route="/users/{id}",http_response_status_code="200"}"#,
        r#"http_server_requests_total{http_request_method="GET",http_route="(none)",http_response_status_code="404"}"#,
        r#"http_server_requests_total{http_request_method="_OTHER",http_route="/users",http_response_status_code="405"}"#,
        r#"http_server_request_duration_seconds_count{http_request_method="POST",http_route="/users",http_response_status_code="201"}"#,
        r#"http_server_request_duration_seconds_bucket{http_request_method="POST",http_route="/users",http_response_status_code="201",le="0.005"}"#,
        r#"db_client_connections{pool_name="users-api",state="idle"}"#,
        r#"db_client_connection_max{pool_name="users-api"} 10"#,
        r#"db_client_connection_idle_min{pool_name="users-api"} 2"#,
        r#"db_client_connection_pending_requests{pool_name="users-api"} 0"#,
        r#"db_client_connection_wait_time_seconds_bucket{pool_name="users-api",le="0.0001"}"#,
        r#"db_client_connection_use_time_seconds_count{pool_name="users-api"}"#,
        r#"db_client_connection_create_time_seconds_count{pool_name="users-api"}"#,
        r#"db_client_connection_timeouts_total{pool_name="users-api"}"#,
    ] {
        assert!(reply.text.contains(line), "{line} is not in:\n{}", reply.text);
    }
    assert!(
        !reply.text.contains(id) && !reply.text.contains("/nowhere"),
        "labels must not contain values chosen by clients"
    );
}

async fn metrics_pass_promtool(context: Context) {
    let app = context.app().await;
    app.create("Ann", "ann@example.com").await;
    app.get("/users?limit=1").await;
    for path in ["/swagger/", "/swagger/swagger-ui.css", "/users/export", "/nowhere", "/users/1"] {
        app.get(path).await;
    }
    let text = app.get("/metrics").await.text;
    lint(&text).await.unwrap();
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        let [name, kind] = line["# TYPE ".len()..].split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no HELP");
        assert!(kind != "gauge" || !name.ends_with("_count"), "{name}");
    }
    assert!(!text.contains(".*"), "route labels contain no regular expressions");
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
        "http_server_open_connections",
        // The scrape itself.
        "http_server_active_requests 1\n",
        concat!("users_api_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1\n"),
    ] {
        assert!(text.contains(&format!("\n{name}")), "{name} is not in:\n{text}");
    }
}

/// The log's request lines.
fn request_lines(service: &Service) -> Vec<Value> {
    service.log().into_iter().filter(|line| line["message"] == "request").collect()
}

async fn each_request_logs_one_line(context: Context) {
    let url = context.database().await;
    let service = Service::start(context.folder(), &[("DATABASE_URL", &url)]).await;
    let client = client();
    let id = "/users/0197b5f0-3c4a-7def-8123-456789abcdef";
    for path in ["/users?limit=3", id, "/nowhere"] {
        let request = service.get(&client, path).header("x-request-id", format!("id:{path}").replace('?', "/"));
        request.send().await.unwrap();
    }
    let three = || async { Some(request_lines(&service)).filter(|lines| lines.len() >= 3) };
    let lines = eventually("three request lines", three).await;
    assert_eq!(lines.len(), 3);
    let fields = |line: &Value| {
        assert!(line["duration_ms"].as_f64().unwrap() > 0.0, "{line}");
        format!("{} {} {} {} {}", line["level"], line["method"], line["route"], line["status"], line["request_id"])
            .replace('"', "")
    };
    assert_eq!(
        lines.iter().map(fields).collect::<Vec<_>>(),
        [
            "INFO GET /users 200 id:/users/limit=3".to_owned(),
            format!("INFO GET /users/{{id}} 404 id:{id}"),
            "INFO GET (none) 404 id:/nowhere".to_owned(),
        ]
    );
    let log = service.log().iter().map(ToString::to_string).collect::<String>();
    assert!(!log.contains("SELECT"), "statements are not logged at this level");
    assert!(!log.contains("secret@"), "the password is not logged");
}

async fn a_timed_out_request_is_logged_with_its_route(context: Context) {
    let url = context.database().await;
    let variables = [("DATABASE_URL", url.as_str()), ("USERS_API__SERVER__REQUEST_TIMEOUT", "300ms")];
    let service = Service::start(context.folder(), &variables).await;
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    let head = "PUT /users/0197b5f0-3c4a-7def-8123-456789abcdef HTTP/1.1\r\nhost: localhost\r\n\
                content-type: application/json\r\ncontent-length: 10\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let line = service.logged("request").await;
    assert_eq!((&line["status"], &line["method"], &line["route"]), (&json!(408), &json!("PUT"), &json!("/users/{id}")));
}

async fn an_internal_error_is_logged_once_and_not_exposed(context: Context) {
    let url = context.database().await;
    let variables = [("DATABASE_URL", url.as_str()), ("USERS_API__DATABASE__MIGRATE", "off")];
    let service = Service::start(context.folder(), &variables).await;
    let reply = Reply::of(service.get(&client(), "/users")).await;
    reply.problem(500, "internal");
    for internal in ["SQL", "sqlx", "SELECT", "no such table", "does not exist", "doesn't exist", "relation", "DbErr"] {
        assert!(!reply.text.contains(internal), "{}", reply.text);
    }
    let any = || async { Some(request_lines(&service)).filter(|lines| !lines.is_empty()) };
    let lines = eventually("the request is logged", any).await;
    assert_eq!(lines[0]["level"], "ERROR");
    assert_eq!(lines[0]["request_id"], reply.header("x-request-id"));
    let chain = lines[0]["error"].as_str().unwrap();
    let cause = match context.engine() {
        Engine::Sqlite => "no such table",
        Engine::Postgres => "does not exist",
        Engine::MariaDb | Engine::MySql => "doesn't exist",
    };
    assert!(chain.contains("internal error") && chain.contains(cause), "{chain}");
    // Without tables the feed cannot be read at the start either.
    let of_request = |line: &Value| line["message"] != "cannot read the feed yet" && line.to_string().contains(cause);
    let errors = service.log().into_iter().filter(of_request).count();
    assert_eq!(errors, 1, "logged once: {:#?}", service.log());
}
