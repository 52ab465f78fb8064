use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

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
    /// Tansu, which speaks the protocol of Kafka.
    Kafka,
}

/// A broker that the tests start, kill and pause. It stores nothing.
pub struct BrokerServer {
    kind: BrokerKind,
    port: u16,
    /// More arguments.
    more: Vec<String>,
    owner: Owner,
    folder: TempDir,
    process: Option<ManagedProcess>,
}

impl BrokerServer {
    /// Returns a broker that is not running; `None` if it is not installed.
    pub fn new(kind: BrokerKind) -> Option<Self> {
        kind.program()?;
        let owner = Owner::named(UNPRIVILEGED);
        Some(Self { kind, port: free_port(), more: Vec::new(), folder: owner.folder(), owner, process: None })
    }

    /// Returns the servers of a cluster of NATS, which are not running; `None` if it is not installed.
    pub fn nats_cluster(size: usize) -> Option<Vec<Self>> {
        let routes: Vec<String> = (0..size).map(|_| format!("nats://127.0.0.1:{}", free_port())).collect();
        let all = routes.join(",");
        let server = |route| {
            let mut server = Self::new(BrokerKind::Nats)?;
            server.more = ["--cluster_name", "test", "--cluster", route, "--routes", &all].map(str::to_owned).into();
            Some(server)
        };
        routes.iter().map(|route| server(route.as_str())).collect()
    }

    /// Its URL, with a user and a password that has to be percent-encoded, except for Kafka.
    pub fn url(&self) -> String {
        let user = if self.kind == BrokerKind::Kafka { "" } else { "ann:p%40ss@" };
        format!("{}://{user}127.0.0.1:{}", self.kind.name(), self.port)
    }

    /// The URL of a cluster, beginning with the server of this index.
    pub fn cluster_url(servers: &[Self], first: usize) -> String {
        let (others, preferred) = servers.split_at(first);
        preferred.iter().chain(others).map(Self::url).collect::<Vec<_>>().join(",")
    }

    /// Starts it, and waits until it accepts connections.
    pub async fn start(&mut self) {
        let (port, pid) = (self.port.to_string(), self.folder.path().join("pid"));
        // It becomes the program, after it has written its id.
        let mut command = self.owner.managed_command(Path::new("/bin/sh"), self.folder.path(), "KILL");
        command.args(["-c", "echo $$ >\"$0\" && exec \"$@\""]).arg(pid).arg(self.kind.program().unwrap());
        match self.kind {
            BrokerKind::Nats => command.args(["-a", "127.0.0.1", "-p", &port, "--user", "ann", "--pass", "p@ss"]),
            BrokerKind::Redis => command
                .args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"])
                .args(["--user", "default", "off", "--user", "ann", "on", ">p@ss", "~*", "&*", "+@all"]),
            BrokerKind::Kafka => {
                let address = format!("tcp://127.0.0.1:{port}");
                command.args(["broker", "--listener-url", &address, "--advertised-listener-url", &address])
            }
        };
        command.args(&self.more);
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
            Self::Kafka => "kafka",
        }
    }

    fn program(self) -> Option<PathBuf> {
        match self {
            Self::Nats => program("nats-server"),
            Self::Redis => program("redis-server"),
            // By `scripts/get-tansu`.
            Self::Kafka => {
                let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tansu/tansu");
                unpacked.canonicalize().ok()
            }
        }
    }
}
