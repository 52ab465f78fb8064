//! PostgreSQL behind PgBouncer, without any configuration on our side.

use orm_pool::{DbErrorKind, Error, PoolOptions};
use sea_orm::{ConnectionTrait, Statement};
use serde_json::json;

use crate::{
    cases,
    harness::{
        App, Context, Locked, PgBouncer, Version,
        bare::{end, pool_on},
        binary, connect, number, pgbouncers,
    },
    session_settings::exercise_every_operation,
};

cases![
    every_operation_works,
    two_instances_share_fewer_server_connections,
    the_statement_timeout_applies,
    session_settings_do_not_leak_to_other_clients,
    every_command_works,
    unsupported_pool_modes_are_refused_at_start,
    a_rejected_startup_parameter_is_reported,
    prepared_statement_conflicts_are_transient_pooler_errors,
];

/// The supported combinations: session mode, and transaction mode with prepared statements.
fn supported_modes() -> Vec<(Version, &'static str)> {
    let found = pgbouncers();
    assert!(!found.is_empty(), "no PgBouncer found; install pgbouncer, or run scripts/get-pgbouncer target/pgbouncer");
    let modes = found.into_iter().flat_map(|version| {
        let transaction = version.keeps_statements_apart().then(|| (version.clone(), "transaction"));
        [(version, "session")].into_iter().chain(transaction)
    });
    modes.collect()
}

async fn every_operation_works(context: Context) {
    for (version, mode) in supported_modes() {
        let bouncer = version.before(&context.database().await, mode, &[]).await;
        exercise_every_operation(&context, bouncer.url()).await;
    }
}

async fn two_instances_share_fewer_server_connections(context: Context) {
    for (version, mode) in supported_modes() {
        // Two instances with more connections than the pooler has: they wait for each other.
        let config: &[&str] =
            if mode == "transaction" { &["default_pool_size = 3"] } else { &["default_pool_size = 20"] };
        let bouncer = version.before(&context.database().await, mode, config).await;
        let settings = [("pool.max", "8"), ("pool.acquire", "30s")];
        let apps = [context.app_on(bouncer.url(), &settings).await, context.app_on(bouncer.url(), &settings).await];
        let clients = (0..64).map(|client| tokio::spawn(run_operations(apps[client % 2].clone(), client)));
        for client in futures_util::future::join_all(clients).await {
            client.unwrap();
        }
        for app in apps {
            app.stop().await.unwrap().unwrap();
        }
    }
}

async fn run_operations(app: App, client: usize) {
    for round in 0..3 {
        let user = app.create("Ann", &format!("ann{client}.{round}@example.com")).await;
        let path = format!("/users/{}", user["id"].as_str().unwrap());
        assert_eq!(app.get(&path).await.status, 200);
        assert_eq!(app.get("/users?limit=5").await.status, 200);
        assert_eq!(app.get("/users?name=ann&limit=5").await.status, 200);
        let changed = app.patch(&path, &json!({"name": format!("Ann {client}")})).await;
        assert_eq!(changed.status, 200, "{}", changed.text);
        assert_eq!(app.delete(&path).await.status, 204);
    }
}

async fn the_statement_timeout_applies(context: Context) {
    for (version, mode) in supported_modes() {
        let server_url = context.database().await;
        let bouncer = version.before(&server_url, mode, &[]).await;
        let app = context.app_on(bouncer.url(), &[("pool.statement_timeout", "500ms")]).await;
        let pool = app.pool().await;
        assert_eq!(pool["limits"]["statementTimeoutMs"], 500, "{mode}: {pool}");
        let expected = if mode == "transaction" { json!("transaction") } else { json!(null) };
        assert_eq!(pool["pooler"], expected, "{mode}: {pool}");
        let lock = Locked::users(&context, &server_url).await;
        app.get("/users").await.problem(503, "database-unavailable");
        app.post("/users", &json!({"name": "Ann", "email": "ann@example.com"}))
            .await
            .problem(503, "database-unavailable");
        let pool = app.pool().await;
        assert_eq!(pool["counters"]["stranded"], 0, "the server cancelled the statements, not the pool: {pool}");
        lock.unlock().await;
        assert!(app.get("/users").await.ids().is_empty(), "a rejected write is not executed later");
        app.stop().await.unwrap().unwrap();
    }
}

