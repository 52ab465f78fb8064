//! An outage is told by its true cause: in the log, in `/health/ready` and in `/pool`; a client gets a plain 503.

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
    a_changed_password_is_told_and_mended,
    a_changed_password_does_not_take_down_those_who_are_in,
    a_server_without_connections_to_spare_is_told,
    a_host_that_cannot_be_resolved_is_told,
    a_server_without_tls_is_told,
    a_demoted_server_is_told,
    a_full_disk_is_told,
];

async fn a_changed_password_is_told_and_mended(context: Context) {
    let account = Account::new(&context).await;
    let app = context.app_on(&account.url, &[("pool.min", "1")]).await;
    account.set_password("two").await;
    account.kill().await;
    let pool = app.pool_until("down", |pool| pool["state"] == "down").await;
    assert_eq!(pool["cause"]["kind"], "authentication", "{pool}");
    let detail = pool["cause"]["detail"].as_str().unwrap();
    assert!(detail.contains(&account.name) && !detail.contains("one"), "the server's own words: {detail}");
    let ready = app.get("/health/ready").await.problem(503, "database-unavailable");
    assert_eq!(ready["detail"], "Not ready: the database does not accept the user or the password.");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let told = app.get("/users").await.problem(503, "database-unavailable");
    assert!(!told.to_string().contains("password"), "a client learns nothing of the inside: {told}");
    account.set_password("one").await;
    app.pool_until("up again", |pool| pool["state"] == "up").await;
    assert_eq!(app.get("/users").await.status, 200);
    app.stop().await.unwrap().unwrap();
    account.end(&context).await;
}

async fn a_changed_password_does_not_take_down_those_who_are_in(context: Context) {
    let account = Account::new(&context).await;
    let settings = [("pool.min", "1"), ("pool.max", "2"), ("pool.acquire", "60s")];
    let app = context.app_on(&account.url, &settings).await;
    let lock = Locked::users(&context, &app.url).await;
    account.set_password("two").await;
    let posting = {
        let app = app.clone();
        tokio::spawn(async move { app.post("/users", &json!({"name": "Ann", "email": "ann@example.com"})).await })
    };
    app.pool_until("the only connection is out", |pool| pool["inUse"] == 1).await;
    let second = {
        let app = app.clone();
        tokio::spawn(async move { app.get("/users/0197b5f0-3c4a-7def-8123-456789abcdef").await })
    };
    let pool = app.pool_until("no second one can be opened", |pool| pool["shortage"].is_object()).await;
    assert_eq!((&pool["state"], &pool["shortage"]["kind"]), (&json!("up"), &json!("authentication")), "{pool}");
    lock.unlock().await;
    assert_eq!((posting.await.unwrap().status.as_u16(), second.await.unwrap().status.as_u16()), (201, 404));
    app.stop().await.unwrap().unwrap();
    account.end(&context).await;
}

async fn a_server_without_connections_to_spare_is_told(context: Context) {
    let account = Account::new(&context).await;
    account.set_limit(2).await;
    let app = context.app_on(&account.url, &[("pool.min", "1"), ("pool.max", "4")]).await;
    // Somebody else takes the last one.
    let other = connect(&account.url).await;
    // Bursts, until requests have waited for long enough that another connection was to be opened.
    let burst = || async {
        let burst = (0..40).map(|_| {
            let app = app.clone();
            tokio::spawn(async move { app.get("/users").await.status.as_u16() })
        });
        for status in futures_util::future::join_all(burst).await {
            assert_eq!(status.unwrap(), 200, "one connection serves them all, one after the other");
        }
        Some(app.pool().await).filter(|pool| pool["shortage"].is_object())
    };
    let pool = eventually("the shortage is told", burst).await;
    assert_eq!(pool["shortage"]["kind"], "too-many-connections", "{pool}");
    assert_eq!((pool["state"].as_str(), pool["total"].as_u64()), (Some("up"), Some(1)), "{pool}");
    // Others take all there are.
    account.set_limit(1).await;
    let pid = app.pool().await;
    assert_eq!(pid["total"], 1);
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
    assert_eq!(ready["detail"], "Not ready: the database has no connection to spare.");
    other.close().await.unwrap();
    app.pool_until("up again", |pool| pool["state"] == "up").await;
    assert_eq!(app.get("/users").await.status, 200);
    app.stop().await.unwrap().unwrap();
    account.end(&context).await;
}

