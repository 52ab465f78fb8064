//! The system user that runs a server. Servers refuse to run as root, so root runs them as the user that their package
//! created.

use std::{
    fs,
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::tools;

/// The ids of a user and its group; `None` for the current user.
pub struct Owner(Option<(u32, u32)>);

impl Owner {
    pub fn named(name: &str) -> Result<Self> {
        if fs::metadata("/proc/self")?.uid() != 0 {
            return Ok(Self(None));
        }
        let accounts = fs::read_to_string("/etc/passwd")?;
        let account = accounts.lines().find(|line| line.split(':').next() == Some(name));
        let fields: Vec<&str> = account.with_context(|| format!("user {name} does not exist"))?.split(':').collect();
        match fields[..] {
            [_, _, user, group, ..] => Ok(Self(Some((user.parse()?, group.parse()?)))),
            _ => Ok(Self(None)),
        }
    }

    /// Creates a folder that belongs to this user.
    pub fn folder(&self, parent: &Path, name: &str) -> Result<PathBuf> {
        let path = parent.join(name);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        self.chown(&path)?;
        Ok(path)
    }

    pub fn write(&self, path: &Path, text: &str) -> Result<()> {
        fs::write(path, text)?;
        self.chown(path)
    }

    fn chown(&self, path: &Path) -> Result<()> {
        if let Some((user, group)) = self.0 {
            chown(path, Some(user), Some(group))?;
        }
        Ok(())
    }

    /// A command that runs as this user in a folder.
    pub fn command(&self, program: &Path, folder: &Path) -> Command {
        let mut command = tools::command(program);
        command.current_dir(folder).env("TMPDIR", folder).env("HOME", folder).env("LC_ALL", "C.UTF-8");
        if let Some((user, group)) = self.0 {
            command.uid(user).gid(group);
        }
        command
    }

    /// Like [`command`](Self::command), under a shell that sends `signal` to the program when our end of the shell's
    /// standard input is closed. So no server outlives this process, even if it is killed.
    pub fn supervised(&self, program: &Path, folder: &Path, signal: &str) -> std::process::Command {
        let script = format!("\"$@\" </dev/null & server=$!; cat >/dev/null; kill -{signal} $server; wait $server");
        let mut supervisor = std::process::Command::new("/bin/sh");
        supervisor.arg("-c").arg(script).arg("supervisor").arg(program).process_group(0);
        supervisor.current_dir(folder).env("TMPDIR", folder).env("HOME", folder).env("LC_ALL", "C.UTF-8");
        if let Some((user, group)) = self.0 {
            supervisor.uid(user).gid(group);
        }
        supervisor
    }
}
