//! PostgreSQL behind PgBouncer, with nothing configured for it on our side.

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
    sessions::life,
};

cases![
    every_operation_works_behind_it,
    many_clients_share_its_connections,
    statements_have_their_limit_behind_it,
    nothing_is_left_in_the_sessions_of_others,
    commands_run_behind_it,
    mixed_up_statements_are_refused_at_start,
    a_startup_parameter_that_it_refuses_is_told,
    mixed_up_statements_are_no_internal_error,
];

/// What works as it comes: session mode, and transaction mode with prepared statements.
fn ways() -> Vec<(Version, &'static str)> {
    let found = pgbouncers();
    assert!(!found.is_empty(), "no PgBouncer found; install pgbouncer, or run scripts/get-pgbouncer target/pgbouncer");
    let each = found.into_iter().flat_map(|version| {
        let shared = version.keeps_statements_apart().then(|| (version.clone(), "transaction"));
        [(version, "session")].into_iter().chain(shared)
    });
    each.collect()
}

async fn every_operation_works_behind_it(context: Context) {
    for (version, mode) in ways() {
        let bouncer = version.before(&context.database().await, mode, &[]).await;
        life(&context, bouncer.url()).await;
    }
}

async fn many_clients_share_its_connections(context: Context) {
    for (version, mode) in ways() {
        // Two instances, more connections than the pooler has: they wait for each other.
        let more: &[&str] =
            if mode == "transaction" { &["default_pool_size = 3"] } else { &["default_pool_size = 20"] };
        let bouncer = version.before(&context.database().await, mode, more).await;
        let settings = [("pool.max", "8"), ("pool.acquire", "30s")];
        let apps = [context.app_on(bouncer.url(), &settings).await, context.app_on(bouncer.url(), &settings).await];
        let clients = (0..64).map(|client| tokio::spawn(work(apps[client % 2].clone(), client)));
        for client in futures_util::future::join_all(clients).await {
            client.unwrap();
        }
        for app in apps {
            app.stop().await.unwrap().unwrap();
        }
    }
}

async fn work(app: App, client: usize) {
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

async fn statements_have_their_limit_behind_it(context: Context) {
    for (version, mode) in ways() {
        let direct = context.database().await;
        let bouncer = version.before(&direct, mode, &[]).await;
        let app = context.app_on(bouncer.url(), &[("pool.statement_timeout", "500ms")]).await;
        let pool = app.pool().await;
        assert_eq!(pool["limits"]["statementTimeoutMs"], 500, "{mode}: {pool}");
        let expected = if mode == "transaction" { json!("transaction") } else { json!(null) };
        assert_eq!(pool["pooler"], expected, "{mode}: {pool}");
        let lock = Locked::users(&context, &direct).await;
        app.get("/users").await.problem(503, "database-unavailable");
        app.post("/users", &json!({"name": "Ann", "email": "ann@example.com"}))
            .await
            .problem(503, "database-unavailable");
        let pool = app.pool().await;
        assert_eq!(pool["counters"]["stranded"], 0, "the server ended them, and not the pool: {pool}");
        lock.unlock().await;
        assert!(app.get("/users").await.ids().is_empty(), "what was refused was not done later");
        app.stop().await.unwrap().unwrap();
    }
}

async fn nothing_is_left_in_the_sessions_of_others(context: Context) {
    for (version, mode) in ways() {
        // The other client is one that needs this.
        let more = ["default_pool_size = 4", "ignore_startup_parameters = extra_float_digits"];
        let bouncer = version.before(&context.database().await, mode, &more).await;
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

async fn commands_run_behind_it(context: Context) {
    let file = context.folder().join("users.ndjson");
    let row = |number| format!("{{\"name\": \"Ann\", \"email\": \"ann{number}@example.com\"}}\n");
    std::fs::write(&file, (0..2500).map(row).collect::<String>()).unwrap();
    for (version, mode) in ways() {
        let bouncer = version.before(&context.database().await, mode, &[]).await;
        for (arguments, part) in [
            (&["migrate", "up"][..], "applied"),
            (&["migrate", "status"], "applied  "),
            (&["migrate", "down"], "1 taken back"),
            (&["migrate", "up"], "1 applied"),
            (&["import", "users.ndjson"], "2,500 rows: 2,500 created"),
            (&["export"], "ann2499@example.com"),
        ] {
            let mut command = binary(context.folder(), &[("DATABASE_URL", bouncer.url())]);
            let output = command.args(arguments).output().await.unwrap();
            let told = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{mode} {arguments:?}: {told}");
            assert!(String::from_utf8(output.stdout).unwrap().contains(part), "{mode} {arguments:?}");
        }
    }
}

async fn mixed_up_statements_are_refused_at_start(context: Context) {
    for version in pgbouncers() {
        let more: &[&str] = if version.keeps_statements_apart() { &["max_prepared_statements = 0"] } else { &[] };
        let bouncer = version.before(&context.database().await, "transaction", more).await;
        refused(&context, &bouncer, "", "max_prepared_statements").await;
        let bouncer = version.before(&context.database().await, "statement", &[]).await;
        refused(&context, &bouncer, "", "transaction").await;
    }
}

async fn a_startup_parameter_that_it_refuses_is_told(context: Context) {
    for version in pgbouncers() {
        let bouncer = version.before(&context.database().await, "session", &[]).await;
        refused(&context, &bouncer, "?options=-c%20geqo%3Doff", "startup parameter").await;
    }
}

/// The service does not start, says what stands in between, and how to go on.
async fn refused(context: &Context, bouncer: &PgBouncer, query: &str, part: &str) {
    let url = format!("{}{query}", bouncer.url());
    let variables = [("DATABASE_URL", url.as_str()), ("USERS_API__POOL__ACQUIRE", "2s")];
    let output = binary(context.folder(), &variables).output().await.unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("a connection pooler") && told.contains("stands in between") && told.contains(part),
        "{told}"
    );
}

async fn mixed_up_statements_are_no_internal_error(context: Context) {
    let pool = pool_on(&context.database().await, PoolOptions::default()).await;
    for (spoil, kept) in [
        // As another client of an old pooler does it: the driver's next names are taken; its statements are gone.
        ("PREPARE {} AS SELECT 1", "SELECT 2"),
        ("DEALLOCATE ALL", "SELECT 1"),
    ] {
        let refused = pool.read("test.spoilt", move |db| async move {
            number(&db, "SELECT 1").await?;
            for number in 2..40 {
                // It may be there already.
                let sql = spoil.replace("{}", &format!("sqlx_s_{number}"));
                db.execute_unprepared(&sql).await.ok();
            }
            Ok::<_, Error>(number(&db, kept).await?)
        });
        let Err(Error::Database(error)) = refused.await else { panic!("{spoil} was not noticed") };
        assert_eq!(DbErrorKind::of(&error), DbErrorKind::Pooler, "{error}");
        assert!(DbErrorKind::Pooler.is_transient(), "a client gets 503");
    }
    assert_eq!(
        pool.read("test.next", |db| async move { Ok::<_, Error>(number(&db, "SELECT 3").await?) }).await.unwrap(),
        3
    );
    end(pool).await;
}
