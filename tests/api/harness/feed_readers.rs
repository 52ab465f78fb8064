//! Clients that read the live feed and store their position. They are cut off with faults, and continue at another process.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use history::{Event, Reader};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_tungstenite::tungstenite::Message;

use super::{App, EventStream, Socket, recorded_load::parse_event};

/// How a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    EventStream,
    Ndjson,
    WebSocket,
}

/// Clients that read until they are stopped.
pub struct FeedReaders {
    clients: Vec<(Arc<Client>, JoinHandle<()>)>,
    /// Changes when all clients are cut off.
    cuts: watch::Sender<usize>,
}

struct Client {
    format: Format,
    /// To which process it connects first.
    process: usize,
    addresses: Vec<SocketAddr>,
    connections: AtomicUsize,
    /// Changes whenever it has stored something.
    stored: Mutex<Stored>,
    /// The number of the position after which it began.
    after: i64,
}

/// What a client stores together: the events, and the position after them.
struct Stored {
    position: String,
    events: Vec<Event>,
}

impl FeedReaders {
    /// Starts two clients per process, one of them with a WebSocket. They begin with the feed.
    pub async fn start(addresses: &[SocketAddr]) -> Self {
        let begin = App::at(addresses[0], "").get("/users/changes?after=earliest").await;
        let position = begin.header("feed-position").to_owned();
        let cuts = watch::Sender::new(0);
        let start = |(process, format)| {
            let stored = Mutex::new(Stored { position: position.clone(), events: Vec::new() });
            let (addresses, connections, after) = (addresses.to_vec(), AtomicUsize::default(), number_of(&position));
            let client = Arc::new(Client { format, process, addresses, connections, stored, after });
            (Arc::clone(&client), tokio::spawn(run(client, cuts.subscribe())))
        };
        let processes = (0..addresses.len()).flat_map(|process| {
            let format = if process % 2 == 0 { Format::EventStream } else { Format::Ndjson };
            [(process, format), (process, Format::WebSocket)]
        });
        Self { clients: processes.map(start).collect(), cuts }
    }

    /// Cuts all clients off. Each continues at the next process.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Waits until all clients have read up to the last event of the feed, stops them, and returns what they have read. What
    /// a client has not read within 30 s is missing.
    pub async fn finish(self, last: i64) -> Vec<Reader> {
        let cuts = *self.cuts.borrow();
        let have_read_all = async {
            while self.clients.iter().any(|(client, task)| !task.is_finished() && client.last() < last) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = timeout(Duration::from_secs(30), have_read_all).await;
        let mut readers = Vec::new();
        for (client, task) in self.clients {
            task.abort();
            if let Err(error) = task.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
            let (name, connections) = (client.name(), client.connections.load(Ordering::Relaxed));
            assert!(connections > cuts, "{name}: {connections} connections, {cuts} times cut off");
            let events = std::mem::take(&mut client.stored().events);
            println!("{name}: {} events in {connections} connections", events.len());
            readers.push(Reader { name, after: client.after, events });
        }
        readers
    }
}

async fn run(client: Arc<Client>, mut cuts: watch::Receiver<usize>) {
    for round in 0.. {
        let address = client.addresses[(client.process + round) % client.addresses.len()];
        tokio::select! {
            () = client.read(address) => sleep(Duration::from_millis(20)).await,
            _ = cuts.changed() => {}
        }
    }
}

impl Client {
    fn name(&self) -> String {
        format!("{:?} of process {}", self.format, self.process)
    }

    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last(&self) -> i64 {
        number_of(&self.stored().position)
    }

    /// Stores events and the position after them.
    fn store(&self, position: &str, events: impl IntoIterator<Item = Event>) {
        let mut stored = self.stored();
        stored.events.extend(events);
        position.clone_into(&mut stored.position);
    }

    /// Connects to a process, and reads until the connection ends.
    async fn read(&self, address: SocketAddr) {
        let position = self.stored().position.clone();
        match self.format {
            Format::EventStream => self.read_event_stream(&App::at(address, ""), &position).await,
            Format::Ndjson => self.read_ndjson(&App::at(address, ""), &position).await,
            Format::WebSocket => self.read_socket(address, &position).await,
        }
    }

    fn is_connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    async fn read_event_stream(&self, app: &App, position: &str) {
        let request = app.request(Method::GET, "/users/changes").header("last-event-id", position);
        let Ok(mut stream) = EventStream::of(request).await else { return };
        self.is_connected();
        while let Some(message) = stream.next().await {
            assert_ne!(message.event, "resync", "{message:?}");
            if !message.id.is_empty() {
                let event = (!message.data.is_empty()).then(|| parse_event(&message.json()));
                self.store(&message.id, event);
            }
        }
    }

    async fn read_ndjson(&self, app: &App, position: &str) {
        let request = app.request(Method::GET, &format!("/users/changes?live=true&after={position}"));
        let Ok(mut response) = request.header("accept", "application/x-ndjson").send().await else { return };
        assert_ne!(response.status(), 410, "the position is gone");
        if response.status() != 200 {
            return;
        }
        self.is_connected();
        let mut received = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            received.extend_from_slice(&chunk);
            while let Some(end) = received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = received.drain(..=end).collect();
                if line != b"\n" {
                    let event: Value = serde_json::from_slice(&line).unwrap();
                    self.store(event["position"].as_str().unwrap(), [parse_event(&event)]);
                }
            }
        }
    }

    async fn read_socket(&self, address: SocketAddr, position: &str) {
        let Some(mut socket) = Socket::try_subscribe(address, &json!({ "after": position })).await else { return };
        while let Some(frame) = socket.frame().await {
            let Message::Text(text) = frame else { continue };
            let message: Value = serde_json::from_str(&text).unwrap();
            let position = message["position"].as_str().unwrap_or_else(|| panic!("{message}"));
            match message["type"].as_str().unwrap() {
                "hello" => self.is_connected(),
                "events" => self.store(position, message["events"].as_array().unwrap().iter().map(parse_event)),
                "bookmark" => self.store(position, []),
                _ => panic!("{message}"),
            }
        }
    }
}

/// The number of a position.
fn number_of(position: &str) -> i64 {
    position.split_once('.').unwrap().1.parse().unwrap()
}
