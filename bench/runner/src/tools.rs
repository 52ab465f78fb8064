//! Finds and runs other programs.

use std::{
    env,
    ffi::OsStr,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

/// The path of a program in `PATH` or in the folders where Debian installs servers.
pub fn program(name: &str) -> Result<PathBuf> {
    let mut folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    folders.push("/usr/sbin".into());
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    let found = folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not installed"))
}

/// The path of a PostgreSQL program. Debian can have several versions installed; this one matches the server.
pub fn postgres_program(name: &str) -> Result<PathBuf> {
    let server = fs::canonicalize(program("postgres")?)?;
    let sibling = server.with_file_name(name);
    if sibling.is_file() { Ok(sibling) } else { program(name) }
}

/// A command that is killed when it is dropped. It has a separate process group, so that Ctrl-C does not reach it: this
/// process stops its children in the right order.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.process_group(0).kill_on_drop(true).stdin(Stdio::null());
    command
}

/// The standard output of a command. The error contains its standard error.
pub async fn output(command: &mut Command) -> Result<String> {
    let name = Path::new(command.as_std().get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let output = command.output().await.with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}: {}", output.status, tail(&String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The last lines of a text.
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim().lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

/// A free port on the loopback interface.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
