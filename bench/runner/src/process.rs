//! Processes that run during a measurement, each in a separate process group, which ends with it.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

use crate::tools;

/// How long a process may take to exit after SIGTERM.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

pub struct Process {
    child: Child,
    watcher: Child,
    pid: Pid,
    log: PathBuf,
    is_over: bool,
}

impl Process {
    /// Starts a command; its output goes to a file.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let output = File::create(log)?;
        command.process_group(0).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let pid = Pid::from_child(&child);
        Ok(Self { child, watcher: watcher(pid)?, pid, log: log.to_owned(), is_over: false })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has exited. It is not reaped yet, so that the id of its group cannot be reused.
    pub fn has_ended(&self) -> Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        Ok(waitid(WaitId::Pid(self.pid), options)?.is_some())
    }

    /// The end of its output.
    pub fn output_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let end = tools::tail(&text);
        if end.is_empty() { "no output".to_owned() } else { end }
    }

    /// Sends SIGTERM, waits until it has exited, and kills it after [`EXIT_TIMEOUT`].
    pub async fn stop(mut self) -> Result<()> {
        self.terminate()?;
        let began = Instant::now();
        while !self.has_ended()? && began.elapsed() < EXIT_TIMEOUT {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        self.finish()
    }

    fn terminate(&self) -> Result<()> {
        if !self.has_ended()? {
            kill_process(self.pid, Signal::TERM)?;
        }
        Ok(())
    }

    /// Kills the rest of the group, and reaps the process.
    fn finish(&mut self) -> Result<()> {
        self.is_over = true;
        kill_process_group(self.pid, Signal::KILL)?;
        // Must end before the process is reaped: afterwards its id may be reused.
        self.watcher.kill()?;
        self.watcher.wait()?;
        self.child.wait()?;
        Ok(())
    }

    /// Like [`stop`](Self::stop), for `drop`.
    fn stop_blocking(&mut self) -> Result<()> {
        self.terminate()?;
        let began = Instant::now();
        while !self.has_ended()? && began.elapsed() < EXIT_TIMEOUT {
            thread::sleep(POLL_INTERVAL);
        }
        self.finish()
    }
}

/// Starts a shell that kills the group when our end of its standard input is closed, so that the group does not outlive
/// this process if it is killed.
fn watcher(group: Pid) -> Result<Child> {
    let script = format!("cat >/dev/null; kill -s KILL -- -{}", group.as_raw_nonzero());
    let mut watcher = Command::new("/bin/sh");
    watcher.arg("-c").arg(script).process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    watcher.spawn().context("cannot start a shell")
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.is_over
            && let Err(error) = self.stop_blocking()
        {
            eprintln!("bench: process {} may still be running: {error}", self.pid.as_raw_nonzero());
        }
    }
}
