//! After crashes of the service and the database, the journal contains every acknowledged change with its author, and no
//! change that did not happen.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use reqwest::{Method, RequestBuilder};
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    auth::{id_of, key},
    cases,
    harness::{App, Context, DurableDatabase, Progress, Reply, Service, connect, env_or, is_batching},
};

cases![the_journal_has_exactly_the_acknowledged_changes];

/// Clients, each with an API key.
const CLIENTS: usize = 12;
/// Changes to acknowledge: `USERS_API_TEST_CHANGES`.
const CHANGES: usize = 900;

/// A change that a client has sent.
#[derive(Clone, Debug)]
struct Sent {
    actor: String,
    /// The users and versions that the response reports; `None` without a successful response.
    acknowledged: Option<Vec<Acknowledged>>,
}

/// `version` is `None` if the response does not report it.
#[derive(Clone, Debug)]
struct Acknowledged {
    user: Uuid,
    version: Option<i64>,
    action: &'static str,
}

/// What all clients share.
struct Run {
    address: Mutex<SocketAddr>,
    sent: Mutex<HashMap<String, Sent>>,
    progress: Progress,
}

impl Run {
    fn app(&self) -> App {
        App::at(*self.address.lock().unwrap(), "")
    }
}

/// A client that changes its own users, one request at a time.
struct Client {
    run: Arc<Run>,
    number: usize,
    key: String,
    /// Its users and their versions.
    users: Vec<(Uuid, i64)>,
}

/// What a request does.
#[derive(Clone, Copy, Debug)]
enum Change {
    Create,
    Replace(Uuid),
    Patch(Uuid),
    Delete(Uuid, i64),
    /// Creates and updates users in one request.
    Import,
}

impl Change {
    /// The existing user that it changes.
    fn user(self) -> Option<Uuid> {
        match self {
            Self::Replace(user) | Self::Patch(user) | Self::Delete(user, _) => Some(user),
            Self::Create | Self::Import => None,
        }
    }
}

impl Client {
    async fn run(mut self) {
        let actor = format!("key:{}", id_of(&self.key));
        for round in 0.. {
            if self.run.progress.is_complete() {
                return;
            }
            let request_id = format!("client{}-{round}", self.number);
            let sent = Sent { actor: actor.clone(), acknowledged: None };
            self.run.sent.lock().unwrap().insert(request_id.clone(), sent);
            let change = self.choose(round);
            let Ok(reply) = Reply::try_of(self.request(change, round, &request_id)).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            if !reply.status.is_success() {
                self.failed(change, &reply).await;
                continue;
            }
            let acknowledged = acknowledged(change, &reply);
            self.remember(&acknowledged);
            self.run.progress.add(acknowledged.len());
            self.run.sent.lock().unwrap().get_mut(&request_id).unwrap().acknowledged = Some(acknowledged);
        }
    }

    fn choose(&self, round: usize) -> Change {
        let target = self.users.get(round % self.users.len().max(1)).copied();
        match (round % 7, target) {
            (0, Some((id, version))) if self.users.len() > 20 => Change::Delete(id, version),
            (1, Some((id, _))) => Change::Replace(id),
            (2 | 3, Some((id, _))) => Change::Patch(id),
            (4, _) => Change::Import,
            _ => Change::Create,
        }
    }

