//! Every command ends on a signal, regardless of what it waits for, also as the first process of a container.
//!
//! That process (PID 1) ignores a signal unless it has a handler for it. So does a process that was started with the
//! signal ignored, as the commands are here.

use std::{process::Stdio, time::Duration};

use sea_orm::{ConnectionTrait, DatabaseConnection};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::TcpListener,
    process::{Child, Command},
};

use crate::{
    cases,
    harness::{Context, Engine, Locked, binary, connect, eventually, number},
};

cases![
    a_signal_ends_the_wait_for_the_migration_lock,
    a_signal_stops_a_running_migration_at_a_safe_point,
    a_signal_ends_an_import_blocked_by_a_lock,
];

/// Cases that do not depend on the engine.
pub mod alone {
    use super::{
        Context, a_signal_ends_the_wait_for_a_pipe, a_signal_ends_the_wait_for_a_silent_database,
        a_signal_ends_the_wait_for_a_silent_service, a_signal_ends_the_wait_for_a_stalled_reader,
    };
    use crate::cases;

    cases![
        a_signal_ends_the_wait_for_a_silent_database,
        a_signal_ends_the_wait_for_a_silent_service,
        a_signal_ends_the_wait_for_a_stalled_reader,
        a_signal_ends_the_wait_for_a_pipe
    ];
}

/// Starts the command with SIGTERM ignored.
fn start(context: &Context, url: &str, arguments: &[&str]) -> Child {
    let program = binary(context.folder(), &[]);
    let mut command = Command::new("/bin/sh");
    command.current_dir(context.folder()).env_clear().kill_on_drop(true);
    command.env("DATABASE_URL", url).env("USERS_API__POOL__ACQUIRE", "60s").env("RUST_LOG", "info");
    command.arg("-c").arg(r#"trap "" TERM; exec "$0" "$@""#).arg(program.as_std().get_program()).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn terminate(child: &Child) {
    let id = child.id().unwrap().to_string();
    assert!(Command::new("/bin/sh").args(["-c", "kill -TERM $0", &id]).status().await.unwrap().success());
}

/// Sends SIGTERM, waits for the end, and returns the exit code and the last line on standard error.
async fn end_by_signal(child: Child) -> (Option<i32>, String) {
    terminate(&child).await;
    let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await.unwrap().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), stderr.lines().last().unwrap_or_default().to_owned())
}

async fn a_signal_ends_the_wait_for_a_silent_database(context: Context) {
    std::fs::write(context.folder().join("users.ndjson"), "").unwrap();
    let commands: [&[&str]; 6] = [
        &["migrate", "up"],
        &["migrate", "down"],
        &["migrate", "status"],
        &["import", "users.ndjson"],
        &["export"],
        &["serve"],
    ];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for scheme in ["postgres", "mysql"] {
        let url = format!("{scheme}://ann@{}/app", listener.local_addr().unwrap());
        for command in commands {
            let child = start(&context, &url, command);
            let connection = listener.accept().await.unwrap();
            let (code, message) = end_by_signal(child).await;
            if command == ["serve"] {
                assert_eq!((code, message.as_str()), (Some(0), ""), "{command:?}");
            } else {
                assert_eq!(
                    (code, message.as_str()),
                    (Some(4), "users-api: stopped before anything was done"),
                    "{command:?}"
                );
            }
            drop(connection);
        }
    }
}

async fn a_signal_ends_the_wait_for_a_silent_service(context: Context) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let program = binary(context.folder(), &[]);
    let mut command = Command::new("/bin/sh");
    command.env_clear().env("USERS_API__SERVER__PORT", listener.local_addr().unwrap().port().to_string());
    command.arg("-c").arg(r#"trap "" TERM; exec "$0" healthcheck"#).arg(program.as_std().get_program());
    let child = command.current_dir(context.folder()).kill_on_drop(true).stderr(Stdio::piped()).spawn().unwrap();
    let connection = listener.accept().await.unwrap();
    // Without the signal it would time out, with another exit code.
    assert_eq!(end_by_signal(child).await, (Some(4), "users-api: stopped".to_owned()));
    drop(connection);
}

