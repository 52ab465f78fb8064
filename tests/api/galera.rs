//! Three processes of the service on a Galera cluster of three nodes, while nodes and processes fail under load or are
//! restarted.

use std::net::SocketAddr;

use tokio::time::Instant;

use crate::{
    cases,
    clusters::{CLIENTS, check, report, settings, stop_all},
    harness::{App, BrokerKind, BrokerServer, Context, End, FeedReaders, RecordedLoad, Service},
};
use test_support::cluster::{Galera, url_on};

cases![a_galera_cluster_loses_nodes_without_losing_writes];

/// How many writes must succeed through each process during a fault, and after it.
const WRITES: usize = 20;

/// All that runs.
struct Run {
    context: Context,
    galera: Galera,
    nats: BrokerServer,
    /// Each prefers another node, so that all nodes have writers.
    services: Vec<Service>,
    apps: Vec<App>,
    load: RecordedLoad,
    readers: FeedReaders,
}

async fn a_galera_cluster_loses_nodes_without_losing_writes(context: Context) {
    let mut run = Run::start(context).await;
    // Starting a cluster takes long, so all faults are planted in one.
    run.kill_a_node().await;
    run.pause_a_node().await;
    run.cut_a_node_off().await;
    run.restart_the_nodes().await;
    run.restart_the_processes().await;
    run.end().await;
}

impl Run {
    async fn start(context: Context) -> Self {
        let Some(galera) = Galera::start().await else { panic!("no Galera found; install galera-4 and rsync") };
        let mut nats = BrokerServer::new(BrokerKind::Nats).expect("install nats-server");
        nats.start().await;
        let mut services = Vec::new();
        for process in 0..galera.nodes.len() {
            let (url, broker) = (galera.url(process), nats.url());
            let variables = settings(&url, &[("USERS_API__FEED__BROKER", &broker)]);
            services.push(Service::start(context.folder(), &variables).await);
        }
        let apps: Vec<App> = services.iter().map(|service| App::at(service.address, "")).collect();
        let addresses: Vec<SocketAddr> = apps.iter().map(|app| app.address).collect();
        let readers = FeedReaders::start(&addresses).await;
        let load = RecordedLoad::start(addresses, CLIENTS);
        load.succeed(WRITES).await;
        Self { context, galera, nats, services, apps, load, readers }
    }

    /// Cuts the readers off, waits until writes succeed through each process, and prints how long they did not.
    async fn recover(&self, fault: &str, since: Instant) {
        self.readers.cut();
        self.load.succeed(WRITES).await;
        report(fault, &self.load.answers(), since);
    }

    async fn kill_a_node(&mut self) {
        let since = Instant::now();
        self.galera.nodes[0].stop();
        self.recover("node killed", since).await;
        let pool = self.apps[0].pool().await;
        let hosts = pool["hosts"].as_array().unwrap();
        assert_eq!((hosts.len(), hosts[0]["state"].as_str()), (3, Some("down")), "{pool}");
        assert!(hosts.iter().any(|host| host["state"] == "up"), "{pool}");
        self.galera.restart(0).await;
    }

    async fn pause_a_node(&mut self) {
        let since = Instant::now();
        self.galera.nodes[1].pause();
        self.recover("node paused", since).await;
        self.galera.nodes[1].resume();
        self.galera.is_synced(1).await;
    }

    async fn cut_a_node_off(&mut self) {
        for partition in self.galera.partitions() {
            let since = Instant::now();
            self.galera.cut(2, *partition).await;
            self.recover(&format!("node cut off from {partition:?}"), since).await;
            self.galera.heal(2).await;
            self.load.succeed(WRITES).await;
        }
    }

    /// One after another: each is synced before the next one stops.
    async fn restart_the_nodes(&mut self) {
        for node in 0..self.galera.nodes.len() {
            let since = Instant::now();
            self.galera.nodes[node].stop_by(End::Orderly);
            self.galera.restart(node).await;
            self.recover(&format!("node {node} restarted"), since).await;
        }
    }

    async fn restart_the_processes(&mut self) {
        for process in 0..self.services.len() {
            let since = Instant::now();
            let address = self.services[process].address;
            self.services[process].signal("TERM").await;
            assert!(self.services[process].ended().await.success());
            let (url, broker) = (self.galera.url(process), self.nats.url());
            let variables = settings(&url, &[("USERS_API__FEED__BROKER", &broker)]);
            self.services[process] = Service::start_on(self.context.folder(), &variables, address).await;
            self.recover(&format!("process {process} restarted"), since).await;
        }
    }

    async fn end(self) {
        check(self.load, self.readers, &self.services, &url_on(&self.galera.nodes[0])).await;
        stop_all(self.services).await;
    }
}
