//! The service as a separate process, as an operator starts it.

use std::{
    net::SocketAddr,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    sync::watch,
};

/// A command for the binary in a folder, with only these environment variables.
pub fn binary(folder: &Path, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_users-api"));
    command.current_dir(folder).env_clear().envs(variables.iter().copied()).kill_on_drop(true);
    command
}

/// A command for the service on a port, with two workers.
fn command(folder: &Path, variables: &[(&str, &str)], port: u16) -> Command {
    let mut command = binary(folder, variables);
    command.env("USERS_API__SERVER__PORT", port.to_string()).env("USERS_API__SERVER__WORKERS", "2");
    command.env("USERS_API__POOL__BATCH", super::is_batching().to_string());
    command
}

fn spawn(command: &mut Command) -> Child {
    command.stderr(Stdio::inherit()).spawn().unwrap()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A service process whose log is read continuously.
pub struct Service {
    pub address: SocketAddr,
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
    line_count: watch::Receiver<usize>,
}

impl Service {
    /// Starts it on a free port, and waits until it listens.
    pub async fn start(folder: &Path, variables: &[(&str, &str)]) -> Self {
        let mut service = Self::launch(folder, variables);
        let line = service.logged("listening").await;
        service.address = line["address"].as_str().unwrap().parse().unwrap();
        service
    }

    /// Starts it on this port, and waits until it listens.
    pub async fn start_on(folder: &Path, variables: &[(&str, &str)], address: SocketAddr) -> Self {
        let mut service = Self::launch_on(folder, variables, address.port());
        service.logged("listening").await;
        service.address = address;
        service
    }

    /// Starts it on a port that was free, and waits until it responds, for a service that does not log its address.
    pub async fn start_quietly(folder: &Path) -> Self {
        let port = free_port();
        let service = Self::launch_on(folder, &[], port);
        service.wait_until_ready(port).await
    }

    /// Starts it with an output that is not read yet, and waits until it responds.
    pub async fn start_unread(folder: &Path, variables: &[(&str, &str)]) -> (Self, ChildStdout) {
        let port = free_port();
        let mut child = spawn(command(folder, variables, port).stdout(Stdio::piped()));
        let output = child.stdout.take().unwrap();
        (Self::of(child).wait_until_ready(port).await, output)
    }

    /// Starts it from a shell that has set a limit (`ulimit -n 150`), and waits until it responds.
    pub async fn start_limited(folder: &Path, variables: &[(&str, &str)], limit: &str) -> Self {
        let port = free_port();
        let service = command(folder, variables, port);
        let service = service.as_std();
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(format!("{limit}; exec \"$0\"")).arg(service.get_program()).current_dir(folder).env_clear();
        shell.envs(service.get_envs().filter_map(|(name, value)| Some((name, value?)))).kill_on_drop(true);
        let mut child = spawn(shell.stdout(Stdio::piped()));
        let output = child.stdout.take().unwrap();
        let mut service = Self::of(child);
        service.read(output);
        service.wait_until_ready(port).await
    }

    /// Starts it on a free port without waiting for it; it may fail to start.
    pub fn launch(folder: &Path, variables: &[(&str, &str)]) -> Self {
        Self::launch_on(folder, variables, 0)
    }

    /// Starts it with arguments without waiting for it; it may fail to start.
    pub fn launch_with(folder: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        let mut child = spawn(binary(folder, variables).args(arguments).stdout(Stdio::piped()));
        let output = child.stdout.take().unwrap();
        let mut service = Self::of(child);
        service.read(output);
        service
    }

    fn launch_on(folder: &Path, variables: &[(&str, &str)], port: u16) -> Self {
        let mut child = spawn(command(folder, variables, port).stdout(Stdio::piped()));
        let output = child.stdout.take().unwrap();
        let mut service = Self::of(child);
        service.read(output);
        service
    }

    fn of(child: Child) -> Self {
        Self { address: ([127, 0, 0, 1], 0).into(), child, lines: Arc::default(), line_count: watch::channel(0).1 }
    }

    /// Reads the log in a background task.
    fn read(&mut self, output: ChildStdout) {
        let (counter, line_count) = watch::channel(0);
        self.line_count = line_count;
        let lines = Arc::clone(&self.lines);
        tokio::spawn(async move {
            let mut output = BufReader::new(output).lines();
            while let Ok(Some(line)) = output.next_line().await {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                counter.send_modify(|count| *count += 1);
            }
        });
    }

    async fn wait_until_ready(mut self, port: u16) -> Self {
        self.address.set_port(port);
        let client = super::client();
        super::eventually("it responds", || async { self.get(&client, "/health/ready").send().await.ok() }).await;
        self
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        resident.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Waits for a log line with this message.
    pub async fn logged(&self, message: &str) -> Value {
        let mut line_count = self.line_count.clone();
        let found = async {
            loop {
                if let Some(line) = self.log().into_iter().find(|line| line["message"] == message) {
                    return Some(line);
                }
                if line_count.changed().await.is_err() {
                    return self.log().into_iter().find(|line| line["message"] == message);
                }
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(60), found).await.ok().flatten();
        found.unwrap_or_else(|| panic!("never logged {message:?}: {:#?}", self.log()))
    }

    /// The log so far.
    pub fn log(&self) -> Vec<Value> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a signal by its name (`TERM`).
    pub async fn signal(&self, name: &str) {
        let id = self.id();
        let sent = Command::new("/bin/sh").arg("-c").arg(format!("kill -{name} {id}")).status().await.unwrap();
        assert!(sent.success());
    }

    /// Waits until the process exits.
    pub async fn ended(&mut self) -> ExitStatus {
        tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await.expect("it did not exit").unwrap()
    }

    pub fn get(&self, client: &reqwest::Client, path: &str) -> reqwest::RequestBuilder {
        client.get(format!("http://{}{path}", self.address))
    }
}
