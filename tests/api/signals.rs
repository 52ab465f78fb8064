//! Every command ends by a signal, whatever it waits for, and as the first process of a container as well.
//!
//! That process (PID 1) ignores a signal unless it has a handler for it. So does one that was started with the signal
//! ignored, which is how it is started here.

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
    a_wait_for_the_migration_lock_is_ended,
    a_running_migration_is_ended_where_it_is_safe,
    rows_that_are_not_written_hold_up_no_end,
];

/// Cases to which the engine makes no difference.
pub mod alone {
    use super::{
        Context, a_pipe_that_nobody_opens_holds_up_no_end, a_silent_database_holds_up_no_end,
        a_silent_service_holds_up_no_end, output_that_is_not_read_holds_up_no_end,
    };
    use crate::cases;

    cases![
        a_silent_database_holds_up_no_end,
        a_silent_service_holds_up_no_end,
        output_that_is_not_read_holds_up_no_end,
        a_pipe_that_nobody_opens_holds_up_no_end
    ];
}

/// The command, which was started with SIGTERM ignored.
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

/// Sends the signal, and waits for the end: the exit code and the last line on standard error.
async fn end_by_signal(child: Child) -> (Option<i32>, String) {
    terminate(&child).await;
    let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await.unwrap().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), said.lines().last().unwrap_or_default().to_owned())
}

async fn a_silent_database_holds_up_no_end(context: Context) {
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
            let (code, said) = end_by_signal(child).await;
            if command == ["serve"] {
                assert_eq!((code, said.as_str()), (Some(0), ""), "{command:?}");
            } else {
                assert_eq!(
                    (code, said.as_str()),
                    (Some(4), "users-api: stopped before anything was done"),
                    "{command:?}"
                );
            }
            drop(connection);
        }
    }
}

async fn a_silent_service_holds_up_no_end(context: Context) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let program = binary(context.folder(), &[]);
    let mut command = Command::new("/bin/sh");
    command.env_clear().env("USERS_API__SERVER__PORT", listener.local_addr().unwrap().port().to_string());
    command.arg("-c").arg(r#"trap "" TERM; exec "$0" healthcheck"#).arg(program.as_std().get_program());
    let child = command.current_dir(context.folder()).kill_on_drop(true).stderr(Stdio::piped()).spawn().unwrap();
    let connection = listener.accept().await.unwrap();
    // It would give up by itself, with another code.
    assert_eq!(end_by_signal(child).await, (Some(4), "users-api: stopped".to_owned()));
    drop(connection);
}

async fn output_that_is_not_read_holds_up_no_end(context: Context) {
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
    let (code, said) = end_by_signal(child).await;
    assert_eq!(code, Some(4), "{said}");
    assert!(said.starts_with("users-api: stopped: the output is not read"), "{said}");
    drop(out);
}

/// Holds the lock that migrations take.
async fn hold_migration_lock(context: &Context, url: &str) -> DatabaseConnection {
    let database = connect(url).await;
    let lock = match context.engine() {
        // Otherwise the file is busy before anyone can wait for its lock: to become WAL it has to be free.
        Engine::Sqlite => "PRAGMA journal_mode = WAL; BEGIN IMMEDIATE",
        Engine::Postgres => "SELECT pg_advisory_lock(8463219666995736681)",
        Engine::MariaDb | Engine::MySql => {
            "SELECT GET_LOCK(CONCAT('users-api.migration.', LEFT(SHA2(DATABASE(), 256), 32)), 60)"
        }
    };
    database.execute_unprepared(lock).await.unwrap();
    database
}

/// Waits until a statement of the process hangs in the server; on SQLite, until the process has opened the file.
async fn hangs(context: &Context, child: &mut Child, database: &DatabaseConnection, url: &str, statement: &str) {
    let id = child.id().unwrap();
    let is_there = async {
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
            _ => waiting(context, database, statement, 1).await,
        }
    };
    let ended = tokio::select! {
        () = is_there => return,
        ended = child.wait() => ended.unwrap(),
    };
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
    panic!("it ended, and waits for nothing: {ended}: {said}");
}

/// Waits until so many statements of this kind wait for a lock in the server.
async fn waiting(context: &Context, database: &DatabaseConnection, statement: &str, wanted: i64) {
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
    let what = format!("{wanted} of {statement}");
    eventually(&what, || async { (number(database, &count).await.unwrap() == wanted).then_some(()) }).await;
}

