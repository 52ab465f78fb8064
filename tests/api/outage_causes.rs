//! Outages are reported with their cause in the log, in `/health/ready` and in `/pool`. Clients get a plain 503.

use std::time::Duration;

use sea_orm::ConnectionTrait;
use serde_json::{Value, json};

use crate::{
    cases,
    harness::{
        Account, Context, End, Engine, Locked, Server, Service, binary, client, connect, eventually, new_database,
        number,
    },
};

cases![
    a_rejected_password_is_reported_and_recovery_is_automatic,
    a_changed_password_does_not_affect_open_connections,
    a_reached_connection_limit_is_reported,
    an_unresolvable_host_is_reported,
    a_server_without_tls_is_reported,
    a_read_only_server_is_reported,
    a_full_disk_is_reported,
];

async fn a_rejected_password_is_reported_and_recovery_is_automatic(context: Context) {
    let account = Account::new(&context).await;
    let app = context.app_on(&account.url, &[("pool.min", "1")]).await;
    account.set_password("two").await;
    account.kill().await;
    let pool = app.pool_until("down", |pool| pool["state"] == "down").await;
    assert_eq!(pool["cause"]["kind"], "authentication", "{pool}");
    let detail = pool["cause"]["detail"].as_str().unwrap();
    assert!(detail.contains(&account.name) && !detail.contains("one"), "the server's message: {detail}");
    assert!(!detail.contains(" at line "), "without a line of the source code of the server: {detail}");
    let ready = app.get("/health/ready").await.problem(503, "database-unavailable");
    assert_eq!(ready["detail"], "Not ready: the database rejected the user or the password.");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let problem = app.get("/users").await.problem(503, "database-unavailable");
    assert!(!problem.to_string().contains("password"), "clients see no internals: {problem}");
    account.set_password("one").await;
    app.pool_until("up again", |pool| pool["state"] == "up").await;
    assert_eq!(app.get("/users").await.status, 200);
    app.stop().await.unwrap().unwrap();
    account.end(&context).await;
}

async fn a_changed_password_does_not_affect_open_connections(context: Context) {
    let account = Account::new(&context).await;
    let settings = [("pool.min", "1"), ("pool.max", "2"), ("pool.acquire", "60s")];
    let app = context.app_on(&account.url, &settings).await;
    let lock = Locked::users(&context, &app.url).await;
    account.set_password("two").await;
    let posting = {
        let app = app.clone();
        tokio::spawn(async move { app.post("/users", &json!({"name": "Ann", "email": "ann@example.com"})).await })
    };
    app.pool_until("the only connection is in use", |pool| pool["inUse"] == 1).await;
    let second = {
        let app = app.clone();
        tokio::spawn(async move { app.get("/users/0197b5f0-3c4a-7def-8123-456789abcdef").await })
    };
    let pool = app.pool_until("no second connection can be opened", |pool| pool["shortage"].is_object()).await;
    assert_eq!((&pool["state"], &pool["shortage"]["kind"]), (&json!("up"), &json!("authentication")), "{pool}");
    lock.unlock().await;
    assert_eq!((posting.await.unwrap().status.as_u16(), second.await.unwrap().status.as_u16()), (201, 404));
    app.stop().await.unwrap().unwrap();
    account.end(&context).await;
}