async fn a_host_that_cannot_be_resolved_is_told(context: Context) {
    let url = match context.engine() {
        Engine::Postgres => "postgres://app:secret@db.invalid/app",
        _ => "mysql://app:secret@db.invalid/app",
    };
    let variables = [("DATABASE_URL", url), ("USERS_API__POOL__ACQUIRE", "3s")];
    let output = binary(context.folder(), &variables).output().await.unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("the database's host name cannot be resolved"), "{told}");
    assert!(!told.contains("secret"), "{told}");
}

async fn a_server_without_tls_is_told(context: Context) {
    // MySQL makes certificates for itself unless it is told not to use any.
    let mut without_tls = (context.engine() == Engine::MySql).then(|| Server::new(Engine::MySql, &["--tls-version="]));
    let url = match &mut without_tls {
        Some(server) => {
            server.start(End::Crash);
            let address = url::Url::parse(server.url()).unwrap().socket_addrs(|| None).unwrap()[0];
            eventually("it listens", || async { tokio::net::TcpStream::connect(address).await.ok() }).await;
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
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("no secure connection to the database"), "{told}");
    if let Some(mut server) = without_tls {
        server.stop();
    }
}

async fn a_demoted_server_is_told(context: Context) {
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
    // A migration needs the rights that the demotion takes away, so it comes first.
    let app = context.app_on(url.as_str(), &[]).await;
    app.stop().await.unwrap().unwrap();
    for statement in demote {
        admin.execute_unprepared(statement).await.unwrap();
    }
    if context.engine() == Engine::Postgres {
        eventually("new connections have heard of it", || async {
            let new = connect(server.url()).await;
            let sql = "SELECT (current_setting('default_transaction_read_only') = 'on')::int::bigint";
            let is_on = number(&new, sql).await.unwrap() == 1;
            new.close().await.unwrap();
            is_on.then_some(())
        })
        .await;
    }
    if context.engine().is_mysql_like() {
        // An administrator may write all the same.
        url.set_username("app").unwrap();
        url.set_password(Some("one")).unwrap();
    }
    let app = context.app_on(url.as_str(), &[("database.migrate", "off")]).await;
    let ann = json!({"name": "Ann", "email": "ann@example.com"});
    app.post("/users", &ann).await.problem(503, "database-unavailable");
    let pool = app.pool().await;
    assert_eq!((&pool["state"], &pool["impairment"]["kind"]), (&json!("up"), &json!("read-only")), "{pool}");
    assert_eq!(pool["counters"]["closedBroken"], 1, "a new connection may find the new primary: {pool}");
    let ready = app.get("/health/ready").await;
    assert_eq!(ready.json(), json!({"status": "ready", "impairment": "the database takes no writes"}));
    assert_eq!(app.get("/users").await.status, 200);
    for statement in promote {
        admin.execute_unprepared(statement).await.unwrap();
    }
    eventually("writes are taken again", || async { (app.post("/users", &ann).await.status == 201).then_some(()) })
        .await;
    app.stop().await.unwrap().unwrap();
    drop(admin);
    server.stop();
}

async fn a_full_disk_is_told(context: Context) {
    if !context.engine().is_mysql_like() {
        // A full disk cannot be had of PostgreSQL without the rights to mount one.
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
    let answer = loop {
        number += 1;
        let body = json!({"name": "x".repeat(200), "email": format!("{number}-{}@example.com", "x".repeat(50))});
        let answer = client.post(format!("http://{}/users", service.address)).json(&body).send().await.unwrap();
        if answer.status() != 201 {
            break answer;
        }
    };
    assert_eq!(answer.status(), 503);
    let told: Value = answer.json().await.unwrap();
    assert_eq!(told["code"], "database-unavailable", "{told}");
    let pool: Value = service.get(&client, "/pool").send().await.unwrap().json().await.unwrap();
    assert_eq!((&pool["state"], &pool["impairment"]["kind"]), (&json!("up"), &json!("disk-full")), "{pool}");
    let ready: Value = service.get(&client, "/health/ready").send().await.unwrap().json().await.unwrap();
    assert_eq!(ready, json!({"status": "ready", "impairment": "the database's disk is full"}));
    assert_eq!(service.get(&client, "/users").send().await.unwrap().status(), 200, "what is there can be read");
    let line = service.logged("the database takes no writes").await;
    assert_eq!((&line["cause"], &line["operation"]), (&json!("the database's disk is full"), &json!("users.create")));
    service.signal("TERM").await;
    assert!(service.ended().await.success());
    drop(database);
    server.stop();
}
