//! A process that uses a server of a NATS cluster, which fails.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

use crate::{
    auth::migrated,
    cases,
    feed_brokers::{POLL, doorbell, warnings},
    harness::{App, BrokerServer, Context, Service, Socket, eventually},
};

cases![a_process_fails_over_from_killed_servers, a_process_fails_over_from_silent_servers];

/// Only the last server is left after the faults.
const SERVERS: usize = 3;

async fn a_process_fails_over_from_killed_servers(context: Context) {
    fails_over(context, BrokerServer::kill).await;
}

async fn a_process_fails_over_from_silent_servers(context: Context) {
    fails_over(context, |server| server.pause()).await;
}

async fn fails_over(context: Context, mut fault: impl FnMut(&mut BrokerServer)) {
    let mut servers = BrokerServer::nats_cluster(SERVERS).expect("install nats-server");
    let database = migrated(&context).await;
    let start = async |broker: &str| {
        let variables =
            [("DATABASE_URL", &*database), ("USERS_API__FEED__BROKER", broker), ("USERS_API__FEED__POLL", POLL)];
        let service = Service::start(context.folder(), &variables).await;
        let app = App::at(service.address, &database);
        connected(&app).await;
        (service, app)
    };
    // The reader connects while the first server is the only one, so it is the server in use.
    servers[0].start().await;
    let list = BrokerServer::cluster_url(&servers, 0);
    let (service, reader) = start(&list.replace(",nats://ann:p%40ss@", ",")).await;
    for server in &mut servers[1..] {
        server.start().await;
    }
    let (_writer_service, writer) = start(&servers[SERVERS - 1].url()).await;
    notified(&writer, &reader).await;

    let reports = warnings(&service);
    let (mut socket, _) = Socket::subscribe(reader.address, &json!({})).await;
    // First the one that would be next, then the one in use.
    fault(&mut servers[1]);
    fault(&mut servers[0]);
    eventually("the outage is reported", || async { (warnings(&service) > reports).then_some(()) }).await;
    connected(&reader).await;
    // A silent socket ends before the next poll.
    writer.create("Ann", "ann@example.com").await;
    while socket.events(1).await[0]["data"]["email"] != "ann@example.com" {}
}

async fn connected(app: &App) {
    eventually("connected", || async { (doorbell(app).await["connected"] == true).then_some(()) }).await;
}

/// Waits until the servers pass notifications of the writer on to the reader.
async fn notified(writer: &App, reader: &App) {
    let rings = async || doorbell(reader).await["rings"].as_u64().unwrap();
    let before = rings().await;
    let count = AtomicU32::new(0);
    eventually("the servers form a cluster", || async {
        let number = count.fetch_add(1, Ordering::Relaxed);
        writer.create("Ann", &format!("ann{number}@example.com")).await;
        (rings().await > before).then_some(())
    })
    .await;
}
