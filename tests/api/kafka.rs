//! Kafka, as a broker between processes and as the target of the export. The broker is Tansu, which forgets its records when it
//! ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
    time::Duration,
};

use krafka::{
    Kafka,
    consumer::{AutoOffsetReset, Consumer},
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{
    auth::migrated,
    cases,
    feed::latest,
    feed_brokers::{a_killed_broker_costs_latency_only, a_silent_broker_is_noticed, saves_the_poll},
    harness::{App, BrokerKind, BrokerServer, Context, Engine, Service, binary, connect, eventually, number},
};

cases![
    it_saves_the_poll,
    a_killed_broker,
    a_silent_broker,
    every_change_is_exported_by_one_of_two_processes,
    another_process_continues_an_export,
    an_export_waits_for_its_broker,
    a_stopped_export_continues,
    credentials_are_not_shown,
];

async fn it_saves_the_poll(context: Context) {
    saves_the_poll(context, BrokerKind::Kafka).await;
}

async fn a_killed_broker(context: Context) {
    a_killed_broker_costs_latency_only(context, BrokerKind::Kafka).await;
}

async fn a_silent_broker(context: Context) {
    a_silent_broker_is_noticed(context, BrokerKind::Kafka).await;
}

/// A topic, read from its beginning.
struct Topic {
    broker: BrokerServer,
    consumer: Consumer,
    /// Key, content type and event of each record.
    records: Vec<(String, String, Value)>,
}

impl Topic {
    const NAME: &str = "people";
    /// Tansu creates a topic with so many.
    const PARTITIONS: i32 = 4;

    async fn start() -> Self {
        let mut broker = BrokerServer::new(BrokerKind::Kafka).expect("Tansu is not installed");
        broker.start().await;
        let address = broker.url().replace("kafka://", "");
        let kafka = Kafka::builder(address).allow_auto_create_topics(true).connect().await.unwrap();
        let consumer = kafka.consumer_without_group().auto_offset_reset(AutoOffsetReset::Earliest);
        let consumer = consumer.build().await.unwrap();
        consumer.assign(Self::NAME, (0..Self::PARTITIONS).collect()).await.unwrap();
        Self { broker, consumer, records: Vec::new() }
    }

    fn url(&self) -> String {
        format!("{}/{}", self.broker.url(), Self::NAME)
    }

    /// Reads until there are so many different events.
    async fn read_until(&mut self, count: usize) {
        while self.ids().len() < count {
            self.read().await;
        }
    }

    /// Reads until there are so many records.
    async fn read_records(&mut self, count: usize) {
        while self.records.len() < count {
            self.read().await;
        }
    }

    async fn read(&mut self) {
        for record in self.consumer.poll(Duration::from_millis(200)).await.unwrap() {
            let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap();
            let event = serde_json::from_str(&text(record.value.as_deref())).unwrap();
            let (_, content_type) = record.headers.iter().find(|(name, _)| name == "content-type").unwrap();
            self.records.push((text(record.key.as_deref()), text(content_type.as_deref()), event));
        }
    }

    fn ids(&self) -> BTreeSet<&str> {
        self.records.iter().map(|(.., event)| event["id"].as_str().unwrap()).collect()
    }

    /// Checks that the versions of each user begin with 1 and have no gap, without repeated events.
    fn check_versions(&self) {
        let mut versions: BTreeMap<&str, u64> = BTreeMap::new();
        for (key, content_type, event) in &self.records {
            assert_eq!(
                (key.as_str(), content_type.as_str()),
                (event["subject"].as_str().unwrap(), "application/cloudevents+json; charset=UTF-8")
            );
            let (known, version) = (versions.entry(key).or_default(), event["data"]["version"].as_u64().unwrap());
            assert!(version <= *known + 1, "{key}: {version} after {known}");
            *known = version.max(*known);
        }
    }
}

/// Starts a service that exports to a topic.
async fn exporting(context: &Context, url: &str, topic: &str) -> (Service, App) {
    let variables = [("DATABASE_URL", url), ("USERS_API__FEED__EXPORT", topic)];
    let service = Service::start(context.folder(), &variables).await;
    let app = App::at(service.address, url);
    (service, app)
}

/// Starts a broker, and a service that exports to it. Returns the topic, the database, and the service.
async fn begin(context: &Context) -> (Topic, String, Service, App) {
    let topic = Topic::start().await;
    let url = migrated(context).await;
    let (service, app) = exporting(context, &url, &topic.url()).await;
    until_active(&app).await;
    (topic, url, service, app)
}

async fn export_of(app: &App) -> Value {
    app.get("/feed").await.json()["export"].clone()
}

async fn until_active(app: &App) {
    eventually("it exports", || async { (export_of(app).await["active"] == true).then_some(()) }).await;
}

/// Creates users, changes each of them, and deletes every third one. Returns the number of events.
async fn change(app: &App, name: &str, count: usize) -> usize {
    let mut events = 0;
    for number in 0..count {
        let user = app.create("Ann", &format!("{name}{number}@example.com")).await;
        let path = format!("/users/{}", user["id"].as_str().unwrap());
        assert_eq!(app.patch(&path, &serde_json::json!({"name": "Ann B"})).await.status, 200);
        events += 2;
        if number % 3 == 0 {
            assert_eq!(app.delete(&path).await.status, 204);
            events += 1;
        }
    }
    events
}

async fn every_change_is_exported_by_one_of_two_processes(context: Context) {
    let (mut topic, url, _first, writer) = begin(&context).await;
    let (_second, other) = exporting(&context, &url, &topic.url()).await;
    let events = change(&writer, "a", 30).await + change(&other, "b", 30).await;
    topic.read_until(events).await;
    assert_eq!(topic.records.len(), events, "no event is exported twice");
    topic.check_versions();
    eventually("all are acknowledged", || async { (export_of(&writer).await["lag"] == 0).then_some(()) }).await;
    let (here, there) = (export_of(&writer).await, export_of(&other).await);
    assert_eq!(here["position"], writer.get("/feed").await.json()["position"]);
    assert_eq!((&here["active"], &there["active"]), (&true.into(), &false.into()));
    let metrics = writer.get("/metrics").await.text;
    assert!(metrics.contains(&format!("feed_exported_total {events}\n")), "{metrics}");
}

/// As after a crash and after an orderly stop.
async fn another_process_continues_an_export(context: Context) {
    let (mut topic, url, first, _) = begin(&context).await;
    let (second, other) = exporting(&context, &url, &topic.url()).await;
    let mut events = change(&other, "a", 10).await;
    first.signal("KILL").await;
    events += change(&other, "b", 10).await;
    until_active(&other).await;
    topic.read_until(events).await;
    let (_third, last) = exporting(&context, &url, &topic.url()).await;
    second.signal("TERM").await;
    events += change(&last, "c", 10).await;
    until_active(&last).await;
    topic.read_until(events).await;
    topic.check_versions();
}

async fn an_export_waits_for_its_broker(context: Context) {
    let (mut topic, url, service, app) = begin(&context).await;
    let mut events = change(&app, "a", 10).await;
    topic.read_until(events).await;
    topic.broker.pause();
    events += change(&app, "b", 10).await;
    topic.broker.resume();
    topic.read_until(events).await;
    topic.check_versions();
    // A broker that is unreachable when the service starts, or that ends, delays the export only.
    topic.broker.kill();
    let (late, _) = exporting(&context, &url, &topic.url()).await;
    service.signal("KILL").await;
    late.logged("cannot export the feed; retrying").await;
    let app = App::at(late.address, &url);
    change(&app, "c", 1).await;
    topic.broker.start().await;
    until_active(&app).await;
    eventually("it is exported", || async { (export_of(&app).await["lag"] == 0).then_some(()) }).await;
}

/// Starts `feed export`, and waits until it exports.
async fn export(context: &Context, url: &str, arguments: &[&str]) -> Child {
    let mut command = binary(context.folder(), &[("DATABASE_URL", url)]);
    command.args(["feed", "export", "--to"]).args(arguments).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
    while !lines.next_line().await.unwrap().expect("it exports").contains("exporting the feed") {}
    child
}

async fn stop(mut child: Child) {
    let kill = format!("kill -INT {}", child.id().unwrap());
    assert!(Command::new("/bin/sh").arg("-c").arg(kill).status().await.unwrap().success());
    assert_eq!(child.wait().await.unwrap().code(), Some(4));
}

async fn a_stopped_export_continues(context: Context) {
    let mut topic = Topic::start().await;
    let (app, address) = (context.app().await, topic.url());
    let first = export(&context, &app.url, &[&address]).await;
    let mut events = change(&app, "a", 10).await;
    topic.read_until(events).await;
    // The position is stored after the events were acknowledged.
    let (database, end) = (connect(&app.url).await, latest(&app).await);
    let stored = format!("SELECT COUNT(*) FROM users_exports WHERE exported = '{end}'");
    let is_stored = || async { (number(&database, &stored).await.unwrap() == 1).then_some(()) };
    eventually("the position is stored", is_stored).await;
    stop(first).await;
    events += change(&app, "b", 10).await;
    let second = export(&context, &app.url, &[&address]).await;
    topic.read_until(events).await;
    assert_eq!(topic.records.len(), events, "it continues where the first one ended");
    stop(second).await;
    // The same name has the same position, whatever the topic.
    let elsewhere = address.replace(Topic::NAME, "elsewhere");
    let third = export(&context, &app.url, &[&elsewhere, "--name", Topic::NAME]).await;
    stop(third).await;
    let again = export(&context, &app.url, &[&address, "--after", "earliest"]).await;
    topic.read_records(2 * events).await;
    stop(again).await;
}

async fn credentials_are_not_shown(context: Context) {
    if context.engine() != Engine::Sqlite {
        return;
    }
    let target = "kafka://ann:my-secret@127.0.0.1:1/people?sasl=plain";
    let variables = [("USERS_API__FEED__EXPORT", target), ("USERS_API__FEED__BROKER", target), ("RUST_LOG", "trace")];
    let service = Service::start(context.folder(), &variables).await;
    service.logged("cannot export the feed; retrying").await;
    service.logged("cannot listen for events of other processes; they arrive with the next poll").await;
    let feed = App::at(service.address, "").get("/feed").await.text;
    let printed = binary(context.folder(), &variables).arg("config").output().await.unwrap().stdout;
    for text in [feed, String::from_utf8(printed).unwrap()] {
        assert!(text.contains("kafka://127.0.0.1:1/people") && !text.contains("my-secret"), "{text}");
    }
    assert!(!serde_json::json!(service.log()).to_string().contains("my-secret"));
    for invalid in ["nats://ann:my-secret@localhost", "kafka://ann:my-secret@localhost/a/b", "kafka"] {
        let variables = [("USERS_API__FEED__EXPORT", invalid)];
        let output = binary(context.folder(), &variables).arg("config").output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && text.contains("FEED__EXPORT"), "{text}");
        assert!(!text.contains("my-secret"), "{text}");
    }
}
