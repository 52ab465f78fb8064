//! Who runs a server: servers refuse to run as root, so root hands theirs to the user that its package made.

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

pub struct Owner(Option<(u32, u32)>);

impl Owner {
    pub fn named(name: &str) -> Result<Self> {
        if fs::metadata("/proc/self")?.uid() != 0 {
            return Ok(Self(None));
        }
        let accounts = fs::read_to_string("/etc/passwd")?;
        let account = accounts.lines().find(|line| line.split(':').next() == Some(name));
        let fields: Vec<&str> = account.with_context(|| format!("there is no user {name}"))?.split(':').collect();
        match fields[..] {
            [_, _, user, group, ..] => Ok(Self(Some((user.parse()?, group.parse()?)))),
            _ => Ok(Self(None)),
        }
    }

    /// A folder of its own inside another.
    pub fn folder(&self, inside: &Path, name: &str) -> Result<PathBuf> {
        let path = inside.join(name);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        self.own(&path)?;
        Ok(path)
    }

    pub fn write(&self, path: &Path, text: &str) -> Result<()> {
        fs::write(path, text)?;
        self.own(path)
    }

    fn own(&self, path: &Path) -> Result<()> {
        if let Some((user, group)) = self.0 {
            chown(path, Some(user), Some(group))?;
        }
        Ok(())
    }

    /// The program, run by this owner in a folder.
    pub fn command(&self, program: &Path, folder: &Path) -> Command {
        let mut command = tools::command(program);
        command.current_dir(folder).env("TMPDIR", folder).env("HOME", folder).env("LC_ALL", "C.UTF-8");
        if let Some((user, group)) = self.0 {
            command.uid(user).gid(group);
        }
        command
    }

    /// Like [`command`](Self::command), under a shell that ends the program by `signal` once our end of a pipe is
    /// closed. Thus no server outlives this process, even if that is killed.
    pub fn kept(&self, program: &Path, folder: &Path, signal: &str) -> std::process::Command {
        let script = format!("\"$@\" </dev/null & server=$!; cat >/dev/null; kill -{signal} $server; wait $server");
        let mut keeper = std::process::Command::new("/bin/sh");
        keeper.arg("-c").arg(script).arg("keeper").arg(program).process_group(0);
        keeper.current_dir(folder).env("TMPDIR", folder).env("HOME", folder).env("LC_ALL", "C.UTF-8");
        if let Some((user, group)) = self.0 {
            keeper.uid(user).gid(group);
        }
        keeper
    }
}
