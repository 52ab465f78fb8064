//! The machine, the versions of all programs, and the commit that is measured.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::tools::{self, postgres_program, program};

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cores: usize,
    pub cpu: String,
    pub memory_gib: f64,
    pub kernel: String,
    /// The file system of the databases.
    pub file_system: String,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, cpu, memory_gib, kernel, file_system } = self;
        write!(f, "{cores} cores of {cpu}, {memory_gib} GiB, Linux {kernel}, {file_system}")
    }
}

/// This machine, with the file system of a folder.
pub async fn machine(folder: &Path) -> Machine {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let kib: f64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
    let file_system = output_or_empty(tools::command("df").args(["--output=fstype"]).arg(folder)).await;
    Machine {
        cores: std::thread::available_parallelism().map_or(0, Into::into),
        cpu: field(&read("/proc/cpuinfo"), "model name"),
        memory_gib: (kib / 1024.0 / 1024.0 * 10.0).round() / 10.0,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        file_system: file_system.lines().last().unwrap_or_default().to_owned(),
    }
}

/// The version outputs of all programs, by name; empty for a program that cannot be run.
pub async fn versions() -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    let mut add = |name: &str, version: String| versions.insert(name.to_owned(), version);
    let python = "bench/peers/fastapi-sqlalchemy/.venv/bin/python";
    let found = |path: anyhow::Result<std::path::PathBuf>| path.unwrap_or_default();
    add("rustc", output_or_empty(tools::command("rustc").arg("--version")).await);
    add("node", output_or_empty(tools::command("node").arg("--version")).await);
    add("python", output_or_empty(tools::command(python).arg("--version")).await);
    add("PostgreSQL", output_or_empty(tools::command(found(postgres_program("postgres"))).arg("--version")).await);
    add("MariaDB", output_or_empty(tools::command(found(program("mariadbd"))).arg("--version")).await);
    add("libsqlite3-sys", locked("Cargo.lock", "libsqlite3-sys"));
    let wrk = tools::command(found(program("wrk"))).arg("-v").output().await;
    let wrk = wrk.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    add("wrk", wrk.split(" [").next().unwrap_or_default().to_owned());
    versions
}

/// The version of a crate in a lock file. The version of `libsqlite3-sys` implies that of the bundled SQLite.
pub fn locked(file: &str, name: &str) -> String {
    let lock = fs::read_to_string(file).unwrap_or_default();
    let package = lock.split("[[package]]").find(|package| package.contains(&format!("name = \"{name}\"\n")));
    let version = package.and_then(|package| package.split("version = \"").nth(1)?.split('"').next());
    version.unwrap_or_default().to_owned()
}

/// The commit that is checked out, and whether files differ from it. Files that a run writes do not count.
pub async fn commit() -> String {
    let commit = output_or_empty(tools::command("git").args(["rev-parse", "--short=12", "HEAD"])).await;
    let mut status = tools::command("git");
    status.args(["status", "--porcelain", "--", ".", ":!docs", ":!bench/results", ":!pool/README.md"]);
    if commit.is_empty() {
        "unknown".to_owned()
    } else if output_or_empty(&mut status).await.is_empty() {
        commit
    } else {
        format!("{commit} with changes")
    }
}

pub async fn now() -> String {
    output_or_empty(tools::command("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])).await
}

/// The names and version numbers of those of these programs that are installed.
pub fn named_versions(versions: &BTreeMap<String, String>, names: &[&str]) -> Vec<String> {
    let known = names.iter().filter_map(|name| Some((name, version_number(versions.get(*name)?)?)));
    known.map(|(name, version)| format!("{name} {version}")).collect()
}

/// The version number in the version output of a program.
pub fn version_number(output: &str) -> Option<&str> {
    let words = output.split([' ', '/']).map(|word| word.trim_start_matches('v'));
    let word = words.into_iter().find(|word| word.starts_with(|letter: char| letter.is_ascii_digit()))?;
    word.split(|letter: char| !letter.is_ascii_digit() && letter != '.').next()
}

/// The output of a command; empty if it fails.
async fn output_or_empty(command: &mut tokio::process::Command) -> String {
    tools::output(command).await.unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_numbers_are_found_in_version_outputs() {
        let mariadb = "/usr/sbin/mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian";
        assert_eq!(version_number(mariadb), Some("10.11.19"));
        assert_eq!(version_number("wrk debian/4.1.0-3+b2"), Some("4.1.0"));
        assert_eq!(version_number("v20.20.2"), Some("20.20.2"));
        assert_eq!(version_number(""), None);
    }
}
