//! Clients that change users through several processes and record their requests and responses, to compare them with the
//! final state.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use history::{Event, EventKind, FinalState, History, Operation, Outcome, Reader, User};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{App, Reply};

/// How many users all clients change.
const CONTENDED: usize = 4;
/// How many emails are created again and again.
const SHARED_EMAILS: usize = 8;

/// A response, or the lack of one (status 0).
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub at: Instant,
    pub process: usize,
    pub status: u16,
    pub is_write: bool,
}

/// Clients that run until they are stopped.
pub struct RecordedLoad {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

struct Shared {
    history: History,
    addresses: Vec<SocketAddr>,
    contended: Mutex<Vec<String>>,
    answers: Mutex<Vec<Answer>>,
    is_over: AtomicBool,
}

/// A client, and the users that no other client changes.
struct Client {
    shared: Arc<Shared>,
    number: usize,
    round: usize,
    /// Ids and versions; `None` after a change whose outcome is unknown.
    own: Vec<(String, Option<i64>)>,
}

impl RecordedLoad {
    /// Starts clients, each with one request at a time, to all processes in turn.
    pub fn start(addresses: Vec<SocketAddr>, clients: usize) -> Self {
        let shared = Arc::new(Shared {
            history: History::new(),
            addresses,
            contended: Mutex::default(),
            answers: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let client = |number| Client { shared: Arc::clone(&shared), number, round: 0, own: Vec::new() };
        let clients = (0..clients).map(|number| tokio::spawn(client(number).run())).collect();
        Self { shared, clients }
    }

    /// Waits for this many more successful writes through each process.
    pub async fn await_writes(&self, count: usize) {
        let (since, processes) = (Instant::now(), self.shared.addresses.len());
        // A cluster needs seconds to agree on a failure, and longer beside other tests.
        super::eventually_within(Duration::from_secs(100), "writes succeed through each process", || async {
            let answers = self.answers();
            let succeeded = |process| {
                answers.iter().filter(|it| it.process == process && it.at > since && it.is_acknowledged_write()).count()
            };
            (0..processes).all(|process| succeeded(process) >= count).then_some(())
        })
        .await;
    }

    pub fn answers(&self) -> Vec<Answer> {
        self.shared.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops the clients.
    pub async fn stop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.await.unwrap();
        }
    }

    /// Compares what the clients recorded, and what readers of the feed have read, with the final state. `app` is one of
    /// the processes.
    pub async fn check(&self, app: &App, readers: &[Reader]) -> history::Report {
        let events = events(app).await;
        let mut report = history::check(&self.shared.history, &state(app).await, &events);
        report.violations.extend(history::check_readers(&events, readers).violations);
        report
    }
}

impl Answer {
    pub fn is_acknowledged_write(&self) -> bool {
        self.is_write && (200..300).contains(&self.status)
    }
}

/// The longest time without an acknowledged write through each process since `since`.
pub fn longest_gaps(answers: &[Answer], since: Instant) -> BTreeMap<usize, Duration> {
    let mut latest: BTreeMap<usize, Instant> = BTreeMap::new();
    let mut gaps: BTreeMap<usize, Duration> = BTreeMap::new();
    for answer in answers.iter().filter(|answer| answer.at >= since && answer.is_acknowledged_write()) {
        let before = latest.insert(answer.process, answer.at).unwrap_or(since);
        let gap = gaps.entry(answer.process).or_default();
        *gap = (*gap).max(answer.at.saturating_duration_since(before));
    }
    gaps
}

/// The number of responses for each status.
pub fn statuses(answers: &[Answer]) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.status).or_insert(0) += 1;
    }
    counts
}