    /// The request for a change. Every other one has a condition or an idempotency key, if possible.
    fn request(&self, change: Change, round: usize, request_id: &str) -> RequestBuilder {
        let app = self.run.app();
        let request = |method, path: &str| {
            let request = app.request(method, path).bearer_auth(&self.key).header("x-request-id", request_id);
            request.timeout(Duration::from_secs(20))
        };
        let name = format!("Round {round}");
        let email = |part: usize| format!("user{}-{round}-{part}@example.com", self.number);
        let path = |id: Uuid| format!("/users/{id}");
        let is_guarded = round.is_multiple_of(2);
        match change {
            Change::Create => {
                let mut request = request(Method::POST, "/users");
                if is_guarded {
                    request = request.header("idempotency-key", request_id);
                }
                request.json(&json!({"name": name, "email": email(0)}))
            }
            Change::Replace(id) => request(Method::PUT, &path(id)).json(&json!({"name": name, "email": email(0)})),
            Change::Patch(id) => request(Method::PATCH, &path(id)).json(&json!({"name": name})),
            Change::Delete(id, version) => {
                let mut request = request(Method::DELETE, &path(id));
                if is_guarded {
                    request = request.header("if-match", format!("\"{version}\""));
                }
                request
            }
            Change::Import => {
                // The first row updates a user of this client, the others create one.
                let first = format!("bulk{}@example.com", self.number);
                let emails = std::iter::once(first).chain((1..5).map(email));
                let rows: String = emails.map(|email| format!("{}\n", json!({"name": name, "email": email}))).collect();
                let request = request(Method::POST, "/users/bulk?mode=upsert&report=all");
                request.header("content-type", "application/x-ndjson").body(rows)
            }
        }
    }

    async fn failed(&mut self, change: Change, reply: &Reply) {
        assert!(matches!(reply.status.as_u16(), 404 | 412 | 503), "{change:?} {}: {}", reply.status, reply.text);
        if reply.status == 503 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        } else if let Some(user) = change.user() {
            // Changed by a request without a response.
            self.users.retain(|(id, _)| *id != user);
        }
    }

    fn remember(&mut self, acknowledged: &[Acknowledged]) {
        for it in acknowledged {
            self.users.retain(|(id, _)| *id != it.user);
            if let (Some(version), "created" | "updated") = (it.version, it.action) {
                self.users.push((it.user, version));
            }
        }
    }
}

/// The changes that a successful response reports.
fn acknowledged(change: Change, reply: &Reply) -> Vec<Acknowledged> {
    let uuid = |value: &Value| value["id"].as_str().unwrap().parse().unwrap();
    match change {
        Change::Delete(user, _) => vec![Acknowledged { user, version: None, action: "deleted" }],
        Change::Import => {
            let lines = reply.text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let change = |line: Value| match line["outcome"].as_str().unwrap() {
                "created" => Some(Acknowledged { user: uuid(&line), version: Some(1), action: "created" }),
                "updated" => Some(Acknowledged { user: uuid(&line), version: None, action: "updated" }),
                // Stopped: the connection to the database broke during the import.
                "unchanged" | "stopped" => None,
                other => panic!("{other}: {line}"),
            };
            lines.filter_map(change).collect()
        }
        Change::Create | Change::Replace(_) | Change::Patch(_) => {
            let user = reply.json();
            let action = if matches!(change, Change::Create) { "created" } else { "updated" };
            vec![Acknowledged { user: uuid(&user), version: user["version"].as_i64(), action }]
        }
    }
}

/// An entry of the journal.
#[derive(Clone, Debug)]
struct Entry {
    version: i64,
    action: String,
    actor: String,
    request_id: String,
    name: Option<String>,
}

async fn query(database: &DatabaseConnection, sql: &str) -> Vec<sea_orm::QueryResult> {
    database.query_all_raw(Statement::from_string(database.get_database_backend(), sql)).await.unwrap()
}

/// The journal by user, in the order of versions.
async fn journal(database: &DatabaseConnection) -> BTreeMap<Uuid, Vec<Entry>> {
    let mut entries: BTreeMap<Uuid, Vec<Entry>> = BTreeMap::new();
    let sql = "SELECT user_id, version, action, actor, request_id, name FROM users_journal ORDER BY user_id, version";
    for row in query(database, sql).await {
        let entry = Entry {
            version: row.try_get_by_index(1).unwrap(),
            action: row.try_get_by_index(2).unwrap(),
            actor: row.try_get_by_index(3).unwrap(),
            request_id: row.try_get_by_index(4).unwrap(),
            name: row.try_get_by_index(5).unwrap(),
        };
        entries.entry(row.try_get_by_index(0).unwrap()).or_default().push(entry);
    }
    entries
}

