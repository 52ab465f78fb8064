//! Processes that run beside the measurement, each in a group of its own, which ends with it.

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

/// How long a process may take to end by itself.
const GRACE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(5);

pub struct Process {
    child: Child,
    watcher: Child,
    pid: Pid,
    log: PathBuf,
    is_over: bool,
}

impl Process {
    /// Starts it; what it prints goes to a file.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let output = File::create(log)?;
        command.process_group(0).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("{} does not start", command.get_program().display()))?;
        let pid = Pid::from_child(&child);
        Ok(Self { child, watcher: watcher(pid)?, pid, log: log.to_owned(), is_over: false })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended. It is not reaped: as long as it is not, its group's id cannot become anybody else's.
    pub fn has_ended(&self) -> Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        Ok(waitid(WaitId::Pid(self.pid), options)?.is_some())
    }

    /// The end of what it printed.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let end = tools::tail(&text);
        if end.is_empty() { "it said nothing".to_owned() } else { end }
    }

    /// Asks it to end, and waits until it has.
    pub async fn stop(mut self) -> Result<()> {
        self.ask()?;
        let began = Instant::now();
        while !self.has_ended()? && began.elapsed() < GRACE {
            tokio::time::sleep(LOOK).await;
        }
        self.finish()
    }

    fn ask(&self) -> Result<()> {
        if !self.has_ended()? {
            kill_process(self.pid, Signal::TERM)?;
        }
        Ok(())
    }

    /// Ends what is left of the group, and reaps the process.
    fn finish(&mut self) -> Result<()> {
        self.is_over = true;
        kill_process_group(self.pid, Signal::KILL)?;
        // Before the process is reaped and its id may become somebody else's.
        self.watcher.kill()?;
        self.watcher.wait()?;
        self.child.wait()?;
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.ask()?;
        let began = Instant::now();
        while !self.has_ended()? && began.elapsed() < GRACE {
            thread::sleep(LOOK);
        }
        self.finish()
    }
}

/// A shell that ends the group once our end of a pipe is closed: should this process be killed, nothing outlives it.
fn watcher(group: Pid) -> Result<Child> {
    let script = format!("cat >/dev/null; kill -s KILL -- -{}", group.as_raw_nonzero());
    let mut watcher = Command::new("/bin/sh");
    watcher.arg("-c").arg(script).process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    watcher.spawn().context("a shell does not start")
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.is_over
            && let Err(error) = self.end()
        {
            eprintln!("bench: process {} may be left over: {error}", self.pid.as_raw_nonzero());
        }
    }
}