async fn session_settings_do_not_leak_to_other_clients(context: Context) {
    for (version, mode) in supported_modes() {
        // The other client sends `extra_float_digits`.
        let config = ["default_pool_size = 4", "ignore_startup_parameters = extra_float_digits"];
        let bouncer = version.before(&context.database().await, mode, &config).await;
        let app = context.app_on(bouncer.url(), &[("pool.max", "2")]).await;
        app.create("Ann", "ann@example.com").await;
        if mode == "session" {
            app.stop().await.unwrap().unwrap();
        }
        let other = connect(bouncer.url()).await;
        let sql = "SELECT (current_setting('statement_timeout') = '0')::int";
        let row =
            other.query_one_raw(Statement::from_string(other.get_database_backend(), sql)).await.unwrap().unwrap();
        assert_eq!(row.try_get_by_index::<i32>(0).unwrap(), 1, "{mode}");
        other.close().await.unwrap();
    }
}

async fn every_command_works(context: Context) {
    let file = context.folder().join("users.ndjson");
    let row = |number| format!("{{\"name\": \"Ann\", \"email\": \"ann{number}@example.com\"}}\n");
    std::fs::write(&file, (0..2500).map(row).collect::<String>()).unwrap();
    for (version, mode) in supported_modes() {
        let bouncer = version.before(&context.database().await, mode, &[]).await;
        for (arguments, part) in [
            (&["migrate", "up"][..], "applied"),
            (&["migrate", "status"], "applied  "),
            (&["migrate", "down"], "1 reverted"),
            (&["migrate", "up"], "1 applied"),
            (&["import", "users.ndjson"], "2,500 rows: 2,500 created"),
            (&["export"], "ann2499@example.com"),
        ] {
            let mut command = binary(context.folder(), &[("DATABASE_URL", bouncer.url())]);
            let output = command.args(arguments).output().await.unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{mode} {arguments:?}: {stderr}");
            assert!(String::from_utf8(output.stdout).unwrap().contains(part), "{mode} {arguments:?}");
        }
    }
}

async fn unsupported_pool_modes_are_refused_at_start(context: Context) {
    for version in pgbouncers() {
        let config: &[&str] = if version.keeps_statements_apart() { &["max_prepared_statements = 0"] } else { &[] };
        let bouncer = version.before(&context.database().await, "transaction", config).await;
        assert_refused(&context, &bouncer, "", "max_prepared_statements").await;
        let bouncer = version.before(&context.database().await, "statement", &[]).await;
        assert_refused(&context, &bouncer, "", "transaction").await;
    }
}

async fn a_rejected_startup_parameter_is_reported(context: Context) {
    for version in pgbouncers() {
        let bouncer = version.before(&context.database().await, "session", &[]).await;
        assert_refused(&context, &bouncer, "?options=-c%20geqo%3Doff", "startup parameter").await;
    }
}

/// Asserts that the service does not start, and that it reports the pooler and `part`.
async fn assert_refused(context: &Context, bouncer: &PgBouncer, query: &str, part: &str) {
    let url = format!("{}{query}", bouncer.url());
    let variables = [("DATABASE_URL", url.as_str()), ("USERS_API__POOL__ACQUIRE", "2s")];
    let output = binary(context.folder(), &variables).output().await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("a connection pooler in front of the database") && stderr.contains(part), "{stderr}");
}

async fn prepared_statement_conflicts_are_transient_pooler_errors(context: Context) {
    let pool = pool_on(&context.database().await, PoolOptions::default()).await;
    for (interference, statement) in [
        // Like another client of an old pooler: it takes the driver's next statement names, or drops its statements.
        ("PREPARE {} AS SELECT 1", "SELECT 2"),
        ("DEALLOCATE ALL", "SELECT 1"),
    ] {
        let outcome = pool.read("test.conflict", move |db| async move {
            number(&db, "SELECT 1").await?;
            for number in 2..40 {
                // The statement may exist already.
                let sql = interference.replace("{}", &format!("sqlx_s_{number}"));
                db.execute_unprepared(&sql).await.ok();
            }
            Ok::<_, Error>(number(&db, statement).await?)
        });
        let Err(Error::Database(error)) = outcome.await else { panic!("{interference} was not detected") };
        assert_eq!(DbErrorKind::of(&error), DbErrorKind::Pooler, "{error}");
        assert!(DbErrorKind::Pooler.is_transient(), "a client gets 503");
    }
    assert_eq!(
        pool.read("test.next", |db| async move { Ok::<_, Error>(number(&db, "SELECT 3").await?) }).await.unwrap(),
        3
    );
    end(pool).await;
}
