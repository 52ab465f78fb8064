//! Server defaults do not change the meaning of our statements and commits.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use orm_pool::{Error, PoolOptions};
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};
use serde_json::json;
use tokio::time::timeout;

use crate::{
    cases,
    harness::{
        Context, End, Engine, Server,
        bare::{end, pool_on, read, run, write},
        bulk::{NDJSON, bulk, count, rows},
        connect, number, sqlite_url,
    },
};

cases![
    writes_survive_hostile_defaults,
    two_instances_see_each_others_writes,
    values_are_never_truncated_or_coerced,
    every_connection_has_the_session_settings,
    a_database_in_utf16_is_refused,
    a_read_only_default_rejects_writes_and_serves_reads,
];

/// Defaults that change what a client's statements mean unless the client sets its session.
fn hostile_defaults(engine: Engine) -> Vec<&'static str> {
    const MYSQL_AND_MARIADB: [&str; 14] = [
        "autocommit = 0",
        "completion_type = 'CHAIN'",
        "completion_type = 'RELEASE'",
        "sql_mode = ''",
        "sql_select_limit = 1",
        "sql_safe_updates = 1",
        "max_join_size = 1",
        "max_sort_length = 64",
        "unique_checks = 0",
        "foreign_key_checks = 0",
        "sql_auto_is_null = 1",
        "time_zone = '+05:30'",
        "default_storage_engine = 'MyISAM'",
        "init_connect = 'SET autocommit = 0, sql_mode = \"\"'",
    ];
    match engine {
        Engine::Sqlite => Vec::new(),
        Engine::Postgres => vec![
            "default_transaction_isolation = 'serializable'",
            "default_transaction_deferrable = on",
            "synchronous_commit = off",
            "transform_null_equals = on",
            "standard_conforming_strings = off",
            "exit_on_error = on",
            "client_encoding = 'LATIN1'",
            "DateStyle = 'German'",
            "TimeZone = 'Asia/Kolkata'",
            "bytea_output = 'escape'",
            "extra_float_digits = -15",
            "IntervalStyle = 'sql_standard'",
            "array_nulls = off",
            "statement_timeout = '50ms'",
        ],
        Engine::MariaDb => [
            "tx_isolation = 'READ-UNCOMMITTED'",
            "tx_isolation = 'SERIALIZABLE'",
            "sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH'",
            "sql_mode = 'ORACLE,EMPTY_STRING_IS_NULL,SIMULTANEOUS_ASSIGNMENT'",
        ]
        .into_iter()
        .chain(MYSQL_AND_MARIADB)
        .collect(),
        Engine::MySql => [
            "transaction_isolation = 'READ-UNCOMMITTED'",
            "transaction_isolation = 'SERIALIZABLE'",
            "sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'",
        ]
        .into_iter()
        .chain(MYSQL_AND_MARIADB)
        .collect(),
    }
}

/// A setting that blocks everything fails alone, without the others.
const OPERATIONS_TIMEOUT: Duration = Duration::from_secs(30);

/// A private server, an administrator's connection to it, and databases for an unprivileged account.
struct PrivateServer {
    server: Server,
    admin: DatabaseConnection,
    engine: Engine,
}

impl PrivateServer {
    async fn start(context: &Context, options: &[&str]) -> Self {
        let engine = context.engine();
        let mut server = Server::new(engine, options);
        server.start(End::Crash);
        server.await_ready();
        let admin = connect(server.url()).await;
        // `init_connect` does not apply to administrators.
        let account: &[&str] = match engine {
            Engine::Postgres => &["CREATE ROLE app LOGIN PASSWORD 'one'"],
            _ => &["CREATE USER app IDENTIFIED BY 'one'", "GRANT ALL ON *.* TO app", "REVOKE SUPER ON *.* FROM app"],
        };
        for statement in account {
            admin.execute_unprepared(statement).await.unwrap();
        }
        Self { server, admin, engine }
    }

