//! The schema: up, down, and many at once.

use sea_orm::ConnectionTrait;

use crate::{
    cases,
    harness::{Context, Engine, binary, connect},
};

cases![
    goes_up_and_down_and_up_again,
    rows_from_before_are_found_by_name,
    processes_that_start_at_once_all_come_up,
    check_refuses_what_is_pending,
    off_does_not_look
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
        assert!(database.execute_unprepared("SELECT 1 FROM seaql_migrations").await.is_err(), "nothing was made");
    }
}
