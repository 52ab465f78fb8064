//! A TCP proxy that injects faults: resets, refused connections, stalls, delays.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// Network conditions.
#[derive(Clone, Copy, Debug, Default)]
struct Conditions {
    /// New connections are refused.
    is_closed: bool,
    /// Data and closes are held back, in both directions.
    is_stalled: bool,
    /// Responses are held back.
    holds_responses: bool,
    /// Delays each response.
    delay: Duration,
    /// Delays each new connection.
    connect_delay: Duration,
    /// New connections are accepted and not forwarded.
    ignores_connections: bool,
    /// Incremented to reset every open connection.
    resets: u32,
    /// Incremented to silence every open connection; new ones are forwarded.
    blackholes: u32,
}

/// A TCP proxy whose network conditions can be changed.
pub struct Proxy {
    conditions: Arc<watch::Sender<Conditions>>,
    accepted: Arc<AtomicUsize>,
    recorded: Recorded,
}

/// What clients have sent since recording started.
type Recorded = Arc<Mutex<Option<Vec<u8>>>>;

impl Proxy {
    /// Starts a proxy in front of the server of this URL, and returns it with the URL through it.
    pub async fn before(url: &str) -> (Self, String) {
        let mut url = url::Url::parse(url).unwrap();
        let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let conditions = Arc::new(watch::Sender::new(Conditions::default()));
        let accepted = Arc::new(AtomicUsize::new(0));
        let recorded = Recorded::default();
        let forwarding = Forwarding { target, conditions: conditions.subscribe(), recorded: Arc::clone(&recorded) };
        tokio::spawn(listen(listener, address, forwarding, Arc::clone(&accepted)));
        url.set_port(Some(address.port())).unwrap();
        (Self { conditions, accepted, recorded }, url.into())
    }

    /// The number of connections that were accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Starts to record what clients send.
    pub fn record(&self) {
        *self.recorded.lock().unwrap() = Some(Vec::new());
    }

    /// How often clients have sent this text since recording started.
    pub fn sent(&self, text: &str) -> usize {
        let recorded = self.recorded.lock().unwrap();
        recorded.as_ref().unwrap().windows(text.len()).filter(|window| *window == text.as_bytes()).count()
    }

    /// Delays each new connection; open ones are not affected.
    pub fn slow_to_connect(&self, delay: Duration) {
        self.conditions.send_modify(|conditions| conditions.connect_delay = delay);
    }

    /// Accepts new connections without forwarding them; open ones are not affected.
    pub fn ignore_connections(&self) {
        self.conditions.send_modify(|conditions| conditions.ignores_connections = true);
    }

    /// Resets every connection and refuses new ones.
    pub fn cut(&self) {
        self.conditions.send_modify(|conditions| {
            conditions.is_closed = true;
            conditions.resets += 1;
        });
    }

    /// Refuses new connections; open ones are not affected.
    pub fn close_listener(&self) {
        self.conditions.send_modify(|conditions| conditions.is_closed = true);
    }

    /// Holds back all data, in both directions, and keeps connections open; new ones are accepted and not forwarded.
    pub fn stall(&self) {
        self.conditions.send_modify(|conditions| conditions.is_stalled = true);
    }

    /// Drops all data of the connections that are open now, in both directions; new ones are forwarded.
    pub fn blackhole(&self) {
        self.conditions.send_modify(|conditions| conditions.blackholes += 1);
    }

    /// Holds back responses: the server executes requests, but clients receive no response.
    pub fn hold_responses(&self) {
        self.conditions.send_modify(|conditions| conditions.holds_responses = true);
    }

    /// Delays each response.
    pub fn slow(&self, delay: Duration) {
        self.conditions.send_modify(|conditions| conditions.delay = delay);
    }

    /// Accepts new connections again; other conditions stay.
    pub fn reopen_listener(&self) {
        self.conditions.send_modify(|conditions| conditions.is_closed = false);
    }

    /// Forwards normally again.
    pub fn restore(&self) {
        self.conditions.send_modify(|conditions| {
            let Conditions { resets, blackholes, .. } = *conditions;
            *conditions = Conditions { resets, blackholes, ..Conditions::default() };
        });
    }
}

async fn listen(listener: TcpListener, address: SocketAddr, forwarding: Forwarding, count: Arc<AtomicUsize>) {
    let mut conditions = forwarding.conditions.clone();
    let mut listener = Some(listener);
    loop {
        if conditions.borrow_and_update().is_closed {
            listener = None;
            if conditions.wait_for(|conditions| !conditions.is_closed).await.is_err() {
                return;
            }
        }
        let open = match listener.take() {
            Some(listener) => listener,
            None => TcpListener::bind(address).await.unwrap(),
        };
        tokio::select! {
            accepted = open.accept() => {
                let (client, _) = accepted.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(forward(client, forwarding.clone()));
            }
            changed = conditions.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
        listener = Some(open);
    }
}

#[derive(Clone)]
struct Forwarding {
    target: String,
    conditions: watch::Receiver<Conditions>,
    recorded: Recorded,
}

async fn forward(client: TcpStream, forwarding: Forwarding) {
    let Forwarding { target, mut conditions, recorded } = forwarding;
    let resets = conditions.borrow().resets;
    if conditions.wait_for(|conditions| !conditions.is_stalled && !conditions.ignores_connections).await.is_err() {
        return;
    }
    let delay = conditions.borrow().connect_delay;
    tokio::time::sleep(delay).await;
    let Ok(server) = TcpStream::connect(target).await else { return };
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
        // Reset when dropped, rather than closed.
        socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    let blackholes = conditions.borrow().blackholes;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut reset = conditions.clone();
    tokio::select! {
        // First, so that nothing is forwarded when `restore` follows `cut` immediately.
        biased;
        _ = reset.wait_for(|conditions| conditions.resets != resets) => {}
        () = pump(from_client, to_server, conditions.clone(), blackholes, Some(recorded)) => {}
        () = pump(from_server, to_client, conditions.clone(), blackholes, None) => {}
    }
}

/// Forwards requests, which may be recorded, or responses.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut conditions: watch::Receiver<Conditions>,
    blackholes: u32,
    requests: Option<Recorded>,
) {
    let responses = requests.is_none();
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if let Some(requests) = &requests
            && let Some(recorded) = requests.lock().unwrap().as_mut()
        {
            recorded.extend_from_slice(&bytes[..count]);
        }
        let delay = conditions.borrow().delay;
        if responses && !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let is_forwarded = |conditions: &Conditions| {
            let is_held = conditions.is_stalled || responses && conditions.holds_responses;
            !is_held && conditions.blackholes == blackholes
        };
        if conditions.wait_for(is_forwarded).await.is_err() || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
    // A stalled connection does not forward the close either.
    let _ = conditions.wait_for(|conditions| !conditions.is_stalled && conditions.blackholes == blackholes).await;
}
