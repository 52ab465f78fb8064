//! Every reader of the feed gets every committed change, once and in the same order, while processes write, readers are
//! cut off, and the service and the engine crash.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::{
    cases,
    harness::{
        App, Context, DurableDatabase, EventStream, Progress, Reply, Service, connect, env_or, eventually, is_batching,
        number,
    },
};

cases![every_reader_gets_every_change_once];

const PROCESSES: usize = 3;
const WRITERS: usize = 16;
/// Changes to acknowledge: `USERS_API_TEST_CHANGES`.
const CHANGES: usize = 900;

/// What all clients share.
struct Run {
    addresses: Mutex<Vec<SocketAddr>>,
    progress: Progress,
    is_over: AtomicBool,
}

impl Run {
    fn app(&self, process: usize) -> App {
        App::at(self.addresses.lock().unwrap()[process], "")
    }
}

/// Changes its own users through all processes in turn.
async fn writer(run: Arc<Run>, number: usize) {
    let mut users: Vec<String> = Vec::new();
    for round in 0.. {
        if run.progress.is_complete() {
            return;
        }
        let app = run.app((number + round) % PROCESSES);
        let request = |method, path: &str| app.request(method, path).timeout(Duration::from_secs(20));
        let body = |part: usize| json!({"name": format!("Round {round}"), "email": format!("w{number}-{round}-{part}@example.com")});
        let user = (!users.is_empty()).then(|| users[round % users.len()].clone());
        let (reply, changes) = match (round % 6, user) {
            (0, Some(id)) if users.len() > 10 => {
                users.retain(|user| *user != id);
                (Reply::try_of(request(Method::DELETE, &format!("/users/{id}"))).await, 1)
            }
            (1 | 2, Some(id)) => {
                let change = json!({"name": format!("Round {round}")});
                (Reply::try_of(request(Method::PATCH, &format!("/users/{id}")).json(&change)).await, 1)
            }
            (3, _) => {
                let rows: String = (0..4).map(|part| format!("{}\n", body(part))).collect();
                let request = request(Method::POST, "/users/bulk?mode=upsert");
                (Reply::try_of(request.header("content-type", "application/x-ndjson").body(rows)).await, 4)
            }
            _ => {
                let mut request = request(Method::POST, "/users").json(&body(0));
                if round % 2 == 0 {
                    request = request.header("idempotency-key", format!("w{number}-{round}"));
                }
                (Reply::try_of(request).await, 1)
            }
        };
        match reply {
            Ok(reply) if reply.status == 201 => users.push(reply.json()["id"].as_str().unwrap().to_owned()),
            Ok(reply) if reply.status.is_success() => {}
            _ => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        }
        run.progress.add(changes);
    }
}

/// The position and the id of an event.
type Event = (String, String);

/// Reads the feed of a process, and connects again after a few events, as a client that stores its position.
async fn reader(run: Arc<Run>, process: usize, begin: String) -> Vec<Event> {
    let mut position = begin;
    let mut events = Vec::new();
    let mut length = process + 1;
    while !run.is_over.load(Ordering::Relaxed) {
        // Each connection is of a different length and to another process.
        length = (length * 7 + 3) % 97;
        let request = run.app((process + length) % PROCESSES).request(Method::GET, "/users/changes");
        let Ok(mut stream) = EventStream::of(request.header("last-event-id", &position)).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        for _ in 0..length {
            let next = tokio::time::timeout(Duration::from_millis(500), stream.next()).await;
            let Ok(Some(message)) = next else { break };
            assert_ne!(message.event, "resync", "{message:?}");
            if !message.data.is_empty() {
                events.push((message.id.clone(), message.json()["id"].as_str().unwrap().to_owned()));
            }
            if !message.id.is_empty() {
                position = message.id;
            }
        }
    }
    events
}