async fn a_signal_ends_the_wait_for_a_stalled_reader(context: Context) {
    let mut child = start(&context, "sqlite://users.db?mode=rwc", &["openapi"]);
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 1]).await.unwrap();
    assert_eq!(end_by_signal(child).await, (Some(4), "users-api: stopped".to_owned()));
    drop(out);
    let rows: String =
        (0..5000).map(|n| format!("{{\"name\":\"User {n}\",\"email\":\"user{n}@example.com\"}}\n")).collect();
    std::fs::write(context.folder().join("users.ndjson"), rows).unwrap();
    let imported = start(&context, "sqlite://users.db?mode=rwc", &["import", "users.ndjson"]);
    assert!(imported.wait_with_output().await.unwrap().status.success());
    let mut child = start(&context, "sqlite://users.db?mode=rwc", &["export"]);
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 1]).await.unwrap();
    let (code, message) = end_by_signal(child).await;
    assert_eq!(code, Some(4), "{message}");
    assert!(message.starts_with("users-api: stopped: the output is not being read and"), "{message}");
    drop(out);
}

/// Acquires the migration lock and holds it.
async fn hold_migration_lock(context: &Context, url: &str) -> DatabaseConnection {
    let database = connect(url).await;
    let lock = match context.engine() {
        // WAL first: a locked file cannot be switched to WAL, so that the command would not even wait for its lock.
        Engine::Sqlite => "PRAGMA journal_mode = WAL; BEGIN IMMEDIATE",
        Engine::Postgres => "SELECT pg_advisory_lock(8463219666995736681)",
        Engine::MariaDb | Engine::MySql => {
            "SELECT GET_LOCK(CONCAT('users-api.migration.', LEFT(SHA2(DATABASE(), 256), 32)), 60)"
        }
    };
    database.execute_unprepared(lock).await.unwrap();
    database
}

/// Waits until a statement of the process is blocked in the server; on SQLite, until the process has opened the file.
async fn await_blocked(
    context: &Context,
    child: &mut Child,
    database: &DatabaseConnection,
    url: &str,
    statement: &str,
) {
    let id = child.id().unwrap();
    let is_blocked = async {
        match context.engine() {
            Engine::Sqlite => {
                let file = url.trim_start_matches("sqlite://").split('?').next().unwrap().to_owned();
                let files = format!("/proc/{id}/fd");
                let is_open = || async {
                    let mut open = std::fs::read_dir(&files).unwrap().flatten();
                    open.any(|entry| {
                        std::fs::read_link(entry.path()).is_ok_and(|path| path.as_os_str() == file.as_str())
                    })
                    .then_some(())
                };
                eventually("the database is open", is_open).await;
            }
            _ => await_lock_waits(context, database, statement, 1).await,
        }
    };
    let ended = tokio::select! {
        () = is_blocked => return,
        ended = child.wait() => ended.unwrap(),
    };
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).await.unwrap();
    panic!("it ended instead of waiting: {ended}: {stderr}");
}

/// Waits until this number of statements of a kind wait for a lock in the server.
async fn await_lock_waits(context: &Context, database: &DatabaseConnection, statement: &str, expected: i64) {
    let count = match context.engine() {
        Engine::Postgres => format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
             AND query LIKE '{statement}%'"
        ),
        engine => format!(
            "SELECT count(*) FROM {} WHERE db = database() AND id <> connection_id() AND info LIKE '{statement}%'",
            engine.sessions()
        ),
    };
    let what = format!("{expected} waiting statements: {statement}");
    eventually(&what, || async { (number(database, &count).await.unwrap() == expected).then_some(()) }).await;
}

/// Which migrations are applied.
async fn applied(context: &Context, url: &str) -> Vec<bool> {
    let output = start(context, url, &["migrate", "status"]).wait_with_output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().skip(1).map(|line| line.starts_with("applied")).collect()
}

async fn a_signal_ends_the_wait_for_the_migration_lock(context: Context) {
    let lock_statement = match context.engine() {
        Engine::Postgres => "SELECT pg_advisory",
        _ => "SELECT GET_LOCK",
    };
    let commands: [(&[&str], _); 3] = [
        (&["migrate", "up"], (Some(4), "users-api: stopped before anything was done")),
        (&["migrate", "down"], (Some(4), "users-api: stopped before anything was done")),
        (&["serve"], (Some(0), "")),
    ];
    for (command, (code, message)) in commands {
        let url = context.database().await;
        let holder = hold_migration_lock(&context, &url).await;
        let mut child = start(&context, &url, command);
        await_blocked(&context, &mut child, &holder, &url, lock_statement).await;
        assert_eq!(end_by_signal(child).await, (code, message.to_owned()), "{command:?}");
        if context.engine() == Engine::Postgres {
            // The server does not keep waiting for a client that has disconnected.
            await_lock_waits(&context, &holder, lock_statement, 0).await;
        }
        holder.close().await.unwrap();
        assert_eq!(applied(&context, &url).await, [false; 14]);
    }
}

