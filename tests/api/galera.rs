//! Three processes of the service on a Galera cluster of three nodes, under load, while brokers and nodes are killed,
//! paused, cut off or restarted, and processes are restarted. Two processes choose the node themselves; the third one
//! connects through HAProxy.

use std::{net::SocketAddr, ops::Range};

use sea_orm::ConnectionTrait;
use tokio::time::Instant;

use crate::{
    cases,
    clusters::{CLIENTS, check, print_gaps, settings, stop_all},
    harness::{
        Answer, App, BrokerServer, Context, End, FeedReaders, RecordedLoad, ReverseProxy, Service, connect, eventually,
        statuses,
    },
};
use test_support::cluster::{Galera, url_on};

cases![a_galera_cluster_loses_nodes_without_losing_writes];

/// How many writes must succeed through each process during or after a fault.
const WRITES: usize = 20;
const PROCESSES: usize = 3;
/// The node that HAProxy, and so the last process, prefers.
const HAPROXY_NODE: usize = PROCESSES - 1;
const BROKER: &str = "USERS_API__FEED__BROKER";

/// The cluster, the processes and their clients.
struct Run {
    context: Context,
    galera: Galera,
    /// The NATS cluster that carries notifications of new events (doorbell). Each process prefers a different server.
    nats: Vec<BrokerServer>,
    /// HAProxy, between the last process and the nodes.
    _proxy: ReverseProxy,
    /// URLs of the database. Each process prefers a different node, so that all nodes have writers.
    urls: Vec<String>,
    services: Vec<Service>,
    apps: Vec<App>,
    load: RecordedLoad,
    readers: FeedReaders,
}

async fn a_galera_cluster_loses_nodes_without_losing_writes(context: Context) {
    let mut run = Run::start(context).await;
    // Starting a cluster takes long, so all faults are injected into one.
    run.kill_a_broker().await;
    run.kill_two_nodes().await;
    run.pause_a_node().await;
    run.cut_a_node_off().await;
    run.restart_the_nodes().await;
    run.restart_the_processes().await;
    run.verify_and_stop().await;
}

impl Run {
    async fn start(context: Context) -> Self {
        let Some(galera) = Galera::start().await else { panic!("no Galera found; install galera-4 and rsync") };
        let mut nats = BrokerServer::nats_cluster(PROCESSES).expect("install nats-server");
        for server in &mut nats {
            server.start().await;
        }
        let admin = connect(galera.nodes[0].url()).await;
        admin.execute_unprepared(include_str!("../../deploy/compose/galera.sql")).await.unwrap();
        admin.close().await.unwrap();
        let proxy = ReverseProxy::haproxy_for_galera(&galera.addresses(HAPROXY_NODE)).await;
        let urls = vec![galera.url(0), galera.url(1), galera.url_through(proxy.address)];
        let mut services = Vec::new();
        for (process, url) in urls.iter().enumerate() {
            let broker = BrokerServer::cluster_url(&nats, process);
            services.push(Service::start(context.folder(), &settings(url, &[(BROKER, &broker)])).await);
        }
        let apps: Vec<App> = services.iter().map(|service| App::at(service.address, "")).collect();
        let addresses: Vec<SocketAddr> = apps.iter().map(|app| app.address).collect();
        let readers = FeedReaders::start(&addresses).await;
        let load = RecordedLoad::start(addresses, CLIENTS);
        load.await_writes(WRITES).await;
        Self { context, galera, nats, _proxy: proxy, urls, services, apps, load, readers }
    }

    /// Waits until these processes are notified of each other's events.
    async fn await_notifications(&self, processes: Range<usize>) {
        for app in &self.apps[processes] {
            let rings = || async { app.get("/feed").await.json()["doorbell"]["rings"].as_u64().unwrap() };
            let before = rings().await;
            // Subscribing counts as one ring.
            eventually("the doorbell rings", || async { (rings().await > before + 1).then_some(()) }).await;
        }
    }

    /// No request fails, and the process that used the server receives notifications through another one.
    async fn kill_a_broker(&mut self) {
        self.await_notifications(0..PROCESSES).await;
        let (since, app) = (Instant::now(), self.apps[0].clone());
        let is_connected = || async { app.get("/feed").await.json()["doorbell"]["connected"].as_bool() };
        self.nats[0].kill();
        self.services[0].logged("cannot listen for events of other processes; they arrive with the next poll").await;
        self.await_notifications(1..PROCESSES).await;
        eventually("the process is connected again", || async { is_connected().await?.then_some(()) }).await;
        self.await_notifications(0..PROCESSES).await;
        self.await_recovery("NATS server killed", since).await;
        self.nats[0].start().await;
        let answers: Vec<Answer> = self.load.answers().into_iter().filter(|answer| answer.at > since).collect();
        assert!(answers.iter().all(|answer| (200..500).contains(&answer.status)), "{:?}", statuses(&answers));
    }

    /// Cuts the readers off, waits until writes succeed through each process, and prints the longest gap between
    /// successful writes.
    async fn await_recovery(&self, fault: &str, since: Instant) {
        self.readers.cut();
        self.load.await_writes(WRITES).await;
        print_gaps(fault, &self.load.answers(), since);
    }

    /// Kills the node that the first process prefers, then the one that HAProxy uses.
    async fn kill_two_nodes(&mut self) {
        for node in [0, HAPROXY_NODE] {
            let since = Instant::now();
            self.galera.nodes[node].stop();
            self.await_recovery(&format!("node {node} killed"), since).await;
            if node == 0 {
                let pool = self.apps[0].pool().await;
                let hosts = pool["hosts"].as_array().unwrap();
                assert_eq!((hosts.len(), hosts[0]["state"].as_str()), (3, Some("down")), "{pool}");
                assert!(hosts.iter().any(|host| host["state"] == "up"), "{pool}");
            }
            self.galera.restart(node).await;
        }
    }

    async fn pause_a_node(&mut self) {
        let since = Instant::now();
        self.galera.nodes[1].pause();
        self.await_recovery("node paused", since).await;
        self.galera.nodes[1].resume();
        self.galera.await_synced(1).await;
    }

    async fn cut_a_node_off(&mut self) {
        for partition in self.galera.partitions() {
            let since = Instant::now();
            self.galera.cut(HAPROXY_NODE, *partition).await;
            self.await_recovery(&format!("node cut off from {partition:?}"), since).await;
            self.galera.heal(HAPROXY_NODE).await;
            self.load.await_writes(WRITES).await;
        }
    }

    /// One after another: each is synced before the next one stops.
    async fn restart_the_nodes(&mut self) {
        for node in 0..self.galera.nodes.len() {
            let since = Instant::now();
            self.galera.nodes[node].stop_by(End::Orderly);
            self.galera.restart(node).await;
            self.await_recovery(&format!("node {node} restarted"), since).await;
        }
    }

    async fn restart_the_processes(&mut self) {
        for process in 0..self.services.len() {
            let since = Instant::now();
            let address = self.services[process].address;
            self.services[process].signal("TERM").await;
            assert!(self.services[process].ended().await.success());
            let broker = BrokerServer::cluster_url(&self.nats, process);
            let variables = settings(&self.urls[process], &[(BROKER, &broker)]);
            self.services[process] = Service::start_on(self.context.folder(), &variables, address).await;
            self.await_recovery(&format!("process {process} restarted"), since).await;
        }
    }

    async fn verify_and_stop(self) {
        check(self.load, self.readers, &self.services, &url_on(&self.galera.nodes[0])).await;
        stop_all(self.services).await;
    }
}
