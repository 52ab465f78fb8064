//! A network of hosts on one machine, whose links can be cut: each host is a network namespace with one link to the clients
//! and one to its peers.
//!
//! A process keeps each namespace alive. It is killed on drop and when the test run dies, and the kernel then removes the
//! namespace with its links and addresses. So no run leaves state behind.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use tempfile::TempDir;

use crate::{ManagedProcess, Owner, eventually, program};

/// A link of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// To clients, which run outside of the network's namespaces.
    Clients,
    /// To the other hosts.
    Peers,
}

/// Hosts that reach each other, and that clients reach.
pub struct Network {
    hosts: Vec<Namespace>,
    /// Has one bridge per kind of link. Setting a bridge port down drops packets instead of refusing them.
    switch_namespace: Namespace,
    /// The first three octets of all addresses.
    prefix: [u8; 3],
}

/// A network namespace, and the process that keeps it alive.
struct Namespace {
    pid: u32,
    _process: ManagedProcess,
    _folder: TempDir,
}

impl Network {
    /// Creates a network. Returns `None` if a privilege or a program is missing.
    pub async fn start(hosts: u8) -> Option<Self> {
        // Fails without CAP_SYS_ADMIN or CAP_NET_ADMIN.
        let probe = Command::new("unshare").args(["--net", "ip", "link", "add", "type", "veth"]).output();
        if !probe.is_ok_and(|output| output.status.success()) || program("nsenter").is_none() {
            return None;
        }
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        let id = std::process::id() % 100_000 * 8 + NEXT_ID.fetch_add(1, Ordering::Relaxed) % 8;
        let prefix = unused_prefix(id);
        let switch_namespace = Namespace::start().await;
        for link in [Link::Clients, Link::Peers] {
            switch_namespace.ip(&format!("link add {} up type bridge", link.name()));
        }
        let [a, b, c] = prefix;
        // Becomes a port of the bridge for clients.
        ip(&format!("link add users{id} type veth peer name outside netns {}", switch_namespace.pid));
        ip(&format!("address add {a}.{b}.{c}.1/25 dev users{id}"));
        ip(&format!("link set users{id} up"));
        switch_namespace.ip("link set outside master clients up");
        let mut network = Self { hosts: Vec::new(), switch_namespace, prefix };
        for host in 0..hosts {
            network.hosts.push(Namespace::start().await);
            network.add_links(host);
        }
        Some(network)
    }

    /// Gives a host its links.
    fn add_links(&self, host: u8) {
        let namespace = &self.hosts[usize::from(host)];
        namespace.ip("link set lo up");
        for link in [Link::Clients, Link::Peers] {
            let (name, port, pid) = (link.name(), link.port(host.into()), namespace.pid);
            self.switch_namespace.ip(&format!("link add {port} type veth peer name {name} netns {pid}"));
            self.switch_namespace.ip(&format!("link set {port} master {name} up"));
            namespace.ip(&format!("address add {}/25 dev {name}", self.address(host.into(), link)));
            namespace.ip(&format!("link set {name} up"));
        }
    }

    /// The address of a host on a link.
    pub fn address(&self, host: usize, link: Link) -> Ipv4Addr {
        let [a, b, c] = self.prefix;
        let subnet = if link == Link::Clients { 0 } else { 128 };
        Ipv4Addr::new(a, b, c, subnet + 2 + u8::try_from(host).unwrap())
    }

    /// The namespace of a host, for [`Owner::managed_command_in`].
    pub fn namespace(&self, host: usize) -> PathBuf {
        self.hosts[host].path()
    }

    /// Cuts a link: packets are dropped, in both directions.
    pub fn cut(&self, host: usize, link: Link) {
        self.switch_namespace.ip(&format!("link set {} down", link.port(host)));
    }

    /// Restores a link that was cut.
    pub fn heal(&self, host: usize, link: Link) {
        self.switch_namespace.ip(&format!("link set {} up", link.port(host)));
    }
}

impl Link {
    /// The name of the bridge, and of the interface of each host.
    fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Peers => "peers",
        }
    }

    /// The port of the bridge that leads to a host.
    fn port(self, host: usize) -> String {
        format!("{}{host}", self.name())
    }
}