async fn a_signal_stops_a_running_migration_at_a_safe_point(context: Context) {
    let url = context.database().await;
    for command in [&["migrate", "up"][..], &["migrate", "down", "--steps", "12"]] {
        let output = start(&context, &url, command).wait_with_output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let lock = Locked::users(&context, &url).await;
    let observer = connect(&url).await;
    let mut child = start(&context, &url, &["migrate", "up"]);
    await_blocked(&context, &mut child, &observer, &url, "ALTER TABLE").await;
    terminate(&child).await;
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut lines = Vec::new();
    while let Some(line) = log.next_line().await.unwrap() {
        let is_stopping = line.contains("stopping; a second signal");
        lines.push(line);
        if is_stopping {
            break;
        }
    }
    let is_transactional = !context.engine().is_mysql_like();
    if is_transactional {
        // It does not wait for the lock: the transaction is rolled back.
        assert_eq!(child.wait().await.unwrap().code(), Some(4));
    }
    lock.unlock().await;
    assert_eq!(child.wait().await.unwrap().code(), Some(4));
    while let Some(line) = log.next_line().await.unwrap() {
        lines.push(line);
    }
    let last = lines.last().unwrap();
    if is_transactional {
        assert_eq!(last, "users-api: stopped before anything was done");
        assert_eq!(applied(&context, &url).await, [[true; 2].as_slice(), &[false; 12]].concat());
    } else {
        assert_eq!(last, "users-api: stopped: 1 applied; run the command again to continue");
        assert_eq!(applied(&context, &url).await, [[true; 3].as_slice(), &[false; 11]].concat());
    }
    observer.close().await.unwrap();
    let output = start(&context, &url, &["migrate", "up"]).wait_with_output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(applied(&context, &url).await, [true; 14]);
}

async fn a_signal_ends_an_import_blocked_by_a_lock(context: Context) {
    let url = context.database().await;
    assert!(start(&context, &url, &["migrate", "up"]).wait_with_output().await.unwrap().status.success());
    std::fs::write(context.folder().join("users.ndjson"), "{\"name\":\"Ann\",\"email\":\"ann@example.com\"}\n")
        .unwrap();
    let lock = Locked::users(&context, &url).await;
    let observer = connect(&url).await;
    let mut child = start(&context, &url, &["import", "users.ndjson"]);
    if context.engine() == Engine::Sqlite {
        await_blocked(&context, &mut child, &observer, &url, "").await;
    } else {
        // On PostgreSQL one statement inserts the users and their entries in the journal.
        let statement = if context.engine() == Engine::Postgres { "WITH " } else { "INSERT INTO" };
        await_lock_waits(&context, &observer, statement, 1).await;
    }
    let (code, message) = end_by_signal(child).await;
    // On SQLite the schema check comes first and needs the same lock.
    let has_begun = context.engine() != Engine::Sqlite;
    let expected = if has_begun { "stopped; continue with --from-line 1" } else { "stopped before anything was done" };
    assert_eq!((code, message), (Some(4), format!("users-api: {expected}")));
    lock.unlock().await;
    observer.close().await.unwrap();
}

/// The number of the system call `openat`.
const OPENAT: &str = if cfg!(target_arch = "x86_64") { "257 " } else { "56 " };

async fn a_signal_ends_the_wait_for_a_pipe(context: Context) {
    let made = Command::new("mkfifo").arg(context.folder().join("pipe")).status().await.unwrap();
    assert!(made.success());
    let url = "sqlite://users.db?mode=rwc";
    for command in [&["import", "pipe"][..], &["export", "-o", "pipe"]] {
        let child = start(&context, url, command);
        let tasks = format!("/proc/{}/task", child.id().unwrap());
        let opens = |task: &std::fs::DirEntry| {
            std::fs::read_to_string(task.path().join("syscall")).is_ok_and(|call| call.starts_with(OPENAT))
        };
        let is_opening =
            || async { std::fs::read_dir(&tasks).unwrap().flatten().any(|task| opens(&task)).then_some(()) };
        eventually("the command opens the pipe", is_opening).await;
        let (code, _) = end_by_signal(child).await;
        assert_eq!(code, Some(4), "{command:?}");
    }
}
