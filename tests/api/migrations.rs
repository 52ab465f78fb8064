//! The schema: up, down, and many at once.

use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};

use crate::{
    cases,
    harness::{Context, Engine, binary, connect},
};

cases![
    goes_up_and_down_and_up_again,
    rows_from_before_are_found_by_name,
    processes_that_start_at_once_all_come_up,
    check_refuses_what_is_pending,
    off_does_not_look,
    tables_of_others_are_left_alone,
    histories_of_others_are_left_alone,
    a_history_in_the_shared_table_is_adopted,
    a_missing_table_is_reported
];

async fn migrate(context: &Context, url: &str, arguments: &[&str]) -> String {
    let mut command = binary(context.folder(), &[("DATABASE_URL", url), ("RUST_LOG", "off")]);
    let output = command.arg("migrate").args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn goes_up_and_down_and_up_again(context: Context) {
    let url = context.database().await;
    let names = [
        "m20261121_000001_create_users",
        "m20261121_000002_create_idempotency_keys",
        "m20261121_000003_index_names_and_emails",
        "m20261121_000004_widen_answers",
    ];
    let all = |status: &str| names.map(|name| format!("{status:9}{name}\n")).concat();
    assert_eq!(migrate(&context, &url, &["status"]).await, all("pending"));
    for _ in 0..2 {
        assert_eq!(migrate(&context, &url, &["up"]).await, "4 applied\n");
        assert_eq!(migrate(&context, &url, &["up"]).await, "0 applied\n");
        assert_eq!(migrate(&context, &url, &["status"]).await, all("applied"));
        let database = connect(&url).await;
        database.execute_unprepared("SELECT name_key FROM users").await.unwrap();
        assert_eq!(migrate(&context, &url, &["down", "--steps", "2"]).await, "2 taken back\n");
        assert!(database.execute_unprepared("SELECT name_key FROM users").await.is_err(), "the column is gone");
        assert_eq!(migrate(&context, &url, &["down"]).await, "1 taken back\n");
        assert!(database.execute_unprepared("SELECT 1 FROM idempotency_keys").await.is_err(), "the table is gone");
        database.execute_unprepared("SELECT 1 FROM users").await.unwrap();
        assert_eq!(migrate(&context, &url, &["down"]).await, "1 taken back\n");
        assert!(database.execute_unprepared("SELECT 1 FROM users").await.is_err(), "the table is gone");
    }
    assert_eq!(migrate(&context, &url, &["down", "--steps", "3"]).await, "0 taken back\n");
}

async fn rows_from_before_are_found_by_name(context: Context) {
    let app = context.app().await;
    for (number, name) in ["Ada Lovelace", "ÉLODIE Dupont", "Ann"].into_iter().enumerate() {
        app.create(name, &format!("user{number}@example.com")).await;
    }
    app.stop().await.unwrap().unwrap();
    assert_eq!(migrate(&context, &app.url, &["down", "--steps", "2"]).await, "2 taken back\n");
    let app = context.app_on(&app.url, &[]).await;
    for query in ["name=ada%20l", "q=lovel", "q=dup", "name=%C3%A9lo", "q=ann", "name=ann"] {
        assert_eq!(app.get(&format!("/users?{query}")).await.ids().len(), 1, "{query}");
    }
}

async fn processes_that_start_at_once_all_come_up(context: Context) {
    for _ in 0..3 {
        let url = context.database().await;
        let starting = (0..6).map(|_| {
            let (context, url) = (context.clone(), url.clone());
            tokio::spawn(async move { migrate(&context, &url, &["up"]).await })
        });
        let mut said = Vec::new();
        for output in futures_util::future::join_all(starting).await {
            said.push(output.unwrap());
        }
        said.sort();
        assert_eq!(said, ["0 applied\n", "0 applied\n", "0 applied\n", "0 applied\n", "0 applied\n", "4 applied\n"]);
    }
    let url = context.database().await;
    let apps = futures_util::future::join_all((0..4).map(|_| context.app_on(&url, &[]))).await;
    for (number, app) in apps.iter().enumerate() {
        app.create("Ann", &format!("ann{number}@example.com")).await;
    }
}

async fn check_refuses_what_is_pending(context: Context) {
    let url = context.database().await;
    let settings = || context.settings(&url, &[("database.migrate", "check")]);
    let refused = users_api::app::Application::build(settings()).await.err().unwrap().to_string();
    assert_eq!(refused, "4 migrations are pending; run `users-api migrate up`, or set database.migrate to auto");
    migrate(&context, &url, &["up"]).await;
    let app = context.app_on(&url, &[("database.migrate", "check")]).await;
    app.create("Ann", "ann@example.com").await;
}

async fn off_does_not_look(context: Context) {
    let url = context.database().await;
    let app = context.app_on(&url, &[("database.migrate", "off")]).await;
    // No table: a fault of whoever runs it, and none of the client's business.
    let problem = app.get("/users").await.problem(500, "internal");
    assert!(!problem.to_string().contains("seaql") && !problem.to_string().contains("SELECT"), "{problem}");
    if context.engine() != Engine::Sqlite {
        let database = connect(&url).await;
        assert!(database.execute_unprepared("SELECT 1 FROM users_api_migrations").await.is_err(), "nothing was made");
    }
}

/// Every table with its columns, and the rows of these tables.
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

/// Every way to the database is refused with a text that names this table.
async fn every_command_is_refused(context: &Context, url: &str, part: &str) {
    let file = context.folder().join("users.ndjson");
    std::fs::write(&file, "{\"name\":\"Ann\",\"email\":\"ann@example.com\"}\n").unwrap();
    let file = file.to_str().unwrap();
    let commands: [&[&str]; 7] = [
        &["migrate", "up"],
        &["migrate", "down", "--steps", "2"],
        &["migrate", "down", "--steps", "9"],
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

async fn tables_of_others_are_left_alone(context: Context) {
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
        // What the first releases left of it, with their history in the shared table.
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
        every_command_is_refused(&context, &url, &format!("the table {table} exists, but users-api did not create it"))
            .await;
        assert_eq!(contents(&context, &database, &[table, "others"]).await, before);
    }
}

async fn histories_of_others_are_left_alone(context: Context) {
    let url = context.database().await;
    let database = connect(&url).await;
    for statement in [
        "create table seaql_migrations (version varchar(255) primary key, applied_at bigint not null)",
        "insert into seaql_migrations values ('m20250101_000001_create_orders', 1)",
    ] {
        database.execute_unprepared(statement).await.unwrap();
    }
    let theirs = async || {
        let query = "SELECT version FROM seaql_migrations ORDER BY 1";
        let rows =
            database.query_all_raw(Statement::from_string(database.get_database_backend(), query)).await.unwrap();
        rows.iter().map(|row| row.try_get_by_index::<String>(0).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(migrate(&context, &url, &["up"]).await, "4 applied\n");
    assert_eq!(theirs().await, ["m20250101_000001_create_orders"]);
    assert_eq!(migrate(&context, &url, &["down", "--steps", "4"]).await, "4 taken back\n");
    assert_eq!(theirs().await, ["m20250101_000001_create_orders"]);
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
    assert!(migrate(&context, &app.url, &["status"]).await.lines().all(|line| line.starts_with("applied")));
    let check = context.app_on(&app.url, &[("database.migrate", "check")]).await;
    check.stop().await.unwrap().unwrap();
    assert_eq!(migrate(&context, &app.url, &["up"]).await, "0 applied\n");
    let app = context.app_on(&app.url, &[]).await;
    assert_eq!(app.get("/users").await.ids().len(), 1);
    app.stop().await.unwrap().unwrap();
    assert_eq!(migrate(&context, &app.url, &["down"]).await, "1 taken back\n");
    let query = "SELECT version FROM seaql_migrations";
    let rows = database.query_all_raw(Statement::from_string(database.get_database_backend(), query)).await.unwrap();
    assert_eq!(rows.len(), 3, "the previous release sees what was reverted");
    assert_eq!(migrate(&context, &app.url, &["up"]).await, "1 applied\n");
}

async fn a_missing_table_is_reported(context: Context) {
    let url = context.database().await;
    migrate(&context, &url, &["up"]).await;
    let database = connect(&url).await;
    database.execute_unprepared("DROP TABLE idempotency_keys").await.unwrap();
    every_command_is_refused(&context, &url, "the table idempotency_keys is missing").await;
    database.execute_unprepared("DROP TABLE users_api_migrations").await.unwrap();
    database.execute_unprepared("DROP TABLE users").await.unwrap();
    assert_eq!(migrate(&context, &url, &["up"]).await, "4 applied\n");
}
