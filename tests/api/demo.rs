//! `users-api demo`: the lab, its simulated clients, and its temporary database.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    cases,
    harness::{App, Context, Engine, EventStream, Service, connect, eventually, number},
};

cases![the_lab_shows_the_pool_at_work];

/// Cases that do not depend on the engine.
pub mod once {
    use crate::{
        cases,
        demo::{end, start},
        harness::{Context, binary},
    };
    use reqwest::Method;
    use serde_json::json;

    cases![only_this_machine_is_served, invalid_values_change_nothing, the_service_has_no_lab];

    async fn only_this_machine_is_served(context: Context) {
        for host in ["0.0.0.0", "::", "192.0.2.1"] {
            let output = binary(context.folder(), &[]).args(["demo", "--host", host]).output().await.unwrap();
            assert_eq!(output.status.code(), Some(2));
            let error = String::from_utf8(output.stderr).unwrap();
            assert!(error.contains(host) && error.contains("loopback"), "{error}");
        }
        let (service, app) = start(&context, &[]).await;
        let foreign = app.request(Method::GET, "/demo").header("host", "evil.example").send().await.unwrap();
        assert_eq!(foreign.status(), 421);
        // A page of another origin can send a body of this type without asking.
        let foreign =
            app.request(Method::PUT, "/demo/outage").header("content-type", "text/plain").body("{\"seconds\":5}");
        assert_eq!(foreign.send().await.unwrap().status(), 415);
        end(service).await;
    }

