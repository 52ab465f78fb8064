//! The SQLite file: created with private permissions, and detected when it is deleted or replaced.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::{
    cases,
    harness::{App, Context, binary},
};

cases![
    writes_fail_while_the_file_is_deleted,
    writes_fail_after_the_file_is_replaced,
    new_files_are_accessible_to_their_owner_only,
    an_unusable_folder_is_reported
];

/// The files of an application's database.
fn files(app: &App) -> [PathBuf; 3] {
    let path = app.url.trim_start_matches("sqlite://").trim_end_matches("?mode=rwc");
    ["", "-wal", "-shm"].map(|end| PathBuf::from(format!("{path}{end}")))
}

fn body(number: u32) -> serde_json::Value {
    json!({"name": "Ann", "email": format!("ann{number}@example.com")})
}

async fn assert_down(app: &App, what: &str) {
    // The first write already fails, independent of the pool's own checks.
    app.post("/users", &body(9)).await.problem(503, "database-unavailable");
    let pool = app.pool_until("it is down", |pool| pool["state"] == "down").await;
    assert_eq!(pool["cause"]["kind"], "no-such-database", "{pool}");
    let detail = pool["cause"]["detail"].as_str().unwrap();
    assert!(detail.contains(what) && detail.contains(files(app)[0].to_str().unwrap()), "{detail}");
    app.get("/health/ready").await.problem(503, "database-unavailable");
    assert_eq!(app.get("/health/live").await.status, 200);
}

async fn writes_fail_while_the_file_is_deleted(context: Context) {
    let app = context.app_with(&[("pool.min", "2"), ("pool.outage_wait", "0s")]).await;
    app.create("Ann", "ann1@example.com").await;
    let away = context.folder().join("away");
    fs::create_dir(&away).unwrap();
    let moved = |path: &Path| away.join(path.file_name().unwrap());
    for path in files(&app) {
        fs::rename(&path, moved(&path)).unwrap();
    }
    assert_down(&app, "was deleted or moved").await;
    assert!(!files(&app)[0].exists(), "no file is created in its place");
    for path in files(&app) {
        fs::rename(moved(&path), &path).unwrap();
    }
    app.pool_until("it is up again", |pool| pool["state"] == "up").await;
    assert_eq!(app.post("/users", &body(2)).await.status, 201);
    assert_eq!(app.get("/users").await.ids().len(), 2);
}

async fn writes_fail_after_the_file_is_replaced(context: Context) {
    let app = context.app_with(&[("pool.outage_wait", "0s")]).await;
    let copy = context.folder().join("copy");
    fs::copy(&files(&app)[0], &copy).unwrap();
    fs::rename(&copy, &files(&app)[0]).unwrap();
    assert_down(&app, "was replaced").await;
    app.stop().await.unwrap().unwrap();
    let app = context.app_on(&app.url, &[]).await;
    assert_eq!(app.post("/users", &body(1)).await.status, 201);
}

async fn new_files_are_accessible_to_their_owner_only(context: Context) {
    let app = context.app().await;
    app.create("Ann", "ann@example.com").await;
    for path in files(&app) {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
}

async fn an_unusable_folder_is_reported(context: Context) {
    // Root may write everywhere, so the command runs as `nobody`.
    const NOBODY: u32 = 65534;
    fs::set_permissions(context.folder(), Permissions::from_mode(0o755)).unwrap();
    let folder = context.folder().join("read-only");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o555)).unwrap();
    let is_root = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap()) == 0;
    for (file, words) in [
        (folder.join("users.db"), format!("the directory {} is not writable by uid", folder.display())),
        (
            context.folder().join("nowhere/users.db"),
            format!("the directory {}/nowhere does not exist", context.folder().display()),
        ),
    ] {
        let url = format!("sqlite://{}?mode=rwc", file.display());
        let mut command = binary(context.folder(), &[("DATABASE_URL", &url)]);
        if is_root {
            command.uid(NOBODY);
        }
        let output = command.arg("migrate").output().await.unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(&words), "{error}");
    }
}
