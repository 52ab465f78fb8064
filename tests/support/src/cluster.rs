//! Databases on several servers: a Galera cluster, and a primary with a standby.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use sea_orm::{ConnectionTrait, Statement};

use crate::{
    End, Engine, Link, Network, Server, connect, eventually, eventually_within, free_port, number, program,
    server::{MARIADBD, postgres_standby},
};

const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";
const NODES: u8 = 3;
/// A node may have to copy the whole database, beside the other tests.
const JOIN_TIMEOUT: Duration = Duration::from_secs(100);

/// Three nodes of MariaDB that all accept writes, each on a separate host if network namespaces are available. They are killed
/// without a shutdown, as in a crash.
pub struct Galera {
    pub nodes: Vec<Server>,
    /// `None` if all nodes are on this host, because a privilege or a program for namespaces is missing.
    network: Option<Network>,
}

/// What a node is cut off from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partition {
    /// From the other nodes. Clients still reach it.
    Peers,
    /// From everything, like a host that has lost its power: packets are dropped. Only with a network.
    All,
}

impl Galera {
    /// Starts a cluster with an empty database `app`; `None` if a program is missing.
    pub async fn start() -> Option<Self> {
        if !Path::new(PROVIDER).exists() || [MARIADBD, "rsync"].iter().any(|name| program(name).is_none()) {
            return None;
        }
        let network = Network::start(NODES).await;
        let hosts = 0..usize::from(NODES);
        let ports: Vec<[u16; 3]> = hosts.clone().map(|_| [free_port(), free_port(), free_port()]).collect();
        let address = |node: usize| {
            network.as_ref().map_or(Ipv4Addr::LOCALHOST, |network| network.address(node, Link::Peers)).to_string()
        };
        let peers: Vec<String> = hosts.clone().map(|node| format!("{}:{}", address(node), ports[node][0])).collect();
        let nodes = hosts.map(|node| {
            let more = options(&address(node), ports[node], &peers.join(","));
            let mut server = Server::new(Engine::MariaDb, &more.iter().map(String::as_str).collect::<Vec<_>>());
            if let Some(network) = &network {
                server.enter(network.namespace(node), network.address(node, Link::Clients));
            }
            server
        });
        let mut cluster = Self { nodes: nodes.collect(), network };
        cluster.nodes[0].start_with(End::Crash, &["--wsrep-new-cluster"]);
        cluster.await_synced(0).await;
        for node in 1..cluster.nodes.len() {
            cluster.restart(node).await;
        }
        let admin = connect(cluster.nodes[0].url()).await;
        admin.execute_unprepared("CREATE DATABASE app").await.unwrap();
        admin.close().await.unwrap();
        Some(cluster)
    }

    /// The partitions that are possible: all of them with a network.
    pub fn partitions(&self) -> &'static [Partition] {
        if self.network.is_some() { &[Partition::Peers, Partition::All] } else { &[Partition::Peers] }
    }

    /// The URL of the database on all nodes, beginning with this one.
    pub fn url(&self, first: usize) -> String {
        let hosts: Vec<String> = self.addresses(first).iter().map(SocketAddr::to_string).collect();
        of_hosts(&self.nodes[first], &hosts)
    }

    /// The URL of the database through a proxy.
    pub fn url_through(&self, proxy: SocketAddr) -> String {
        of_hosts(&self.nodes[0], &[proxy.to_string()])
    }

    /// The addresses of the nodes for clients, beginning with this one.
    pub fn addresses(&self, first: usize) -> Vec<SocketAddr> {
        let address = |step| authority(&self.nodes[(first + step) % self.nodes.len()]).parse().unwrap();
        (0..self.nodes.len()).map(address).collect()
    }

    /// Starts a node that does not run, and waits until it has joined the others.
    pub async fn restart(&mut self, node: usize) {
        self.nodes[node].start(End::Crash);
        self.await_synced(node).await;
    }

    /// Waits until a node is part of the cluster and serves.
    pub async fn await_synced(&self, node: usize) {
        let url = self.nodes[node].url();
        eventually_within(JOIN_TIMEOUT, "the node is synced", || async {
            let mut options = sea_orm::ConnectOptions::new(url);
            options.max_connections(1).sqlx_logging(false).acquire_timeout(Duration::from_secs(2));
            let admin = sea_orm::Database::connect(options).await.ok()?;
            let sql = "SELECT variable_value FROM information_schema.global_status \
                       WHERE variable_name = 'WSREP_LOCAL_STATE_COMMENT'";
            let row = admin.query_one_raw(Statement::from_string(admin.get_database_backend(), sql)).await;
            let _ = admin.close().await;
            (row.ok()??.try_get_by_index::<String>(0).ok()? == "Synced").then_some(())
        })
        .await;
    }

    /// Cuts a node off.
    pub async fn cut(&self, node: usize, partition: Partition) {
        match (&self.network, partition) {
            (Some(network), Partition::Peers) => network.cut(node, Link::Peers),
            (Some(network), Partition::All) => {
                [Link::Peers, Link::Clients].iter().for_each(|link| network.cut(node, *link))
            }
            (None, _) => self.isolate(node, true).await,
        }
    }

    /// Ends the partitions of a node, and waits until it is part of the cluster again.
    pub async fn heal(&self, node: usize) {
        match &self.network {
            Some(network) => [Link::Peers, Link::Clients].iter().for_each(|link| network.heal(node, *link)),
            None => self.isolate(node, false).await,
        }
        self.await_synced(node).await;
    }

    /// Makes a node disconnect itself from the others, or connect again.
    async fn isolate(&self, node: usize, is_isolated: bool) {
        let admin = connect(self.nodes[node].url()).await;
        let sql = format!("SET GLOBAL wsrep_provider_options = 'gmcast.isolate={}'", u8::from(is_isolated));
        admin.execute_unprepared(&sql).await.unwrap();
        admin.close().await.unwrap();
    }
}

