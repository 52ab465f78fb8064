//! `users-api demo`: the lab, its simulated clients, and its temporary database.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    cases,
    harness::{App, Context, Engine, EventStream, Service, binary, connect, eventually, number},
};

cases![the_lab_shows_the_pool_at_work, a_failed_start_leaves_no_database, the_end_of_the_terminal_leaves_no_database];

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
        // The browser of a page of another origin asks before it sends such a request, and gets no permission.
        let asked = app.request(Method::OPTIONS, "/demo").header("origin", "https://evil.example");
        let asked = asked.header("access-control-request-method", "PATCH").send().await.unwrap();
        assert!(!asked.headers().contains_key("access-control-allow-origin"), "{asked:?}");
        let simple = app.request(Method::POST, "/demo/slow-statement").header("content-type", "text/plain");
        assert_eq!(simple.body("{\"seconds\":5}").send().await.unwrap().status(), 415);
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
        let output = printed(&service);
        Some(output.split("http://").nth(1)?.split("/dashboard").next()?.parse().unwrap())
    });
    let address = address.await;
    (service, App::at(address, ""))
}

async fn end(mut service: Service) {
    service.signal("TERM").await;
    assert!(service.ended().await.success());
}

/// Returns whether the temporary database, which the output names, or a folder exists.
async fn exists(context: &Context, url: &str, output: &str) -> bool {
    if context.engine() == Engine::Sqlite {
        let mut names = std::fs::read_dir(context.folder()).unwrap().map(|entry| entry.unwrap().file_name());
        return names.any(|name| name.to_string_lossy().starts_with("users-api-demo-"));
    }
    let name = output.split("Temporary database: ").nth(1).unwrap().split_whitespace().next().unwrap();
    let table = if context.engine() == Engine::Postgres {
        "pg_database WHERE datname"
    } else {
        "information_schema.schemata WHERE schema_name"
    };
    let database = connect(url).await;
    let count = number(&database, &format!("SELECT count(*) FROM {table} = '{name}'")).await.unwrap();
    database.close().await.unwrap();
    count > 0
}

/// Returns what a demo has printed.
fn printed(service: &Service) -> String {
    service.log().iter().filter_map(|line| line.as_str()).map(|line| format!("{line}\n")).collect()
}

/// Returns the arguments that select the engine of the case.
fn engine_arguments<'a>(context: &Context, url: &'a str) -> Vec<&'a str> {
    if context.engine() == Engine::Sqlite { vec![] } else { vec!["--database-url", url] }
}

async fn a_failed_start_leaves_no_database(context: Context) {
    let url = context.database().await;
    let in_use = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = in_use.local_addr().unwrap().port().to_string();
    let folder = context.folder().to_str().unwrap();
    let mut command = binary(context.folder(), &[("TMPDIR", folder)]);
    let output = command.args(["demo", "--port", &port]).args(engine_arguments(&context, &url)).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("cannot listen on"), "{error}");
    assert!(!exists(&context, &url, &String::from_utf8(output.stdout).unwrap()).await);
}

async fn the_end_of_the_terminal_leaves_no_database(context: Context) {
    let url = context.database().await;
    let (mut service, _) = start(&context, &engine_arguments(&context, &url)).await;
    assert!(exists(&context, &url, &printed(&service)).await);
    service.signal("HUP").await;
    assert!(service.ended().await.success());
    assert!(!exists(&context, &url, &printed(&service)).await);
}

/// A lab, and the streams of its two pages.
struct Lab {
    app: App,
    demo: EventStream,
    pool: EventStream,
}

async fn the_lab_shows_the_pool_at_work(context: Context) {
    let url = context.database().await;
    let (service, app) = start(&context, &engine_arguments(&context, &url)).await;
    let stream = |path: &'static str| EventStream::of(app.request(Method::GET, path));
    let (demo, pool) = (stream("/demo/live").await.unwrap(), stream("/pool/live").await.unwrap());
    let mut lab = Lab { app: app.clone(), demo, pool };
    lab.clients_run_while_someone_looks().await;
    lab.each_control_takes_effect().await;
    lab.without_a_pool_each_operation_opens_a_connection().await;
    lab.a_slow_statement_holds_a_connection().await;
    lab.an_outage_and_its_end_are_detected().await;
    drop(lab);
    the_clients_pause_when_no_one_looks(&app).await;
    end(service).await;
}