/// Which migrations are applied.
async fn applied(context: &Context, url: &str) -> Vec<bool> {
    let output = start(context, url, &["migrate", "status"]).wait_with_output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(|line| line.starts_with("applied")).collect()
}

async fn a_wait_for_the_migration_lock_is_ended(context: Context) {
    let waits = match context.engine() {
        Engine::Postgres => "SELECT pg_advisory",
        _ => "SELECT GET_LOCK",
    };
    let commands: [(&[&str], _); 3] = [
        (&["migrate", "up"], (Some(4), "users-api: stopped before anything was done")),
        (&["migrate", "down"], (Some(4), "users-api: stopped before anything was done")),
        (&["serve"], (Some(0), "")),
    ];
    for (command, (code, said)) in commands {
        let url = context.database().await;
        let holder = hold_migration_lock(&context, &url).await;
        let mut child = start(&context, &url, command);
        hangs(&context, &mut child, &holder, &url, waits).await;
        assert_eq!(end_by_signal(child).await, (code, said.to_owned()), "{command:?}");
        if context.engine() == Engine::Postgres {
            // The server does not go on for somebody who has left.
            waiting(&context, &holder, waits, 0).await;
        }
        holder.close().await.unwrap();
        assert_eq!(applied(&context, &url).await, [false; 4]);
    }
}

async fn a_running_migration_is_ended_where_it_is_safe(context: Context) {
    let url = context.database().await;
    for command in [&["migrate", "up"][..], &["migrate", "down", "--steps", "2"]] {
        let output = start(&context, &url, command).wait_with_output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let lock = Locked::users(&context, &url).await;
    let observer = connect(&url).await;
    let mut child = start(&context, &url, &["migrate", "up"]);
    hangs(&context, &mut child, &observer, &url, "ALTER TABLE").await;
    terminate(&child).await;
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = Vec::new();
    while let Some(line) = log.next_line().await.unwrap() {
        let is_heard = line.contains("stopping; a second signal");
        said.push(line);
        if is_heard {
            break;
        }
    }
    let is_transactional = !context.engine().is_mysql_like();
    if is_transactional {
        // Nothing is waited for: what was done is undone.
        assert_eq!(child.wait().await.unwrap().code(), Some(4));
    }
    lock.unlock().await;
    assert_eq!(child.wait().await.unwrap().code(), Some(4));
    while let Some(line) = log.next_line().await.unwrap() {
        said.push(line);
    }
    let last = said.last().unwrap();
    if is_transactional {
        assert_eq!(last, "users-api: stopped before anything was done");
        assert_eq!(applied(&context, &url).await, [true, true, false, false]);
    } else {
        assert_eq!(last, "users-api: stopped: 1 applied; run the command again for the others");
        assert_eq!(applied(&context, &url).await, [true, true, true, false]);
    }
    observer.close().await.unwrap();
    let output = start(&context, &url, &["migrate", "up"]).wait_with_output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(applied(&context, &url).await, [true; 4]);
}

async fn rows_that_are_not_written_hold_up_no_end(context: Context) {
    let url = context.database().await;
    assert!(start(&context, &url, &["migrate", "up"]).wait_with_output().await.unwrap().status.success());
    std::fs::write(context.folder().join("users.ndjson"), "{\"name\":\"Ann\",\"email\":\"ann@example.com\"}\n")
        .unwrap();
    let lock = Locked::users(&context, &url).await;
    let observer = connect(&url).await;
    let mut child = start(&context, &url, &["import", "users.ndjson"]);
    if context.engine() == Engine::Sqlite {
        hangs(&context, &mut child, &observer, &url, "").await;
    } else {
        waiting(&context, &observer, "INSERT INTO", 1).await;
    }
    let (code, said) = end_by_signal(child).await;
    // On SQLite the schema has to be looked at first, which takes the same lock.
    let is_begun = context.engine() != Engine::Sqlite;
    let stopped = if is_begun { "stopped; go on with --from-line 1" } else { "stopped before anything was done" };
    assert_eq!((code, said), (Some(4), format!("users-api: {stopped}")));
    lock.unlock().await;
    observer.close().await.unwrap();
}

/// The number of the system call that opens files.
const OPENAT: &str = if cfg!(target_arch = "x86_64") { "257 " } else { "56 " };

async fn a_pipe_that_nobody_opens_holds_up_no_end(context: Context) {
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
        eventually("it opens the pipe", is_opening).await;
        let (code, _) = end_by_signal(child).await;
        assert_eq!(code, Some(4), "{command:?}");
    }
}