async fn a_reached_connection_limit_is_reported(context: Context) {
    let account = Account::new(&context).await;
    account.set_limit(2).await;
    let app = context.app_on(&account.url, &[("pool.min", "1"), ("pool.max", "4")]).await;
    // Another client takes the last connection.
    let other = connect(&account.url).await;
    // Bursts, until requests have queued long enough for the pool to try to open another connection.
    let burst = || async {
        let burst = (0..40).map(|_| {
            let app = app.clone();
            tokio::spawn(async move { app.get("/users").await.status.as_u16() })
        });
        for status in futures_util::future::join_all(burst).await {
            assert_eq!(status.unwrap(), 200, "one connection serves all requests in turn");
        }
        Some(app.pool().await).filter(|pool| pool["shortage"].is_object())
    };
    let pool = eventually("the shortage is reported", burst).await;
    assert_eq!(pool["shortage"]["kind"], "too-many-connections", "{pool}");
    assert_eq!((pool["state"].as_str(), pool["total"].as_u64()), (Some("up"), Some(1)), "{pool}");
    // Other clients take all connections.
    account.set_limit(1).await;
    let pool = app.pool().await;
    assert_eq!(pool["total"], 1);
    other.close().await.unwrap();
    let other = loop {
        account.kill().await;
        let mut options = sea_orm::ConnectOptions::new(&account.url);
        options.max_connections(1).acquire_timeout(Duration::from_millis(100));
        if let Ok(other) = sea_orm::Database::connect(options).await {
            break other;
        }
    };
    let pool = app.pool_until("down", |pool| pool["state"] == "down").await;
    assert_eq!(pool["cause"]["kind"], "too-many-connections", "{pool}");
    let ready = app.get("/health/ready").await.problem(503, "database-unavailable");
    assert_eq!(ready["detail"], "Not ready: the database has reached its connection limit.");
    other.close().await.unwrap();
    app.pool_until("up again", |pool| pool["state"] == "up").await;
    assert_eq!(app.get("/users").await.status, 200);
    app.stop().await.unwrap().unwrap();
    account.end(&context).await;
}

async fn an_unresolvable_host_is_reported(context: Context) {
    let url = match context.engine() {
        Engine::Postgres => "postgres://app:secret@db.invalid/app",
        _ => "mysql://app:secret@db.invalid/app",
    };
    let variables = [("DATABASE_URL", url), ("USERS_API__POOL__ACQUIRE", "3s")];
    let output = binary(context.folder(), &variables).output().await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("the database's host name cannot be resolved"), "{stderr}");
    assert!(!stderr.contains("secret"), "{stderr}");
}

async fn a_server_without_tls_is_reported(context: Context) {
    // MySQL generates its certificates itself unless TLS is disabled.
    let mut without_tls = (context.engine() == Engine::MySql).then(|| Server::new(Engine::MySql, &["--tls-version="]));
    let url = match &mut without_tls {
        Some(server) => {
            server.start(End::Crash);
            let address = url::Url::parse(server.url()).unwrap().socket_addrs(|| None).unwrap()[0];
            eventually("the server listens", || async { tokio::net::TcpStream::connect(address).await.ok() }).await;
            server.url().to_owned()
        }
        None => context.database().await,
    };
    let url = match context.engine() {
        Engine::Postgres => format!("{url}?sslmode=require"),
        _ => format!("{url}?ssl-mode=REQUIRED"),
    };
    let variables = [("DATABASE_URL", url.as_str()), ("USERS_API__POOL__ACQUIRE", "3s")];
    let output = binary(context.folder(), &variables).output().await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("TLS negotiation with the database failed"), "{stderr}");
    if let Some(mut server) = without_tls {
        server.stop();
    }
}

