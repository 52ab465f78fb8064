//! Other programs: where they are, and what they say.

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

/// A program in the PATH or where Debian keeps servers.
pub fn program(name: &str) -> Result<PathBuf> {
    let mut folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    folders.push("/usr/sbin".into());
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    let found = folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not installed"))
}

/// A program of PostgreSQL. Debian keeps several versions beside each other, and those of one folder fit together.
pub fn postgres_program(name: &str) -> Result<PathBuf> {
    let server = fs::canonicalize(program("postgres")?)?;
    let beside = server.with_file_name(name);
    if beside.is_file() { Ok(beside) } else { program(name) }
}

/// A command that ends with this process and hears nothing of the terminal: on Ctrl-C it is for this process to end
/// it, in the right order.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.process_group(0).kill_on_drop(true).stdin(Stdio::null());
    command
}

/// What the command says, or what it complains of.
pub async fn output(command: &mut Command) -> Result<String> {
    let name = Path::new(command.as_std().get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let output = command.output().await.with_context(|| format!("{name} does not start"))?;
    if !output.status.success() {
        bail!("{name}: {}: {}", output.status, tail(&String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The end of a text that may be long.
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim().lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

/// A port of the loopback that nobody listens on.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
