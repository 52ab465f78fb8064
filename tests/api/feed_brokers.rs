//! Brokers between processes: NATS and Redis, while they work and while they fail.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    auth::migrated,
    cases,
    harness::{App, BrokerKind, BrokerServer, Context, Service, Socket, binary, eventually},
};

cases![
    nats_saves_the_poll,
    redis_saves_the_poll,
    a_killed_nats_costs_latency_only,
    a_killed_redis_costs_latency_only,
    a_silent_nats_is_noticed,
    a_silent_redis_is_noticed,
    credentials_are_not_shown,
    invalid_brokers_are_refused,
];

/// Without a broker, events of another process would arrive after a minute.
pub(crate) const POLL: &str = "1m";

/// Two processes that use a broker.
struct Pair {
    broker: BrokerServer,
    writer: Service,
    reader: Service,
    apps: [App; 2],
}

impl Pair {
    async fn start(context: &Context, kind: BrokerKind, poll: &str) -> Self {
        let mut broker = BrokerServer::new(kind).unwrap_or_else(|| panic!("{kind:?} is not installed"));
        broker.start().await;
        let url = migrated(context).await;
        let address = broker.url();
        let variables =
            [("DATABASE_URL", &*url), ("USERS_API__FEED__BROKER", &address), ("USERS_API__FEED__POLL", poll)];
        let writer = Service::start(context.folder(), &variables).await;
        let reader = Service::start(context.folder(), &variables).await;
        let apps = [App::at(writer.address, &url), App::at(reader.address, &url)];
        let pair = Self { broker, writer, reader, apps };
        pair.until("connected", true).await;
        pair
    }

    fn writer(&self) -> &App {
        &self.apps[0]
    }

    fn reader(&self) -> &App {
        &self.apps[1]
    }

    /// Waits until both processes report whether they are connected.
    async fn until(&self, what: &str, is_connected: bool) {
        for app in &self.apps {
            eventually(what, || async { (doorbell(app).await["connected"] == is_connected).then_some(()) }).await;
        }
    }

    /// Creates a user on one process, and waits for its event on the other.
    async fn event_after(&self, socket: &mut Socket, email: &str) -> Duration {
        let created = Instant::now();
        self.writer().create("Ann", email).await;
        assert_eq!(socket.events(1).await[0]["data"]["email"], email);
        created.elapsed()
    }
}

/// How often an outage was reported.
pub(crate) fn warnings(service: &Service) -> usize {
    let is_warning = |line: &&Value| line["message"].as_str().is_some_and(|text| text.starts_with("cannot listen for"));
    service.log().iter().filter(is_warning).count()
}

pub(crate) async fn doorbell(app: &App) -> Value {
    app.get("/feed").await.json()["doorbell"].clone()
}

pub(crate) async fn saves_the_poll(context: Context, kind: BrokerKind) {
    let pair = Pair::start(&context, kind, POLL).await;
    assert_eq!(doorbell(pair.reader()).await["broker"], kind.name());
    let (mut socket, _) = Socket::subscribe(pair.reader().address, &json!({})).await;
    for number in 0..20 {
        // The limit of a silent socket is shorter than the poll.
        pair.event_after(&mut socket, &format!("ann{number}@example.com")).await;
    }
    // A process ignores its own notifications. On SQLite the reader reports what it has found, sometimes late.
    let mut received = Vec::new();
    for number in 0..5 {
        let before = doorbell(pair.writer()).await["rings"].as_u64().unwrap();
        pair.event_after(&mut socket, &format!("last{number}@example.com")).await;
        received.push(doorbell(pair.writer()).await["rings"].as_u64().unwrap() - before);
    }
    assert!(received.iter().any(|count| *count <= 1), "{received:?}");
    assert!(doorbell(pair.reader()).await["rings"].as_u64().unwrap() > 5);
}

async fn nats_saves_the_poll(context: Context) {
    saves_the_poll(context, BrokerKind::Nats).await;
}