impl Namespace {
    async fn start() -> Self {
        let owner = Owner::current();
        let folder = owner.folder();
        let file = folder.path().join("pid");
        let mut command = owner.managed_command(&program("unshare").unwrap(), folder.path(), "KILL");
        command.args(["--net", "/bin/sh", "-c", "echo $$ >\"$0\" && exec sleep infinity"]).arg(&file);
        let process = ManagedProcess::start(command);
        let pid = eventually("the namespace exists", || async {
            // Without the newline the write is not complete.
            std::fs::read_to_string(&file).ok()?.strip_suffix('\n')?.parse().ok()
        })
        .await;
        Self { pid, _process: process, _folder: folder }
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.pid).into()
    }

    /// Runs `ip` in the namespace.
    fn ip(&self, arguments: &str) {
        run(Command::new("nsenter").arg(format!("--net={}", self.path().display())).arg("ip"), arguments);
    }
}

/// Runs `ip`.
fn ip(arguments: &str) {
    run(&mut Command::new("ip"), arguments);
}

/// Runs a command with arguments that spaces separate, and returns its output.
fn run(command: &mut Command, arguments: &str) -> String {
    let output = command.args(arguments.split_whitespace()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the first three octets of a private network to which only the default route leads.
fn unused_prefix(seed: u32) -> [u8; 3] {
    let candidates = (seed..seed + 1000).map(|number| {
        let [.., high, low] = number.wrapping_mul(0x9E37_79B9).to_be_bytes();
        [10, high, low]
    });
    let is_unused = |[a, b, c]: &[u8; 3]| {
        // `root`: routes to subnets of it; `match`: routes that contain it.
        ["root", "match"].iter().all(|which| {
            let routes = run(&mut Command::new("ip"), &format!("-4 route show {which} {a}.{b}.{c}.0/24"));
            routes.lines().all(|route| route.starts_with("default "))
        })
    };
    candidates.into_iter().find(is_unused).expect("a private network without routes")
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Duration};

    use tokio::{net::TcpStream, time::timeout};

    use super::*;

    /// The outcome of connecting to a closed port.
    #[derive(Debug, PartialEq, Eq)]
    enum Response {
        Refused,
        Silent,
    }

    async fn from_client(network: &Network, host: usize) -> Response {
        let address = SocketAddr::from((network.address(host, Link::Clients), 1));
        match timeout(Duration::from_secs(1), TcpStream::connect(address)).await {
            Ok(error) => {
                assert_eq!(error.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
                Response::Refused
            }
            Err(_) => Response::Silent,
        }
    }

    fn from_peer(network: &Network, host: usize, peer: usize) -> Response {
        let script = format!("exec 3<>/dev/tcp/{}/1", network.address(host, Link::Peers));
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", network.namespace(peer).display()));
        let status = command.args(["timeout", "1", "bash", "-c", &script]).output().unwrap().status;
        match status.code() {
            Some(1) => Response::Refused,
            Some(124) => Response::Silent,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn cut_links_drop_packets() {
        use Response::{Refused, Silent};
        let Some(network) = Network::start(2).await else {
            println!("skipped: needs CAP_SYS_ADMIN, CAP_NET_ADMIN, ip, unshare and nsenter");
            return;
        };
        let responses =
            async || (from_client(&network, 0).await, from_client(&network, 1).await, from_peer(&network, 0, 1));
        assert_eq!(responses().await, (Refused, Refused, Refused));
        network.cut(0, Link::Peers);
        assert_eq!(responses().await, (Refused, Refused, Silent));
        network.cut(0, Link::Clients);
        assert_eq!(responses().await, (Silent, Refused, Silent));
        network.heal(0, Link::Peers);
        network.heal(0, Link::Clients);
        eventually("the links are restored", || async {
            (responses().await == (Refused, Refused, Refused)).then_some(())
        })
        .await;

        let routes = || run(&mut Command::new("ip"), "-4 route show");
        let [a, b, c] = network.prefix;
        let route = format!("{a}.{b}.{c}.0/25");
        assert!(routes().contains(&route));
        drop(network);
        // The kernel removes a namespace in the background.
        eventually("the network is removed", || async { (!routes().contains(&route)).then_some(()) }).await;
    }
}