async fn every_reader_gets_every_change_once(context: Context) {
    let goal = env_or("USERS_API_TEST_CHANGES", CHANGES);
    let mut database = DurableDatabase::start(&context).await;
    let mut services = Vec::new();
    for _ in 0..PROCESSES {
        services.push(start_service(&context, &database.url).await);
    }
    let run = Arc::new(Run {
        addresses: Mutex::new(services.iter().map(|service| service.address).collect()),
        progress: Progress::new(goal),
        is_over: AtomicBool::new(false),
    });
    let begin = run.app(0).get("/users/changes?after=earliest").await.header("feed-position").to_owned();
    let readers: Vec<_> = (0..PROCESSES * 2)
        .map(|number| tokio::spawn(reader(Arc::clone(&run), number % PROCESSES, begin.clone())))
        .collect();
    let writers: Vec<_> = (0..WRITERS).map(|number| tokio::spawn(writer(Arc::clone(&run), number))).collect();
    run.progress.reached(goal / 4).await;
    services[1].signal("KILL").await;
    services[1].ended().await;
    services[1] = start_service(&context, &database.url).await;
    run.addresses.lock().unwrap()[1] = services[1].address;
    run.progress.reached(goal / 2).await;
    database.crash();
    run.progress.reached(goal).await;
    for writer in writers {
        writer.await.unwrap();
    }
    let committed = every_change_has_a_position(&run, &database.url).await;
    // Long enough for readers to connect again and read the rest.
    tokio::time::sleep(Duration::from_secs(2)).await;
    run.is_over.store(true, Ordering::Relaxed);
    assert_readers_got_all(&run, &begin, committed, readers).await;
    println!("{}: {committed} changes", context.engine().name());
    for mut service in services {
        service.signal("TERM").await;
        service.ended().await;
    }
    database.stop();
}

async fn start_service(context: &Context, url: &str) -> Service {
    let batch = is_batching().to_string();
    let variables = [
        ("DATABASE_URL", url),
        ("USERS_API__FEED__POLL", "100ms"),
        ("USERS_API__FEED__RING", "1MiB"),
        ("USERS_API__POOL__MAX", "4"),
        ("USERS_API__POOL__BATCH", batch.as_str()),
        ("RUST_LOG", "warn,users_api=info,orm_pool::connect::session=error"),
    ];
    Service::start(context.folder(), &variables).await
}

/// Waits until the feed has ordered every committed change, and returns their number.
async fn every_change_has_a_position(run: &Run, url: &str) -> i64 {
    let direct = connect(url).await;
    let committed = number(&direct, "SELECT COUNT(*) FROM users_journal").await.unwrap();
    direct.close().await.unwrap();
    let latest = || async {
        let reply = run.app(2).get("/users/changes").await;
        let position = reply.headers.get("feed-position")?.to_str().ok()?.to_owned();
        (position.split_once('.')?.1.parse() == Ok(committed)).then_some(())
    };
    eventually("every change has a position", latest).await;
    committed
}

/// Checks that the feed has every committed change, and that the readers got the same events in the same order.
async fn assert_readers_got_all(run: &Run, begin: &str, committed: i64, readers: Vec<JoinHandle<Vec<Event>>>) {
    let all = all_events(&run.app(0), begin).await;
    assert_eq!(i64::try_from(all.len()).unwrap(), committed);
    assert_versions_are_contiguous(&all);
    let all: Vec<Event> = all
        .iter()
        .map(|event| (event["position"].as_str().unwrap().to_owned(), event["id"].as_str().unwrap().to_owned()))
        .collect();
    for reader in readers {
        let events = reader.await.unwrap();
        assert_eq!(events.len(), all.len());
        assert!(events == all, "another order");
    }
}

/// Reads the whole feed.
async fn all_events(app: &App, begin: &str) -> Vec<Value> {
    let request = app.request(Method::GET, &format!("/users/changes?after={begin}"));
    let reply = Reply::of(request.header("accept", "application/x-ndjson")).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn assert_versions_are_contiguous(events: &[Value]) {
    let mut versions: HashMap<&str, i64> = HashMap::new();
    for event in events {
        let version = versions.entry(event["subject"].as_str().unwrap()).or_default();
        *version += 1;
        assert_eq!(event["data"]["version"], *version, "{event}");
    }
}