/// The arguments of a node with an address for its peers, and ports for messages, increments and a copy of the database.
fn options(address: &str, [group, incremental, state]: [u16; 3], peers: &str) -> Vec<String> {
    let provider =
        format!("gmcast.listen_addr=tcp://{address}:{group};ist.recv_addr={address}:{incremental};gcache.size=32M");
    vec![
        "--wsrep-on=ON".to_owned(),
        format!("--wsrep-provider={PROVIDER}"),
        "--wsrep-cluster-name=test".to_owned(),
        format!("--wsrep-cluster-address=gcomm://{peers}"),
        format!("--wsrep-node-address={address}:{group}"),
        format!("--wsrep-provider-options={provider}"),
        "--wsrep-sst-method=rsync".to_owned(),
        format!("--wsrep-sst-receive-address={address}:{state}"),
        // Reads and writes see what was committed on other nodes.
        "--wsrep-sync-wait=7".to_owned(),
        "--binlog-format=ROW".to_owned(),
        "--innodb-autoinc-lock-mode=2".to_owned(),
    ]
}

/// A PostgreSQL primary with a synchronous standby: a commit waits for both.
pub struct Replicated {
    pub primary: Server,
    pub standby: Server,
}

impl Replicated {
    /// Starts both, with an empty database `app`.
    pub async fn start() -> Self {
        let mut primary = Server::new(Engine::Postgres, &["-ccluster_name=primary"]);
        primary.start(End::Crash);
        primary.await_ready();
        let mut standby = postgres_standby(&primary);
        standby.start(End::Crash);
        let admin = connect(primary.url()).await;
        for sql in
            ["CREATE DATABASE app", "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"]
        {
            admin.execute_unprepared(sql).await.unwrap();
        }
        eventually("the standby is synchronous", || async {
            let sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
            (number(&admin, sql).await.unwrap() == 1).then_some(())
        })
        .await;
        admin.close().await.unwrap();
        Self { primary, standby }
    }

    /// The URL of the database on both, for writes.
    pub fn url(&self) -> String {
        of_hosts(&self.primary, &[authority(&self.primary), authority(&self.standby)])
    }

    /// Makes the standby the primary.
    pub async fn promote(&self) {
        let admin = connect(self.standby.url()).await;
        admin.execute_unprepared("SELECT pg_promote()").await.unwrap();
        admin.close().await.unwrap();
    }
}

/// Host and port of a server.
fn authority(server: &Server) -> String {
    let url = url::Url::parse(server.url()).unwrap();
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())
}

/// The URL of the database `app` on one server.
pub fn url_on(server: &Server) -> String {
    of_hosts(server, &[authority(server)])
}

/// The URL of the database `app` on these hosts.
fn of_hosts(server: &Server, hosts: &[String]) -> String {
    let url = server.url().replace(&authority(server), &hosts.join(","));
    let (base, _) = url.rsplit_once('/').unwrap();
    format!("{base}/app")
}
