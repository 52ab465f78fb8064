//! Schema migrations: up, down, concurrent starts, and tables of other programs.

use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};

use crate::{
    cases,
    harness::{Context, Engine, binary, connect},
};

cases![
    migrations_apply_revert_and_apply_again,
    existing_rows_get_their_search_keys,
    concurrent_starts_migrate_once,
    check_mode_refuses_pending_migrations,
    off_mode_neither_checks_nor_migrates,
    foreign_tables_are_left_untouched,
    a_foreign_migration_history_is_left_untouched,
    a_history_in_the_shared_table_is_adopted,
    a_missing_table_is_reported
];

async fn migrate(context: &Context, url: &str, arguments: &[&str]) -> String {
    let mut command = binary(context.folder(), &[("DATABASE_URL", url), ("RUST_LOG", "off")]);
    let output = command.arg("migrate").args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn migrations_apply_revert_and_apply_again(context: Context) {
    let url = context.database().await;
    let names = [
        "m20261121_000001_create_users",
        "m20261121_000002_create_idempotency_keys",
        "m20261121_000003_index_names_and_emails",
        "m20261121_000004_widen_answers",
        "m20261129_000005_create_users_api_keys",
        "m20261129_000006_create_users_journal",
        "m20261129_000007_create_users_feed",
        "m20261129_000008_create_users_feed_pending",
        "m20261129_000009_create_users_feed_positions",
        "m20261129_000010_create_users_messages",
        "m20261129_000011_create_users_tickets",
        "m20261129_000012_create_users_presence",
        "m20261129_000013_create_users_processes",
        "m20261130_000014_create_users_exports",
    ];
    let all = |status: &str| {
        let rows = names.map(|name| format!("{status}  {name}\n")).concat();
        format!("STATE    MIGRATION\n{rows}")
    };
    assert_eq!(migrate(&context, &url, &["status"]).await, all("pending"));
    let lines = migrate(&context, &url, &["status", "--json"]).await;
    assert_eq!(lines.lines().next().unwrap(), format!("{{\"applied\":false,\"name\":\"{}\"}}", names[0]));
    assert_eq!(lines.lines().count(), names.len());
    for _ in 0..2 {
        assert_eq!(migrate(&context, &url, &["up"]).await, "14 applied\n");
        assert_eq!(migrate(&context, &url, &["up"]).await, "0 applied\n");
        assert_eq!(migrate(&context, &url, &["status"]).await, all("applied"));
        let database = connect(&url).await;
        database.execute_unprepared("SELECT name_key FROM users").await.unwrap();
        assert_eq!(migrate(&context, &url, &["down", "--steps", "12"]).await, "12 reverted\n");
        assert!(database.execute_unprepared("SELECT name_key FROM users").await.is_err(), "the column is dropped");
        assert_eq!(migrate(&context, &url, &["down"]).await, "1 reverted\n");
        assert!(database.execute_unprepared("SELECT 1 FROM idempotency_keys").await.is_err(), "the table is dropped");
        database.execute_unprepared("SELECT 1 FROM users").await.unwrap();
        assert_eq!(migrate(&context, &url, &["down"]).await, "1 reverted\n");
        assert!(database.execute_unprepared("SELECT 1 FROM users").await.is_err(), "the table is dropped");
    }
    assert_eq!(migrate(&context, &url, &["down", "--steps", "3"]).await, "0 reverted\n");
}

async fn existing_rows_get_their_search_keys(context: Context) {
    let app = context.app().await;
    for (number, name) in ["Ada Lovelace", "ÉLODIE Dupont", "Ann"].into_iter().enumerate() {
        app.create(name, &format!("user{number}@example.com")).await;
    }
    app.stop().await.unwrap().unwrap();
    assert_eq!(migrate(&context, &app.url, &["down", "--steps", "12"]).await, "12 reverted\n");
    let app = context.app_on(&app.url, &[]).await;
    for query in ["name=ada%20l", "q=lovel", "q=dup", "name=%C3%A9lo", "q=ann", "name=ann"] {
        assert_eq!(app.get(&format!("/users?{query}")).await.ids().len(), 1, "{query}");
    }
}

async fn concurrent_starts_migrate_once(context: Context) {
    for _ in 0..3 {
        let url = context.database().await;
        let starting = (0..6).map(|_| {
            let (context, url) = (context.clone(), url.clone());
            tokio::spawn(async move { migrate(&context, &url, &["up"]).await })
        });
        let mut outputs = Vec::new();
        for output in futures_util::future::join_all(starting).await {
            outputs.push(output.unwrap());
        }
        outputs.sort();
        assert_eq!(
            outputs,
            ["0 applied\n", "0 applied\n", "0 applied\n", "0 applied\n", "0 applied\n", "14 applied\n"]
        );
    }
    let url = context.database().await;
    let apps = futures_util::future::join_all((0..4).map(|_| context.app_on(&url, &[]))).await;
    for (number, app) in apps.iter().enumerate() {
        app.create("Ann", &format!("ann{number}@example.com")).await;
    }
}

async fn check_mode_refuses_pending_migrations(context: Context) {
    let url = context.database().await;
    let settings = || context.settings(&url, &[("database.migrate", "check")]);
    let error = users_api::app::Application::build(settings()).await.err().unwrap().to_string();
    assert_eq!(error, "14 migrations are pending; run `users-api migrate up`, or set database.migrate to auto");
    migrate(&context, &url, &["up"]).await;
    let app = context.app_on(&url, &[("database.migrate", "check")]).await;
    app.create("Ann", "ann@example.com").await;
}

async fn off_mode_neither_checks_nor_migrates(context: Context) {
    let url = context.database().await;
    let app = context.app_on(&url, &[("database.migrate", "off")]).await;
    // No table: an operator's error, whose details the client must not see.
    let problem = app.get("/users").await.problem(500, "internal");
    assert!(!problem.to_string().contains("seaql") && !problem.to_string().contains("SELECT"), "{problem}");
    if context.engine() != Engine::Sqlite {
        let database = connect(&url).await;
        let found = database.execute_unprepared("SELECT 1 FROM users_api_migrations").await;
        assert!(found.is_err(), "no table was created");
    }
}

/// The columns of every table, and the names stored in these tables.
async fn contents(context: &Context, database: &DatabaseConnection, tables: &[&str]) -> Vec<String> {
    let columns = match context.engine() {
        Engine::Sqlite => "SELECT m.name || '.' || c.name FROM sqlite_master m, pragma_table_info(m.name) c ORDER BY 1",
        Engine::Postgres => {
            "SELECT table_name || '.' || column_name FROM information_schema.columns \
             WHERE table_schema = current_schema() ORDER BY 1"
        }
        Engine::MariaDb | Engine::MySql => {
            "SELECT CONCAT(table_name, '.', column_name) FROM information_schema.columns \
             WHERE table_schema = DATABASE() ORDER BY 1"
        }
    };
    let mut queries = vec![columns.to_owned()];
    queries.extend(tables.iter().map(|table| format!("SELECT name FROM {table} ORDER BY 1")));
    let mut contents = Vec::new();
    for query in queries {
        let query = Statement::from_string(database.get_database_backend(), query);
        for row in database.query_all_raw(query).await.unwrap() {
            contents.push(row.try_get_by_index::<String>(0).unwrap());
        }
    }
    contents
}

/// Asserts that every command fails with an error that contains `part`.
async fn assert_every_command_is_refused(context: &Context, url: &str, part: &str) {
    let file = context.folder().join("users.ndjson");
    std::fs::write(&file, "{\"name\":\"Ann\",\"email\":\"ann@example.com\"}\n").unwrap();
    let file = file.to_str().unwrap();
    let commands: [&[&str]; 7] = [
        &["migrate", "up"],
        &["migrate", "down", "--steps", "2"],
        &["migrate", "down", "--steps", "14"],
        &["migrate", "status"],
        &["serve"],
        &["import", file],
        &["export"],
    ];
    for migrate in ["auto", "check"] {
        for command in commands {
            let variables = [("DATABASE_URL", url), ("RUST_LOG", "off"), ("USERS_API__DATABASE__MIGRATE", migrate)];
            let output = binary(context.folder(), &variables).args(command).output().await.unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{command:?}: {error}");
            assert!(error.contains(part) && error.contains("nothing was changed"), "{command:?}: {error}");
        }
    }
}

async fn foreign_tables_are_left_untouched(context: Context) {
    let sequelize =
        "name varchar(255), email varchar(255), createdAt varchar(40) not null, updatedAt varchar(40) not null";
    let other = ["create table others (name varchar(20))", "insert into others values ('kept')"].map(str::to_owned);
    let foreign: [(&str, Vec<String>); 4] = [
        (
            "users",
            vec![
                format!("create table users (id integer primary key, {sequelize})"),
                "insert into users values (1, 'Ann', 'ann@example.com', '2026', '2026')".to_owned(),
            ],
        ),
        // The same table as the first releases left it, with their history in the shared table.
        (
            "users",
            vec![
                format!(
                    "create table users (id integer primary key, {sequelize}, name_key varchar(400), last_word_key varchar(400))"
                ),
                "insert into users values (1, 'Ann', 'ann@example.com', '2026', '2026', '', '')".to_owned(),
                "create table seaql_migrations (version varchar(255) primary key, applied_at bigint not null)"
                    .to_owned(),
                "insert into seaql_migrations values ('m20261121_000001_create_users', 1), \
                 ('m20261121_000002_create_idempotency_keys', 1)"
                    .to_owned(),
            ],
        ),
        ("users", vec!["create view users as select name from others".to_owned()]),
        ("idempotency_keys", vec!["create table idempotency_keys (name varchar(20) primary key)".to_owned()]),
    ];
    for (table, statements) in foreign {
        let url = context.database().await;
        let database = connect(&url).await;
        for statement in other.iter().chain(&statements) {
            database.execute_unprepared(statement).await.unwrap();
        }
        let before = contents(&context, &database, &[table, "others"]).await;
        let part = format!("the table {table} exists, but users-api did not create it");
        assert_every_command_is_refused(&context, &url, &part).await;
        assert_eq!(contents(&context, &database, &[table, "others"]).await, before);
    }
}

async fn a_foreign_migration_history_is_left_untouched(context: Context) {
    let url = context.database().await;
    let database = connect(&url).await;
    for statement in [
        "create table seaql_migrations (version varchar(255) primary key, applied_at bigint not null)",
        "insert into seaql_migrations values ('m20250101_000001_create_orders', 1)",
    ] {
        database.execute_unprepared(statement).await.unwrap();
    }
    let foreign_versions = async || {
        let query = "SELECT version FROM seaql_migrations ORDER BY 1";
        let rows =
            database.query_all_raw(Statement::from_string(database.get_database_backend(), query)).await.unwrap();
        rows.iter().map(|row| row.try_get_by_index::<String>(0).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(migrate(&context, &url, &["up"]).await, "14 applied\n");
    assert_eq!(foreign_versions().await, ["m20250101_000001_create_orders"]);
    assert_eq!(migrate(&context, &url, &["down", "--steps", "14"]).await, "14 reverted\n");
    assert_eq!(foreign_versions().await, ["m20250101_000001_create_orders"]);
}

async fn a_history_in_the_shared_table_is_adopted(context: Context) {
    let app = context.app().await;
    app.create("Ann", "ann@example.com").await;
    app.stop().await.unwrap().unwrap();
    let database = connect(&app.url).await;
    // As the first releases left it.
    for statement in [
        "create table seaql_migrations (version varchar(255) primary key, applied_at bigint not null)",
        "insert into seaql_migrations select version, applied_at from users_api_migrations",
        "drop table users_api_migrations",
    ] {
        database.execute_unprepared(statement).await.unwrap();
    }
    assert!(migrate(&context, &app.url, &["status"]).await.lines().skip(1).all(|line| line.starts_with("applied")));
    let check = context.app_on(&app.url, &[("database.migrate", "check")]).await;
    check.stop().await.unwrap().unwrap();
    assert_eq!(migrate(&context, &app.url, &["up"]).await, "0 applied\n");
    let app = context.app_on(&app.url, &[]).await;
    assert_eq!(app.get("/users").await.ids().len(), 1);
    app.stop().await.unwrap().unwrap();
    assert_eq!(migrate(&context, &app.url, &["down"]).await, "1 reverted\n");
    let query = "SELECT version FROM seaql_migrations";
    let rows = database.query_all_raw(Statement::from_string(database.get_database_backend(), query)).await.unwrap();
    assert_eq!(rows.len(), 13, "the revert is visible to the previous release");
    assert_eq!(migrate(&context, &app.url, &["up"]).await, "1 applied\n");
}

async fn a_missing_table_is_reported(context: Context) {
    let url = context.database().await;
    migrate(&context, &url, &["up"]).await;
    let database = connect(&url).await;
    database.execute_unprepared("DROP TABLE idempotency_keys").await.unwrap();
    assert_every_command_is_refused(&context, &url, "the table idempotency_keys is missing").await;
    database.execute_unprepared("DROP TABLE users_api_migrations").await.unwrap();
    database.execute_unprepared("DROP TABLE users").await.unwrap();
    assert_eq!(migrate(&context, &url, &["up"]).await, "14 applied\n");
}