async fn the_journal_has_exactly_the_acknowledged_changes(context: Context) {
    let goal = env_or("USERS_API_TEST_CHANGES", CHANGES);
    let mut database = DurableDatabase::start(&context).await;
    let mut keys = Vec::new();
    for _ in 0..CLIENTS {
        keys.push(key(&context, &database.url, &["all"]).await);
    }
    let batch = is_batching().to_string();
    let variables = [
        ("DATABASE_URL", database.url.as_str()),
        ("USERS_API__AUTH__MODE", "required"),
        ("USERS_API__LIMITS__PER_CALLER", "0"),
        ("USERS_API__POOL__MAX", "4"),
        ("USERS_API__POOL__BATCH", batch.as_str()),
        ("RUST_LOG", "warn,users_api=info,orm_pool::connect::session=error"),
    ];
    let mut service = Service::start(context.folder(), &variables).await;
    let run =
        Arc::new(Run { address: Mutex::new(service.address), sent: Mutex::default(), progress: Progress::new(goal) });
    let clients = keys.into_iter().enumerate().map(|(number, key)| {
        let client = Client { run: Arc::clone(&run), number, key, users: Vec::new() };
        tokio::spawn(client.run())
    });
    let clients: Vec<_> = clients.collect();
    run.progress.reached(goal / 4).await;
    service.signal("KILL").await;
    service.ended().await;
    service = Service::start(context.folder(), &variables).await;
    *run.address.lock().unwrap() = service.address;
    run.progress.reached(goal / 2).await;
    database.crash();
    run.progress.reached(goal).await;
    for client in clients {
        client.await.unwrap();
    }
    service.signal("TERM").await;
    service.ended().await;

    let direct = connect(&database.url).await;
    let entries = journal(&direct).await;
    let mut users: BTreeMap<Uuid, (i64, String)> = BTreeMap::new();
    for row in query(&direct, "SELECT id, version, name FROM users").await {
        let (id, version, name) =
            (row.try_get_by_index(0).unwrap(), row.try_get_by_index(1).unwrap(), row.try_get_by_index(2).unwrap());
        users.insert(id, (version, name));
    }
    direct.close().await.unwrap();
    let sent = std::mem::take(&mut *run.sent.lock().unwrap());
    assert_consistent(&entries, &users, &sent);
    let count: usize = entries.values().map(Vec::len).sum();
    println!("{}: {count} changes, {} requests", context.engine().name(), sent.len());
    database.stop();
}

fn assert_consistent(
    entries: &BTreeMap<Uuid, Vec<Entry>>,
    users: &BTreeMap<Uuid, (i64, String)>,
    sent: &HashMap<String, Sent>,
) {
    // What the journal says is what the table has.
    for (user, changes) in entries {
        let versions: Vec<i64> = changes.iter().map(|change| change.version).collect();
        assert_eq!(versions, (1..).take(changes.len()).collect::<Vec<i64>>(), "{user}: {changes:?}");
        let last = changes.last().unwrap();
        assert_eq!(users.contains_key(user), last.action != "deleted", "{user}: {changes:?}");
        if let Some((version, name)) = users.get(user) {
            assert_eq!((last.version, last.name.as_deref()), (*version, Some(name.as_str())), "{user}: {changes:?}");
        } else {
            assert!(changes.iter().all(|change| change.name.is_none()), "erased: {changes:?}");
        }
        // Each change is one that a client sent, and its author is that client.
        for change in changes {
            let request = sent.get(&change.request_id).unwrap_or_else(|| panic!("{change:?}"));
            assert_eq!(request.actor, change.actor, "{change:?}");
        }
    }
    for user in users.keys() {
        assert!(entries.contains_key(user), "{user} has no history");
    }
    // Each acknowledged change is in the journal, once.
    for (request_id, Sent { acknowledged, .. }) in sent {
        for Acknowledged { user, version, action } in acknowledged.iter().flatten() {
            let changes = &entries[user];
            let matching: Vec<_> = changes.iter().filter(|change| change.request_id == *request_id).collect();
            assert_eq!(matching.len(), 1, "{request_id} {user}: {changes:?}");
            assert_eq!(matching[0].action, *action, "{request_id} {user}: {changes:?}");
            assert!(version.is_none_or(|version| version == matching[0].version), "{request_id} {user}: {changes:?}");
        }
    }
}