    async fn invalid_values_change_nothing(context: Context) {
        let (service, app) = start(&context, &[]).await;
        let before = app.get("/demo").await.json()["settings"].clone();
        let change = async |body: &str| {
            let request = app.request(Method::PATCH, "/demo").header("content-type", "application/json");
            crate::harness::Reply::of(request.body(body.to_owned())).await
        };
        for (body, members) in [
            (r#"{"max": 0, "clients": 201}"#, vec!["/max", "/clients"]),
            (r#"{"min": 11}"#, vec!["/min"]),
            (r#"{"max": 1}"#, vec!["/min"]),
        ] {
            let reply = change(body).await;
            let problem = reply.problem(422, "validation-failed");
            let pointers: Vec<_> =
                problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect();
            assert_eq!(pointers, members, "{body}");
        }
        for body in ["", "[]", r#"{"max": "many"}"#, r#"{"maximum": 5}"#, r#"{"max": -1}"#] {
            change(body).await.problem(400, "malformed-json");
        }
        let seconds = app.request(Method::PUT, "/demo/outage").json(&json!({"seconds": 31}));
        assert_eq!(seconds.send().await.unwrap().status(), 422);
        assert_eq!(app.get("/demo").await.json()["settings"], before);
        assert_eq!(app.pool().await["limits"]["max"], before["max"]);
        end(service).await;
    }

    async fn the_service_has_no_lab(context: Context) {
        let app = context.app().await;
        for path in ["/demo", "/demo/live"] {
            app.get(path).await.problem(404, "not-found");
        }
        app.patch("/demo", &json!({"max": 1})).await.problem(404, "not-found");
    }
}

/// Starts a demo, whose files are in the folder of the case.
async fn start(context: &Context, arguments: &[&str]) -> (Service, App) {
    let folder = context.folder().to_str().unwrap();
    let arguments = [&["demo", "--port", "0"], arguments].concat();
    let service = Service::launch_with(context.folder(), &[("TMPDIR", folder)], &arguments);
    let address = eventually("the demo prints its address", || async {
        let line = service.log().into_iter().find_map(|line| line.as_str().map(str::to_owned))?;
        Some(line.split("http://").nth(1)?.split("/dashboard").next()?.parse().unwrap())
    });
    let address = address.await;
    (service, App::at(address, ""))
}

async fn end(mut service: Service) {
    service.signal("TERM").await;
    assert!(service.ended().await.success());
}

/// Returns how many temporary databases exist on the server.
async fn temporary_databases(url: &str, engine: Engine) -> i64 {
    let sql = if engine == Engine::Postgres {
        "SELECT count(*) FROM pg_database WHERE datname LIKE 'users_api_demo_%'"
    } else {
        "SELECT count(*) FROM information_schema.schemata WHERE schema_name LIKE 'users_api_demo_%'"
    };
    let database = connect(url).await;
    let count = number(&database, sql).await.unwrap();
    database.close().await.unwrap();
    count
}

async fn the_lab_shows_the_pool_at_work(context: Context) {
    let url = context.database().await;
    let is_server = context.engine() != Engine::Sqlite;
    let (service, app) =
        if is_server { start(&context, &["--database-url", &url]).await } else { start(&context, &[]).await };
    if is_server {
        assert_eq!(temporary_databases(&url, context.engine()).await, 1);
    }
    let stream = |path: &'static str| EventStream::of(app.request(Method::GET, path));
    let (mut lab, mut pool) = (stream("/demo/live").await.unwrap(), stream("/pool/live").await.unwrap());

    // The clients run while someone looks.
    until(&mut lab, "operations", |lab| lab["load"]["perSecond"].as_f64() > Some(50.0)).await;
    let frame = until(&mut pool, "a frame", |_| true).await;
    assert_eq!(frame["demo"], true);

    // Each control takes effect.
    let change =
        json!({"max": 3, "min": 1, "queueLimit": 7, "acquireMs": 900, "batch": false, "latencyMs": 5, "clients": 40});
    let changed = app.patch("/demo", &change).await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    for (member, value) in change.as_object().unwrap() {
        assert_eq!(&changed.json()["settings"][member], value);
    }
    let full = until(&mut pool, "all connections are in use", |pool| pool["inUse"] == 3 && pool["waiting"] == 7).await;
    let limits = &full["limits"];
    assert_eq!(
        (&limits["max"], &limits["min"], &limits["queueLimit"], &limits["acquireMs"], &limits["batch"]),
        (&json!(3), &json!(1), &json!(7), &json!(900), &json!(false))
    );
    // 40 clients do not fit into 3 connections and 7 places.
    until(&mut lab, "refusals", |lab| lab["load"]["failedPerSecond"].as_f64() > Some(1.0)).await;

    // Without a pool, each operation opens a connection.
    let opened = |pool: &Value| pool["counters"]["opened"].as_u64().unwrap();
    let before = opened(&full);
    app.patch("/demo", &json!({"connectionPerRequest": true, "latencyMs": 0})).await;
    until(&mut pool, "many connections are opened", |pool| opened(pool) > before + 20).await;
    let served = |lab: &Value| {
        lab["settings"]["connectionPerRequest"] == true && lab["load"]["perSecond"].as_f64() > Some(10.0)
    };
    until(&mut lab, "operations without a pool", served).await;
    app.patch("/demo", &json!({"connectionPerRequest": false, "max": 10, "queueLimit": 1000, "clients": 8})).await;

    // A slow statement holds a connection.
    let held = app.put("/demo/slow-statement", &json!({"seconds": 2})).await;
    assert_eq!(held.status, 200);
    until(&mut pool, "a long hold", |pool| {
        pool["longestHolders"].as_array().unwrap().iter().any(|holder| holder["operation"] == "demo.slow_statement")
    })
    .await;

    // An outage is detected, and its end too.
    app.put("/demo/outage", &json!({"seconds": 30})).await;
    let down = until(&mut pool, "down", |pool| pool["state"] == "down").await;
    assert_eq!(down["cause"]["kind"], "silent");
    let refused =
        |lab: &Value| lab["outageMs"].as_u64() > Some(0) && lab["load"]["failedPerSecond"].as_f64() > Some(1.0);
    until(&mut lab, "refusals in the outage", refused).await;
    app.put("/demo/outage", &json!({"seconds": 0})).await;
    until(&mut pool, "up", |pool| pool["state"] == "up").await;
    let served = |lab: &Value| lab["outageMs"] == 0 && lab["load"]["perSecond"].as_f64() > Some(50.0);
    until(&mut lab, "operations after the outage", served).await;

    // The clients pause when no one looks.
    drop((lab, pool));
    eventually("the clients pause", || async {
        let before = app.pool().await["counters"]["operations"].as_u64().unwrap();
        sleep(Duration::from_millis(500)).await;
        let more = app.pool().await["counters"]["operations"].as_u64().unwrap() - before;
        (more < 20).then_some(())
    })
    .await;

    end(service).await;
    if is_server {
        assert_eq!(temporary_databases(&url, context.engine()).await, 0);
    }
    let left = std::fs::read_dir(context.folder())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("users-api-demo-"));
    assert_eq!(left.count(), 0, "the temporary folder is removed");
}

/// Returns the data of the first message that matches.
async fn until(stream: &mut EventStream, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..240 {
        let message = stream.next().await.unwrap_or_else(|| panic!("the stream ended before: {what}"));
        // The first part of a stream has no data.
        if !message.data.is_empty() && matches(&message.json()) {
            return message.json();
        }
    }
    panic!("no message: {what}");
}