    /// Creates a database and returns the account's URL of it.
    async fn database(&self, name: &str) -> String {
        let owner = if self.engine == Engine::Postgres { " OWNER app" } else { "" };
        self.admin.execute_unprepared(&format!("CREATE DATABASE {name}{owner}")).await.unwrap();
        let mut url = url::Url::parse(self.server.url()).unwrap();
        url.set_path(name);
        url.set_username("app").unwrap();
        url.set_password(Some("one")).unwrap();
        url.into()
    }

    /// Sets a default for new sessions of a database; on MariaDB and MySQL, of the server.
    async fn set(&self, database: &str, setting: &str) {
        if self.engine == Engine::Postgres {
            let alter = format!("ALTER DATABASE {database} SET {setting}");
            self.admin.execute_unprepared(&alter).await.unwrap();
        } else {
            let name = setting.split(' ').next().unwrap();
            self.admin.execute_unprepared(&format!("SET @saved = @@GLOBAL.{name}")).await.unwrap();
            self.admin.execute_unprepared(&format!("SET GLOBAL {setting}")).await.unwrap();
        }
    }

    /// Reverts what [`set`](Self::set) changed on the server.
    async fn reset(&self, setting: &str) {
        if self.engine != Engine::Postgres {
            let name = setting.split(' ').next().unwrap();
            self.admin.execute_unprepared(&format!("SET GLOBAL {name} = @saved")).await.unwrap();
        }
    }

    /// The names of the users that another session sees as committed.
    async fn names(&self, database: &str) -> Vec<String> {
        let mut url = url::Url::parse(self.server.url()).unwrap();
        url.set_path(database);
        let other = connect(url.as_str()).await;
        let sql = Statement::from_string(other.get_database_backend(), "SELECT name FROM users ORDER BY name");
        let rows = other.query_all_raw(sql).await.unwrap();
        other.close().await.unwrap();
        rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
    }

    async fn end(mut self) {
        self.admin.close().await.unwrap();
        self.server.stop();
    }
}