async fn redis_saves_the_poll(context: Context) {
    saves_the_poll(context, BrokerKind::Redis).await;
}

pub(crate) async fn a_killed_broker_costs_latency_only(context: Context, kind: BrokerKind) {
    let mut pair = Pair::start(&context, kind, "500ms").await;
    let (mut socket, _) = Socket::subscribe(pair.reader().address, &json!({})).await;
    for round in 0..3 {
        pair.event_after(&mut socket, &format!("before{round}@example.com")).await;
        pair.broker.kill();
        pair.until("disconnected", false).await;
        // By the poll.
        pair.event_after(&mut socket, &format!("during{round}@example.com")).await;
        pair.broker.start().await;
        pair.until("connected again", true).await;
        pair.event_after(&mut socket, &format!("after{round}@example.com")).await;
    }
    for service in [&pair.writer, &pair.reader] {
        let count = warnings(service);
        assert!((1..=4).contains(&count), "an outage is reported once: {count}");
    }
}

async fn a_killed_nats_costs_latency_only(context: Context) {
    a_killed_broker_costs_latency_only(context, BrokerKind::Nats).await;
}

async fn a_killed_redis_costs_latency_only(context: Context) {
    a_killed_broker_costs_latency_only(context, BrokerKind::Redis).await;
}

pub(crate) async fn a_silent_broker_is_noticed(context: Context, kind: BrokerKind) {
    let pair = Pair::start(&context, kind, "500ms").await;
    let (mut socket, _) = Socket::subscribe(pair.reader().address, &json!({})).await;
    pair.broker.pause();
    pair.until("disconnected", false).await;
    pair.event_after(&mut socket, "during@example.com").await;
    pair.broker.resume();
    pair.until("connected again", true).await;
    pair.event_after(&mut socket, "after@example.com").await;
}

async fn a_silent_nats_is_noticed(context: Context) {
    a_silent_broker_is_noticed(context, BrokerKind::Nats).await;
}

async fn a_silent_redis_is_noticed(context: Context) {
    a_silent_broker_is_noticed(context, BrokerKind::Redis).await;
}

async fn credentials_are_not_shown(context: Context) {
    for (kind, is_list) in [(BrokerKind::Nats, false), (BrokerKind::Nats, true), (BrokerKind::Redis, false)] {
        let mut broker = BrokerServer::new(kind).unwrap();
        broker.start().await;
        let mut wrong = broker.url().replace("p%40ss", "wrong-secret");
        if is_list {
            wrong += ",nats://ann:wrong-secret@127.0.0.1:1";
        }
        let variables = [("USERS_API__FEED__BROKER", &*wrong), ("RUST_LOG", "trace")];
        // The service starts without its broker.
        let service = Service::start(context.folder(), &variables).await;
        service.logged("cannot listen for events of other processes; they arrive with the next poll").await;
        let app = App::at(service.address, "");
        assert_eq!(doorbell(&app).await["connected"], false);
        app.create("Ann", &format!("{}-{is_list}@example.com", kind.name())).await;
        let printed = binary(context.folder(), &variables).arg("config").output().await.unwrap().stdout;
        let feed = app.get("/feed").await.text;
        for text in [json!(service.log()).to_string(), String::from_utf8(printed).unwrap(), feed] {
            assert!(!text.contains("wrong-secret"), "{text}");
        }
    }
}

async fn invalid_brokers_are_refused(context: Context) {
    for (invalid, why) in [
        ("kafka://localhost/a/b", ""),
        ("nats://ann:my-secret@localhost/subject", ""),
        ("nats://ann:my-secret@localhost,localhost:my-secret", "server 2"),
        ("redis://ann:my-secret@localhost/x", ""),
        ("nats", ""),
    ] {
        let output =
            binary(context.folder(), &[("USERS_API__FEED__BROKER", invalid)]).arg("config").output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && text.contains("FEED__BROKER"), "{text}");
        assert!(text.contains(why), "{text}");
        assert!(!text.contains("my-secret"), "{text}");
    }
}