async fn a_read_only_server_is_reported(context: Context) {
    let mut server = Server::new(context.engine(), &[]);
    server.start(End::Crash);
    server.await_ready();
    let admin = connect(server.url()).await;
    let (demote, promote): (&[&str], &[&str]) = match context.engine() {
        Engine::Postgres => (
            &["ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"],
            &["ALTER SYSTEM SET default_transaction_read_only = off", "SELECT pg_reload_conf()"],
        ),
        _ => (
            &["CREATE USER app IDENTIFIED BY 'one'", "GRANT ALL ON app.* TO app", "SET GLOBAL read_only = 1"],
            &["SET GLOBAL read_only = 0"],
        ),
    };
    let mut url = url::Url::parse(&new_database(server.url()).await).unwrap();
    // The migration needs write access, so it runs before the demotion.
    let app = context.app_on(url.as_str(), &[]).await;
    app.stop().await.unwrap().unwrap();
    for statement in demote {
        admin.execute_unprepared(statement).await.unwrap();
    }
    if context.engine() == Engine::Postgres {
        eventually("new connections see the setting", || async {
            let new = connect(server.url()).await;
            let sql = "SELECT (current_setting('default_transaction_read_only') = 'on')::int::bigint";
            let is_on = number(&new, sql).await.unwrap() == 1;
            new.close().await.unwrap();
            is_on.then_some(())
        })
        .await;
    }
    if context.engine().is_mysql_like() {
        // `read_only` does not apply to administrators.
        url.set_username("app").unwrap();
        url.set_password(Some("one")).unwrap();
    }
    let app = context.app_on(url.as_str(), &[("database.migrate", "off")]).await;
    let ann = json!({"name": "Ann", "email": "ann@example.com"});
    app.post("/users", &ann).await.problem(503, "database-unavailable");
    let pool = app.pool().await;
    assert_eq!((&pool["state"], &pool["impairment"]["kind"]), (&json!("up"), &json!("read-only")), "{pool}");
    assert_eq!(pool["counters"]["closedBroken"], 1, "a new connection may reach the new primary: {pool}");
    let ready = app.get("/health/ready").await;
    assert_eq!(ready.json(), json!({"status": "ready", "impairment": "the database is read-only"}));
    assert_eq!(app.get("/users").await.status, 200);
    for statement in promote {
        admin.execute_unprepared(statement).await.unwrap();
    }
    eventually("writes are accepted again", || async { (app.post("/users", &ann).await.status == 201).then_some(()) })
        .await;
    app.stop().await.unwrap().unwrap();
    drop(admin);
    server.stop();
}

async fn a_full_disk_is_reported(context: Context) {
    if !context.engine().is_mysql_like() {
        // With PostgreSQL, a full disk requires the privilege to mount one.
        return;
    }
    let limits = ["--innodb-file-per-table=0", "--innodb-data-file-path=ibdata1:12M", "--innodb-fast-shutdown=2"];
    let mut server = Server::new(context.engine(), &limits);
    server.start(End::Crash);
    server.await_ready();
    let url = new_database(server.url()).await;
    let variables = [("DATABASE_URL", url.as_str()), ("RUST_LOG", "info")];
    let mut service = Service::start(context.folder(), &variables).await;
    let database = connect(&url).await;
    database.execute_unprepared("CREATE TABLE ballast (b LONGBLOB)").await.unwrap();
    while database.execute_unprepared("INSERT INTO ballast VALUES (REPEAT('x', 200000))").await.is_ok() {}
    while database.execute_unprepared("INSERT INTO ballast VALUES (REPEAT('x', 2000))").await.is_ok() {}
    let client = client();
    let mut number = 0;
    let response = loop {
        number += 1;
        let body = json!({"name": "x".repeat(200), "email": format!("{number}-{}@example.com", "x".repeat(50))});
        let response = client.post(format!("http://{}/users", service.address)).json(&body).send().await.unwrap();
        if response.status() != 201 {
            break response;
        }
    };
    assert_eq!(response.status(), 503);
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["code"], "database-unavailable", "{problem}");
    let pool: Value = service.get(&client, "/pool").send().await.unwrap().json().await.unwrap();
    assert_eq!((&pool["state"], &pool["impairment"]["kind"]), (&json!("up"), &json!("disk-full")), "{pool}");
    let ready: Value = service.get(&client, "/health/ready").send().await.unwrap().json().await.unwrap();
    assert_eq!(ready, json!({"status": "ready", "impairment": "the database's disk is full"}));
    assert_eq!(service.get(&client, "/users").send().await.unwrap().status(), 200, "reads still succeed");
    let line = service.logged("the database rejects writes").await;
    assert_eq!((&line["cause"], &line["operation"]), (&json!("the database's disk is full"), &json!("users.create")));
    service.signal("TERM").await;
    assert!(service.ended().await.success());
    drop(database);
    server.stop();
}