async fn writes_survive_hostile_defaults(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let private = PrivateServer::start(&context, &[]).await;
    let mut failed = Vec::new();
    for (number, setting) in hostile_defaults(context.engine()).iter().enumerate() {
        let database = format!("app{number}");
        let url = private.database(&database).await;
        private.set(&database, setting).await;
        let operations = timeout(OPERATIONS_TIMEOUT, exercise_every_operation(&context, &url));
        let outcome = AssertUnwindSafe(operations).catch_unwind().await;
        private.reset(setting).await;
        if !matches!(outcome, Ok(Ok(()))) || private.names(&database).await != ["Anna", "User 0", "User 1", "User 2"] {
            failed.push(*setting);
        }
    }
    private.end().await;
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Runs each kind of operation, restarts the application, and checks the result.
pub async fn exercise_every_operation(context: &Context, url: &str) {
    let app = context.app_on(url, &[("pool.min", "1")]).await;
    let ann = app.create("Ann", "ann@example.com").await;
    let bob = app.create("Bob", "bob@example.com").await;
    app.post("/users", &json!({"name": "Ann", "email": "ann@example.com"})).await.problem(409, "email-taken");
    let path = |user: &serde_json::Value| format!("/users/{}", user["id"].as_str().unwrap());
    let anna = app.patch(&path(&ann), &json!({"name": "Anna"})).await;
    assert_eq!(anna.status, 200, "{}", anna.text);
    let key = Some("6ba7b810-9dad-11d1-80b4-00c04fd430c8");
    let written = bulk(&app, "", NDJSON, key, rows(0..3)).await;
    assert_eq!(written.text.matches("created").count(), 3, "{}", written.text);
    let again = bulk(&app, "", NDJSON, key, rows(0..3)).await;
    assert_eq!(again.text.matches("created").count(), 3, "{}", again.text);
    // Last, and a single statement: if it leaves a transaction open, nothing else commits it.
    assert_eq!(app.delete(&path(&bob)).await.status, 204);
    app.stop().await.unwrap().unwrap();
    let app = context.app_on(url, &[]).await;
    assert_eq!(count(&app).await, 4);
    for path in ["/users", "/users?sort=-name", "/users?name=anna"] {
        let names: Vec<serde_json::Value> = app.get(path).await.json().as_array().unwrap().clone();
        assert!(names.iter().any(|user| user["name"] == "Anna"), "{path}: {names:?}");
    }
    assert_eq!(app.get("/users").await.ids().len(), 4);
    assert_eq!(app.get(&path(&ann)).await.json(), anna.json());
    app.stop().await.unwrap().unwrap();
}

async fn two_instances_see_each_others_writes(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let private = PrivateServer::start(&context, &[]).await;
    let setting = match context.engine() {
        Engine::Postgres => "default_transaction_isolation = 'serializable'",
        _ => "autocommit = 0",
    };
    let url = private.database("app").await;
    private.set("app", setting).await;
    let settings = [("pool.max", "1"), ("pool.min", "1")];
    let (one, two) = (context.app_on(&url, &settings).await, context.app_on(&url, &settings).await);
    for number in 1..4 {
        assert_eq!(two.get("/users").await.ids().len(), number - 1);
        one.create("Ann", &format!("ann{number}@example.com")).await;
        assert_eq!(two.get("/users").await.ids().len(), number, "acknowledged writes are visible to every instance");
    }
    for app in [one, two] {
        app.stop().await.unwrap().unwrap();
    }
    private.end().await;
}

async fn values_are_never_truncated_or_coerced(context: Context) {
    if !context.engine().is_mysql_like() {
        return;
    }
    let private = PrivateServer::start(&context, &["--sql-mode="]).await;
    let pool = pool_on(&private.database("app").await, PoolOptions::default()).await;
    run(&pool, "CREATE TABLE t (s VARCHAR(3) NOT NULL, n TINYINT NOT NULL, d DATETIME(6) NOT NULL) ENGINE = InnoDB")
        .await;
    for wrong in ["'abcdef', 1, '2026-01-01'", "'abc', 1000, '2026-01-01'", "'abc', 1, '0000-00-00'", "'abc', 1, 'x'"] {
        assert!(write(&pool, format!("INSERT INTO t VALUES ({wrong})")).await.is_err(), "{wrong}");
    }
    assert!(write(&pool, "CREATE TABLE x (n INT) ENGINE = nonesuch".to_owned()).await.is_err());
    assert_eq!(read(&pool, "SELECT COUNT(*) FROM t").await, 0);
    end(pool).await;
    private.end().await;
}

/// Queries that must return 1 in every session.
fn expected(engine: Engine) -> Vec<&'static str> {
    let specific: &[&str] = match engine {
        Engine::Sqlite => &[
            "SELECT journal_mode = 'wal' FROM pragma_journal_mode",
            "SELECT synchronous = 2 FROM pragma_synchronous",
            "SELECT foreign_keys FROM pragma_foreign_keys",
            "SELECT encoding = 'UTF-8' FROM pragma_encoding",
        ],
        Engine::Postgres => &[
            "SELECT (current_setting('synchronous_commit') = 'on')::int",
            "SELECT (current_setting('default_transaction_isolation') = 'read committed')::int",
            "SELECT (current_setting('transform_null_equals') = 'off')::int",
            "SELECT (current_setting('standard_conforming_strings') = 'on')::int",
            "SELECT (current_setting('exit_on_error') = 'off')::int",
            "SELECT (current_setting('statement_timeout') = '7s')::int",
            "SELECT (current_setting('client_encoding') = 'UTF8')::int",
            "SELECT (current_setting('TimeZone') = 'UTC')::int",
        ],
        Engine::MariaDb => &["SELECT @@tx_isolation = 'REPEATABLE-READ'", "SELECT @@max_statement_time = 7"],
        Engine::MySql => &["SELECT @@transaction_isolation = 'REPEATABLE-READ'", "SELECT @@max_execution_time = 7000"],
    };
    let shared: &[&str] = if engine.is_mysql_like() { &MYSQL_LIKE } else { &[] };
    specific.iter().chain(shared).copied().collect()
}