impl Client {
    async fn run(mut self) {
        while !self.shared.is_over.load(Ordering::Relaxed) {
            self.round += 1;
            // Mixes the kinds of operations differently for each client.
            let roll = (self.number * 37 + self.round * 61) % 100;
            let has_own = !self.own.is_empty();
            match roll {
                0..45 if has_own => self.update_own().await,
                45..65 => self.update_contended().await,
                65..73 if has_own => self.delete_own().await,
                73..80 => drop(self.send(Method::GET, "/users?limit=5", None, None).await),
                _ => self.create().await,
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends a request to the next process that accepts the connection; status 0 without a response.
    async fn send(
        &self,
        method: Method,
        path: &str,
        if_match: Option<i64>,
        body: Option<(&Value, Option<&str>)>,
    ) -> (u16, Value) {
        let addresses = &self.shared.addresses;
        let is_write = method != Method::GET;
        for attempt in 0.. {
            let process = (self.number + self.round + attempt) % addresses.len();
            let mut request = App::at(addresses[process], "").request(method.clone(), path);
            request = request.timeout(Duration::from_secs(20));
            if let Some(version) = if_match {
                request = request.header("if-match", format!("\"{version}\""));
            }
            if let Some((body, key)) = body {
                request = request.json(body);
                if let Some(key) = key {
                    request = request.header("idempotency-key", key);
                }
            }
            let reply = Reply::try_of(request).await;
            let (status, json) = match &reply {
                Ok(reply) => (reply.status.as_u16(), serde_json::from_str(&reply.text).unwrap_or(Value::Null)),
                // The process does not listen, so it has not received the request.
                Err(error) if error.is_connect() && attempt + 1 < addresses.len() => continue,
                Err(_) => (0, Value::Null),
            };
            let answer = Answer { at: Instant::now(), process, status, is_write };
            self.shared.answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
            return (status, json);
        }
        unreachable!("the last attempt returns")
    }

    async fn create(&mut self) {
        let (number, round) = (self.number, self.round);
        let email = if round % 9 == 0 {
            format!("shared{}@example.com", round % SHARED_EMAILS)
        } else {
            format!("c{number}-{round}@example.com")
        };
        let name = format!("Client {number} round {round}");
        let key = (round % 2 == 0).then(|| format!("c{number}-{round}"));
        let body = json!({"name": name, "email": email});
        // With a key, a request without a response is repeated.
        for _ in 0..if key.is_some() { 3 } else { 1 } {
            let operation = Operation::Create { name: name.clone(), email: email.clone(), key: key.clone() };
            let pending = self.shared.history.begin(operation);
            let (status, json) = self.send(Method::POST, "/users", None, Some((&body, key.as_deref()))).await;
            let outcome = outcome(status, &json, None);
            pending.end(outcome.clone());
            if let Outcome::Acknowledged { id, version, .. } = &outcome {
                let mut contended = self.shared.contended.lock().unwrap_or_else(PoisonError::into_inner);
                if contended.len() < CONTENDED && !email.starts_with("shared") {
                    contended.push(id.clone());
                } else {
                    self.own.push((id.clone(), *version));
                }
            }
            if outcome != Outcome::Unknown {
                return;
            }
            self.round += 1;
        }
    }

    async fn update_own(&mut self) {
        let at = self.round % self.own.len();
        let (id, version) = self.own[at].clone();
        let expected = version.filter(|_| !self.round.is_multiple_of(3));
        self.own[at].1 = self.update(&id, expected).await;
    }

    async fn update_contended(&mut self) {
        let id = {
            let contended = self.shared.contended.lock().unwrap_or_else(PoisonError::into_inner);
            if contended.is_empty() {
                return;
            }
            contended[self.round % contended.len()].clone()
        };
        let (status, user) = self.send(Method::GET, &format!("/users/{id}"), None, None).await;
        if status == 200 {
            self.round += 1;
            self.update(&id, user["version"].as_i64()).await;
        }
    }

    /// Changes the name. Returns the new version, if it is known.
    async fn update(&self, id: &str, expected: Option<i64>) -> Option<i64> {
        let name = format!("Changed by {} in round {}", self.number, self.round);
        let operation = Operation::Update { id: id.to_owned(), expected, name: Some(name.clone()), email: None };
        let pending = self.shared.history.begin(operation);
        let body = json!({"name": name});
        let (status, json) = self.send(Method::PATCH, &format!("/users/{id}"), expected, Some((&body, None))).await;
        pending.end(outcome(status, &json, None));
        json["version"].as_i64().filter(|_| status == 200)
    }

    async fn delete_own(&mut self) {
        let (id, version) = self.own.swap_remove(self.round % self.own.len());
        let expected = version.filter(|_| self.round.is_multiple_of(2));
        let pending = self.shared.history.begin(Operation::Delete { id: id.clone(), expected });
        let (status, json) = self.send(Method::DELETE, &format!("/users/{id}"), expected, None).await;
        pending.end(outcome(status, &json, Some(&id)));
    }
}

/// The outcome of a change; `id` for a response without a user.
fn outcome(status: u16, json: &Value, id: Option<&str>) -> Outcome {
    match status {
        0 => Outcome::Unknown,
        200..300 => Outcome::Acknowledged {
            status,
            id: json["id"]
                .as_str()
                .or(id)
                .unwrap_or_else(|| panic!("no user in a response: {status} {json}"))
                .to_owned(),
            version: json["version"].as_i64(),
        },
        _ => Outcome::of_failure(status, json["code"].as_str().unwrap_or_default()),
    }
}

/// All users.
async fn state(app: &App) -> FinalState {
    let reply = Reply::of(app.request(Method::GET, "/users/export").header("accept", "application/x-ndjson")).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let text = |user: &Value, member: &str| user[member].as_str().unwrap().to_owned();
    let user = |line: &str| {
        let user: Value = serde_json::from_str(line).unwrap();
        User {
            id: text(&user, "id"),
            name: text(&user, "name"),
            email: text(&user, "email"),
            version: user["version"].as_i64().unwrap(),
        }
    };
    FinalState(reply.text.lines().map(user).collect())
}

/// The whole feed.
async fn events(app: &App) -> Vec<Event> {
    let request = app.request(Method::GET, "/users/changes?after=earliest");
    let reply = Reply::of(request.header("accept", "application/x-ndjson")).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.text.lines().map(|line| parse_event(&serde_json::from_str(line).unwrap())).collect()
}

/// An event of the feed.
pub fn parse_event(event: &Value) -> Event {
    let (_, position) = event["position"].as_str().unwrap().split_once('.').unwrap();
    let value = |member: &str| event["data"][member].as_str().map(str::to_owned);
    Event {
        position: position.parse().unwrap(),
        kind: EventKind::parse(event["type"].as_str().unwrap()).unwrap(),
        id: event["subject"].as_str().unwrap().to_owned(),
        version: event["data"]["version"].as_i64().unwrap(),
        name: value("name"),
        email: value("email"),
    }
}
