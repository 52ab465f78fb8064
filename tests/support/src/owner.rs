use std::{
    fs,
    io::Write as _,
    os::unix::{fs::chown, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// The operating system user that runs a program: servers refuse to run as root, so the user of their package is used.
pub struct Owner(Option<(u32, u32)>);

impl Owner {
    pub fn named(name: &str) -> Self {
        let root = fs::metadata("/proc/self").is_ok_and(|process| std::os::unix::fs::MetadataExt::uid(&process) == 0);
        if !root {
            return Self(None);
        }
        let accounts = fs::read_to_string("/etc/passwd").unwrap();
        let account = accounts.lines().find(|line| line.split(':').next() == Some(name));
        let mut fields = account.unwrap_or_else(|| panic!("no user {name} in /etc/passwd")).split(':').skip(2);
        let mut id = || fields.next().unwrap().parse().unwrap();
        Self(Some((id(), id())))
    }

    /// The user of this process.
    pub fn current() -> Self {
        Self(None)
    }

    /// A temporary folder of this user.
    pub fn folder(&self) -> TempDir {
        let folder = tempfile::Builder::new().prefix("users-api-test-").tempdir().unwrap();
        self.chown(folder.path());
        folder
    }

    pub fn write(&self, path: &Path, text: &str) {
        fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
        self.chown(path);
    }

    fn chown(&self, path: &Path) {
        if let Some((user, group)) = self.0 {
            chown(path, Some(user), Some(group)).unwrap();
        }
    }

    /// A command that runs the program under a shell, which sends it `signal` once its standard input is closed: no
    /// program outlives this process, even if this process is killed. A line of input has the name of another signal.
    pub fn managed_command(&self, program: &Path, folder: &Path, signal: &str) -> Command {
        // A paused program handles a signal once it continues.
        let script = format!(
            "\"$@\" </dev/null & program=$!; read -r signal || signal={signal}; \
             kill -$signal $program; kill -CONT $program; wait $program"
        );
        let mut supervisor = self.command(Path::new("/bin/sh"), folder);
        supervisor.arg("-c").arg(script).arg("supervisor").arg(program);
        supervisor.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        supervisor
    }

    /// Like [`managed_command`](Self::managed_command), in a network namespace.
    pub fn managed_command_in(&self, namespace: &Path, program: &Path, folder: &Path, signal: &str) -> Command {
        // Only root can enter it.
        let mut supervisor = Self::current().managed_command(Path::new("nsenter"), folder, signal);
        supervisor.arg(format!("--net={}", namespace.display()));
        if let Some((user, group)) = self.0 {
            supervisor.arg(format!("--setuid={user}")).arg(format!("--setgid={group}"));
        }
        supervisor.arg("--").arg(program);
        supervisor
    }

    pub(crate) fn command(&self, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(folder).env("TMPDIR", folder).env("HOME", folder).env("LC_ALL", "C.UTF-8");
        if let Some((user, group)) = self.0 {
            command.uid(user).gid(group);
        }
        command
    }
}
