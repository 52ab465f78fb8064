use std::{fs, process::Command};

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{ManagedProcess, Owner, eventually, free_port, program};

/// The unprivileged account of Debian.
const UNPRIVILEGED: &str = "nobody";

/// A kind of message broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerKind {
    Nats,
    Redis,
}

/// A broker that the tests start, kill and pause. It stores nothing.
pub struct BrokerServer {
    kind: BrokerKind,
    port: u16,
    owner: Owner,
    folder: TempDir,
    process: Option<ManagedProcess>,
}

impl BrokerServer {
    /// Returns a broker that is not running; `None` if it is not installed.
    pub fn new(kind: BrokerKind) -> Option<Self> {
        program(kind.program())?;
        let owner = Owner::named(UNPRIVILEGED);
        Some(Self { kind, port: free_port(), folder: owner.folder(), owner, process: None })
    }

    /// Its URL, with a user and a password that has to be percent-encoded.
    pub fn url(&self) -> String {
        format!("{}://ann:p%40ss@127.0.0.1:{}", self.kind.name(), self.port)
    }

    /// Starts it, and waits until it accepts connections.
    pub async fn start(&mut self) {
        let mut command =
            self.owner.managed_command(&program(self.kind.program()).unwrap(), self.folder.path(), "KILL");
        let (port, pid) = (self.port.to_string(), self.folder.path().join("pid"));
        match self.kind {
            BrokerKind::Nats => command.args(["-a", "127.0.0.1", "-p", &port, "--user", "ann", "--pass", "p@ss", "-P"]),
            BrokerKind::Redis => command
                .args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"])
                .args(["--user", "default", "off", "--user", "ann", "on", ">p@ss", "~*", "&*", "+@all", "--pidfile"]),
        };
        command.arg(pid);
        self.process = Some(ManagedProcess::start(command));
        eventually("the broker listens", || async { TcpStream::connect(("127.0.0.1", self.port)).await.ok() }).await;
    }

    /// Kills it. Its port refuses connections until it is started again.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Pauses it: it accepts connections, but does not respond.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = fs::read_to_string(self.folder.path().join("pid")).unwrap();
        let status = Command::new("/bin/sh").arg("-c").arg(format!("kill -{name} {}", pid.trim())).status().unwrap();
        assert!(status.success());
    }
}

impl BrokerKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Redis => "redis",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Nats => "nats-server",
            Self::Redis => "redis-server",
        }
    }
}
