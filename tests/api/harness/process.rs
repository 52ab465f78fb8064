//! The real binary, as an operator starts it.

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
    process::{Child, Command},
    sync::watch,
};

/// The binary in a folder, with an environment of just these variables.
pub fn binary(folder: &Path, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_users-api"));
    command.current_dir(folder).env_clear().envs(variables.iter().copied()).kill_on_drop(true);
    command
}

/// A serving process whose log is read as it comes.
pub struct Service {
    pub address: SocketAddr,
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
    grown: watch::Receiver<usize>,
}

impl Service {
    /// Starts it on a free port and waits until it listens.
    pub async fn start(folder: &Path, variables: &[(&str, &str)]) -> Self {
        let mut service = Self::launch(folder, variables);
        let line = service.logged("listening").await;
        service.address = line["address"].as_str().unwrap().parse().unwrap();
        service
    }

    /// Starts it on a port that was free, and waits until it answers: for a service whose log says nothing.
    pub async fn start_quietly(folder: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut service = Self::launch_on(folder, &[], port);
        service.address.set_port(port);
        let client = super::client();
        super::eventually("it answers", || async { service.get(&client, "/health/ready").send().await.ok() }).await;
        service
    }

    /// Starts it on a free port, whatever becomes of it.
    pub fn launch(folder: &Path, variables: &[(&str, &str)]) -> Self {
        Self::launch_on(folder, variables, 0)
    }

    fn launch_on(folder: &Path, variables: &[(&str, &str)], port: u16) -> Self {
        let mut command = binary(folder, variables);
        command.env("USERS_API__SERVER__PORT", port.to_string()).env("USERS_API__SERVER__WORKERS", "2");
        command.env("USERS_API__POOL__BATCH", super::is_batching().to_string());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let output = child.stdout.take().unwrap();
        let lines: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (grow, grown) = watch::channel(0);
        let kept = Arc::clone(&lines);
        tokio::spawn(async move {
            let mut output = BufReader::new(output).lines();
            while let Ok(Some(line)) = output.next_line().await {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                grow.send_modify(|count| *count += 1);
            }
        });
        Self { address: ([127, 0, 0, 1], 0).into(), child, lines, grown }
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Memory that it holds.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        resident.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Waits for a line of the log with this message.
    pub async fn logged(&self, message: &str) -> Value {
        let mut grown = self.grown.clone();
        let found = async {
            loop {
                if let Some(line) = self.log().into_iter().find(|line| line["message"] == message) {
                    return Some(line);
                }
                if grown.changed().await.is_err() {
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

    /// Waits for the end.
    pub async fn ended(&mut self) -> ExitStatus {
        tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await.expect("it did not end").unwrap()
    }

    pub fn get(&self, client: &reqwest::Client, path: &str) -> reqwest::RequestBuilder {
        client.get(format!("http://{}{path}", self.address))
    }
}