impl Lab {
    async fn clients_run_while_someone_looks(&mut self) {
        until(&mut self.demo, "operations", |lab| lab["load"]["perSecond"].as_f64() > Some(50.0)).await;
        let frame = until(&mut self.pool, "a frame", |_| true).await;
        assert_eq!(frame["demo"], true);
    }

    async fn each_control_takes_effect(&mut self) {
        let change = json!({
            "max": 3, "min": 1, "queueLimit": 7, "acquireMs": 900, "batch": false, "latencyMs": 5, "clients": 40
        });
        let changed = self.app.patch("/demo", &change).await;
        assert_eq!(changed.status, 200, "{}", changed.text);
        for (member, value) in change.as_object().unwrap() {
            assert_eq!(&changed.json()["settings"][member], value);
        }
        let is_full = |pool: &Value| pool["inUse"] == 3 && pool["waiting"] == 7;
        let full = until(&mut self.pool, "all connections are in use", is_full).await;
        for member in ["max", "min", "queueLimit", "acquireMs", "batch"] {
            assert_eq!(full["limits"][member], change[member], "{member}");
        }
        // 40 clients do not fit into 3 connections and 7 places.
        until(&mut self.demo, "refusals", |lab| lab["load"]["failedPerSecond"].as_f64() > Some(1.0)).await;
    }

    async fn without_a_pool_each_operation_opens_a_connection(&mut self) {
        let opened = |pool: &Value| pool["counters"]["opened"].as_u64().unwrap();
        let before = opened(&self.app.pool().await);
        self.app.patch("/demo", &json!({"connectionPerRequest": true, "latencyMs": 0})).await;
        until(&mut self.pool, "many connections are opened", |pool| opened(pool) > before + 20).await;
        let served = |lab: &Value| {
            lab["settings"]["connectionPerRequest"] == true && lab["load"]["perSecond"].as_f64() > Some(10.0)
        };
        until(&mut self.demo, "operations without a pool", served).await;
        let with_a_pool = json!({"connectionPerRequest": false, "max": 10, "queueLimit": 1000, "clients": 8});
        self.app.patch("/demo", &with_a_pool).await;
    }

    async fn a_slow_statement_holds_a_connection(&mut self) {
        let held = self.app.post("/demo/slow-statement", &json!({"seconds": 2})).await;
        assert_eq!(held.status, 200);
        until(&mut self.pool, "a long hold", |pool| {
            pool["longestHolders"].as_array().unwrap().iter().any(|holder| holder["operation"] == "demo.slow_statement")
        })
        .await;
    }

    async fn an_outage_and_its_end_are_detected(&mut self) {
        self.app.put("/demo/outage", &json!({"seconds": 30})).await;
        let down = until(&mut self.pool, "down", |pool| pool["state"] == "down").await;
        assert_eq!(down["cause"]["kind"], "silent");
        let refused =
            |lab: &Value| lab["outageMs"].as_u64() > Some(0) && lab["load"]["failedPerSecond"].as_f64() > Some(1.0);
        until(&mut self.demo, "refusals in the outage", refused).await;
        self.app.put("/demo/outage", &json!({"seconds": 0})).await;
        until(&mut self.pool, "up", |pool| pool["state"] == "up").await;
        let served = |lab: &Value| lab["outageMs"] == 0 && lab["load"]["perSecond"].as_f64() > Some(50.0);
        until(&mut self.demo, "operations after the outage", served).await;
    }
}

async fn the_clients_pause_when_no_one_looks(app: &App) {
    eventually("the clients pause", || async {
        let before = app.pool().await["counters"]["operations"].as_u64().unwrap();
        sleep(Duration::from_millis(500)).await;
        let more = app.pool().await["counters"]["operations"].as_u64().unwrap() - before;
        (more < 20).then_some(())
    })
    .await;
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
