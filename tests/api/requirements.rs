//! An unsuitable database is refused at start, with the reason, and nothing is changed.

use orm_pool::{DbErrorKind, PoolOptions};
use sea_orm::ConnectionTrait;

use crate::{
    cases,
    harness::{
        Account, Context, End, Engine, Server,
        bare::{db_error_kind, end, pool_on, run, write},
        binary, connect, new_database,
    },
};

cases![
    a_database_without_utf8_is_refused,
    a_server_with_a_small_max_allowed_packet_is_refused,
    a_database_user_without_privileges_is_refused,
];

async fn start_error(context: &Context, url: &str, arguments: &[&str]) -> String {
    let variables = [("DATABASE_URL", url), ("RUST_LOG", "off"), ("USERS_API__SERVER__PORT", "0")];
    let output = binary(context.folder(), &variables).args(arguments).output().await.unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
    error
}

async fn a_database_without_utf8_is_refused(context: Context) {
    if context.engine() != Engine::Postgres {
        // Elsewhere the migration sets the encoding of the tables.
        return;
    }
    let utf8 = context.database().await;
    let name = format!("{}_latin1", url::Url::parse(&utf8).unwrap().path().trim_start_matches('/'));
    let admin = connect(&context.engine().admin_url()).await;
    let create = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'");
    admin.execute_unprepared(&create).await.unwrap();
    let mut url = url::Url::parse(&utf8).unwrap();
    url.set_path(&name);
    for arguments in [&["serve"][..], &["migrate", "up"], &["import", "-"], &["export"]] {
        let error = start_error(&context, url.as_str(), arguments).await;
        assert!(error.contains("encoding is LATIN1") && error.contains("ENCODING 'UTF8'"), "{error}");
    }
    let database = connect(url.as_str()).await;
    assert!(database.execute_unprepared("SELECT 1 FROM users_api_migrations").await.is_err(), "nothing was created");
    database.close().await.unwrap();
    // Without the check, the error is not transient.
    let pool = pool_on(url.as_str(), PoolOptions::default()).await;
    run(&pool, "CREATE TABLE t (s TEXT)").await;
    let kind = db_error_kind(write(&pool, "INSERT INTO t VALUES ('\u{65e5}\u{672c}')".to_owned()).await);
    assert!(kind == DbErrorKind::Encoding && !kind.is_transient(), "{kind:?}");
    end(pool).await;
    admin.execute_unprepared(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
    admin.close().await.unwrap();
}

async fn a_server_with_a_small_max_allowed_packet_is_refused(context: Context) {
    if !context.engine().is_mysql_like() {
        return;
    }
    let mut server = Server::new(context.engine(), &["--max-allowed-packet=4M"]);
    server.start(End::Crash);
    server.await_ready();
    let url = new_database(server.url()).await;
    for arguments in [&["serve"][..], &["migrate", "up"], &["import", "-"], &["export"]] {
        let error = start_error(&context, &url, arguments).await;
        assert!(error.contains("max_allowed_packet is 4194304 bytes"), "{error}");
    }
    let database = connect(&url).await;
    assert!(database.execute_unprepared("SELECT 1 FROM users_api_migrations").await.is_err(), "nothing was created");
    database.close().await.unwrap();
    let pool = pool_on(&url, PoolOptions::default()).await;
    run(&pool, "CREATE TABLE t (s LONGTEXT)").await;
    let kind = db_error_kind(write(&pool, format!("INSERT INTO t VALUES ('{}')", "x".repeat(5 << 20))).await);
    assert!(kind == DbErrorKind::TooLarge && !kind.is_transient(), "{kind:?}");
    end(pool).await;
    server.stop();
}

async fn a_database_user_without_privileges_is_refused(context: Context) {
    let account = Account::new(&context).await;
    let app = context.app_on(&context.last_database(), &[]).await;
    app.create("Ann", "ann@example.com").await;
    app.stop().await.unwrap().unwrap();
    let database = connect(&context.last_database()).await;
    let name = &account.name;
    let path = url::Url::parse(&account.url).unwrap().path().trim_start_matches('/').to_owned();
    let statements = match context.engine() {
        Engine::Postgres => [
            format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}"),
            format!("GRANT INSERT, UPDATE ON users TO {name}"),
        ],
        _ => [
            format!("REVOKE ALL ON {path}.* FROM {name}"),
            format!("GRANT SELECT, INSERT, UPDATE ON {path}.* TO {name}"),
        ],
    };
    for statement in statements {
        database.execute_unprepared(&statement).await.unwrap();
    }
    let error = start_error(&context, &account.url, &["serve"]).await;
    assert!(error.contains("needs SELECT, INSERT, UPDATE and DELETE on users"), "{error}");
    let delete = match context.engine() {
        Engine::Postgres => format!("GRANT DELETE ON users TO {name}"),
        _ => format!("GRANT DELETE ON {path}.users TO {name}"),
    };
    database.execute_unprepared(&delete).await.unwrap();
    let error = start_error(&context, &account.url, &["serve"]).await;
    assert!(error.contains("needs SELECT, INSERT, UPDATE and DELETE on idempotency_keys"), "{error}");
    // An export needs only SELECT.
    let variables =
        [("DATABASE_URL", account.url.as_str()), ("RUST_LOG", "off"), ("USERS_API__DATABASE__MIGRATE", "check")];
    let output = binary(context.folder(), &variables).arg("export").output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8(output.stdout).unwrap().contains("ann@example.com"));
    database.close().await.unwrap();
    account.end(&context).await;
}