/// Those of both MariaDB and MySQL.
const MYSQL_LIKE: [&str; 16] = [
    "SELECT @@autocommit",
    "SELECT @@completion_type = 'NO_CHAIN'",
    "SELECT @@sql_mode LIKE '%STRICT_ALL_TABLES%'",
    "SELECT @@sql_mode NOT LIKE '%ANSI_QUOTES%'",
    "SELECT @@sql_select_limit > 1000000000",
    "SELECT NOT @@sql_safe_updates",
    "SELECT @@sql_big_selects",
    "SELECT @@unique_checks",
    "SELECT @@foreign_key_checks",
    "SELECT NOT @@sql_auto_is_null",
    "SELECT @@max_sort_length >= 2048",
    "SELECT @@time_zone = '+00:00'",
    "SELECT @@character_set_client = 'utf8mb4'",
    "SELECT @@innodb_lock_wait_timeout = 8",
    "SELECT @@lock_wait_timeout = 8",
    "SELECT @@default_storage_engine = 'InnoDB'",
];

async fn every_connection_has_the_session_settings(context: Context) {
    let private = match context.engine() {
        Engine::Sqlite => None,
        _ => Some(PrivateServer::start(&context, &[]).await),
    };
    let url = match &private {
        Some(private) => private.database("app").await,
        None => context.database().await,
    };
    for setting in hostile_defaults(context.engine()) {
        if let Some(private) = &private {
            private.set("app", setting).await;
        }
    }
    let options = PoolOptions::default().max(3).min(3).statement_timeout(Duration::from_secs(7));
    let pool = pool_on(&url, options).await;
    for condition in expected(context.engine()) {
        assert_eq!(read(&pool, condition).await, 1, "{condition}");
    }
    // The connection for migrations has the same settings, but no time limit except for lock waits.
    let is_mysql_like = context.engine().is_mysql_like();
    let direct = pool
        .with_database_connection("test.direct", move |db| async move {
            let mut failed = Vec::new();
            for condition in expected(context.engine()).into_iter().filter(|condition| !condition.contains("time")) {
                if number(&db, condition).await? != 1 {
                    failed.push(condition);
                }
            }
            if is_mysql_like && number(&db, "SELECT @@lock_wait_timeout").await? != 15 {
                failed.push("lock_wait_timeout");
            }
            Ok::<_, Error>(failed)
        })
        .await
        .unwrap();
    assert!(direct.is_empty(), "{direct:?}");
    end(pool).await;
    if let Some(private) = private {
        private.end().await;
    }
}

async fn a_database_in_utf16_is_refused(context: Context) {
    if context.engine() != Engine::Sqlite {
        return;
    }
    let path = context.folder().join("utf16.db");
    let database = connect(&sqlite_url(&path)).await;
    database.execute_unprepared("PRAGMA encoding = 'UTF-16le'; CREATE TABLE other (t TEXT)").await.unwrap();
    database.close().await.unwrap();
    let output =
        crate::harness::binary(context.folder(), &[("DATABASE_URL", &sqlite_url(&path))]).output().await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("UTF-16le") && stderr.contains("UTF-8"), "{stderr}");
}

async fn a_read_only_default_rejects_writes_and_serves_reads(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let private = PrivateServer::start(&context, &[]).await;
    let url = private.database("app").await;
    let app = context.app_on(&url, &[]).await;
    app.stop().await.unwrap().unwrap();
    let setting = match context.engine() {
        Engine::MySql => "transaction_read_only = 1",
        Engine::MariaDb => "tx_read_only = 1",
        _ => "default_transaction_read_only = on",
    };
    private.set("app", setting).await;
    let app = context.app_on(&url, &[("database.migrate", "off")]).await;
    app.post("/users", &json!({"name": "Ann", "email": "ann@example.com"})).await.problem(503, "database-unavailable");
    assert_eq!(app.pool().await["impairment"]["kind"], "read-only");
    assert_eq!(app.get("/users").await.status, 200);
    app.stop().await.unwrap().unwrap();
    private.end().await;
}
