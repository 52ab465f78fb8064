//! What the figures were measured on and with.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::tools::{self, postgres_program, program};

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cores: usize,
    pub cpu: String,
    pub memory_gib: f64,
    pub kernel: String,
    /// The file system that the databases lie on.
    pub file_system: String,
}

pub async fn machine(folder: &Path) -> Machine {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let kib: f64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
    let file_system = said(tools::command("df").args(["--output=fstype"]).arg(folder)).await;
    Machine {
        cores: std::thread::available_parallelism().map_or(0, Into::into),
        cpu: field(&read("/proc/cpuinfo"), "model name"),
        memory_gib: (kib / 1024.0 / 1024.0 * 10.0).round() / 10.0,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        file_system: file_system.lines().last().unwrap_or_default().to_owned(),
    }
}

/// Versions of what takes part; one that cannot be had is left empty.
pub async fn versions() -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    let mut add = |name: &str, version: String| versions.insert(name.to_owned(), version);
    let python = "bench/peers/fastapi-sqlalchemy/.venv/bin/python";
    let found = |path: anyhow::Result<std::path::PathBuf>| path.unwrap_or_default();
    add("rustc", said(tools::command("rustc").arg("--version")).await);
    add("node", said(tools::command("node").arg("--version")).await);
    add("python", said(tools::command(python).arg("--version")).await);
    add("PostgreSQL", said(tools::command(found(postgres_program("postgres"))).arg("--version")).await);
    add("MariaDB", said(tools::command(found(program("mariadbd"))).arg("--version")).await);
    add("libsqlite3-sys", locked("Cargo.lock", "libsqlite3-sys"));
    let wrk = tools::command(found(program("wrk"))).arg("-v").output().await;
    let wrk = wrk.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    add("wrk", wrk.split(" [").next().unwrap_or_default().to_owned());
    versions
}

/// The version of a crate in a lock file. The SQLite that the service carries has the version of its crate.
pub fn locked(file: &str, name: &str) -> String {
    let lock = fs::read_to_string(file).unwrap_or_default();
    let package = lock.split("[[package]]").find(|package| package.contains(&format!("name = \"{name}\"\n")));
    let version = package.and_then(|package| package.split("version = \"").nth(1)?.split('"').next());
    version.unwrap_or_default().to_owned()
}

/// The commit that is checked out, and whether files differ from it. What a run itself writes is no difference.
pub async fn commit() -> String {
    let commit = said(tools::command("git").args(["rev-parse", "--short=12", "HEAD"])).await;
    let mut status = tools::command("git");
    status.args(["status", "--porcelain", "--", ".", ":!docs", ":!bench/results", ":!pool/README.md"]);
    if commit.is_empty() {
        "unknown".to_owned()
    } else if said(&mut status).await.is_empty() {
        commit
    } else {
        format!("{commit} with changes")
    }
}

pub async fn now() -> String {
    said(tools::command("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])).await
}

async fn said(command: &mut tokio::process::Command) -> String {
    tools::output(command).await.unwrap_or_default().trim().to_owned()
}
