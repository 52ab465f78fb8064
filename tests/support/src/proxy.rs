//! A TCP proxy that can be cut, stalled, slowed and reset: a network, or a database behind it, that misbehaves.

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

#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    /// Nobody listens.
    cut: bool,
    /// What arrives is kept, and no end is told.
    stalled: bool,
    /// The same for answers alone.
    mute: bool,
    /// Answers take so much longer.
    delay: Duration,
    /// New connections take so much longer.
    connect_delay: Duration,
    /// New connections are accepted and not forwarded.
    deaf: bool,
    /// Grows when every connection is to be reset.
    resets: u32,
    /// Grows when every connection is to go silent, while new ones are forwarded.
    silences: u32,
}

/// Forwards connections as the weather allows.
pub struct Proxy {
    weather: Arc<watch::Sender<Weather>>,
    accepted: Arc<AtomicUsize>,
    recorded: Recorded,
}

/// What clients have sent, once it is recorded.
type Recorded = Arc<Mutex<Option<Vec<u8>>>>;

impl Proxy {
    /// A proxy in front of the server of this URL, and the URL through it.
    pub async fn before(url: &str) -> (Self, String) {
        let mut url = url::Url::parse(url).unwrap();
        let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let weather = Arc::new(watch::Sender::new(Weather::default()));
        let accepted = Arc::new(AtomicUsize::new(0));
        let recorded = Recorded::default();
        let forwarding = Forwarding { target, weather: weather.subscribe(), recorded: Arc::clone(&recorded) };
        tokio::spawn(listen(listener, address, forwarding, Arc::clone(&accepted)));
        url.set_port(Some(address.port())).unwrap();
        (Self { weather, accepted, recorded }, url.into())
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// From now on what clients send is recorded.
    pub fn record(&self) {
        *self.recorded.lock().unwrap() = Some(Vec::new());
    }

    /// How often clients have sent this text since it is recorded.
    pub fn sent(&self, text: &str) -> usize {
        let recorded = self.recorded.lock().unwrap();
        recorded.as_ref().unwrap().windows(text.len()).filter(|window| *window == text.as_bytes()).count()
    }

    /// Delays each new connection; those that are open are as fast as before.
    pub fn slow_to_connect(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.connect_delay = delay);
    }

    /// Accepts new connections and forwards nothing of them; those that are open work.
    pub fn deafen(&self) {
        self.weather.send_modify(|weather| weather.deaf = true);
    }

    /// Resets every connection and refuses new ones.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| {
            weather.cut = true;
            weather.resets += 1;
        });
    }

    /// Refuses new connections; those that are there go on.
    pub fn shut(&self) {
        self.weather.send_modify(|weather| weather.cut = true);
    }

    /// Swallows what is sent, in both directions, and tells no one; new connections hear nothing either.
    pub fn stall(&self) {
        self.weather.send_modify(|weather| weather.stalled = true);
    }

    /// Swallows what is sent on the connections that are open now, in both directions, for ever; new ones are forwarded.
    pub fn forget(&self) {
        self.weather.send_modify(|weather| weather.silences += 1);
    }

    /// Swallows what is answered: whatever is asked for is done, and nobody learns it.
    pub fn mute(&self) {
        self.weather.send_modify(|weather| weather.mute = true);
    }

    /// Delays each answer.
    pub fn slow(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// Listens again; what else was changed stays.
    pub fn mend_listener(&self) {
        self.weather.send_modify(|weather| weather.cut = false);
    }

    /// Forwards again, as if nothing had been.
    pub fn mend(&self) {
        self.weather.send_modify(|weather| {
            *weather = Weather { resets: weather.resets, silences: weather.silences, ..Weather::default() };
        });
    }
}

async fn listen(listener: TcpListener, address: SocketAddr, forwarding: Forwarding, count: Arc<AtomicUsize>) {
    let mut weather = forwarding.weather.clone();
    let mut listener = Some(listener);
    loop {
        if weather.borrow_and_update().cut {
            listener = None;
            if weather.wait_for(|weather| !weather.cut).await.is_err() {
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
            changed = weather.changed() => {
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
    weather: watch::Receiver<Weather>,
    recorded: Recorded,
}

async fn forward(client: TcpStream, forwarding: Forwarding) {
    let Forwarding { target, mut weather, recorded } = forwarding;
    let resets = weather.borrow().resets;
    if weather.wait_for(|weather| !weather.stalled && !weather.deaf).await.is_err() {
        return;
    }
    let delay = weather.borrow().connect_delay;
    tokio::time::sleep(delay).await;
    let Ok(server) = TcpStream::connect(target).await else { return };
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
        // What is dropped is reset.
        socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    let silences = weather.borrow().silences;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut reset = weather.clone();
    tokio::select! {
        // First, so that nothing slips through when a cut is mended at once.
        biased;
        _ = reset.wait_for(|weather| weather.resets != resets) => {}
        () = pump(from_client, to_server, weather.clone(), silences, Some(recorded)) => {}
        () = pump(from_server, to_client, weather.clone(), silences, None) => {}
    }
}

/// Forwards requests, which may be recorded, or answers.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    silences: u32,
    requests: Option<Recorded>,
) {
    let answers = requests.is_none();
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if let Some(requests) = &requests
            && let Some(recorded) = requests.lock().unwrap().as_mut()
        {
            recorded.extend_from_slice(&bytes[..count]);
        }
        let delay = weather.borrow().delay;
        if answers && !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let is_forwarded =
            |weather: &Weather| !(weather.stalled || answers && weather.mute) && weather.silences == silences;
        if weather.wait_for(is_forwarded).await.is_err() || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
    // The end is not told either while nothing is.
    let _ = weather.wait_for(|weather| !weather.stalled && weather.silences == silences).await;
}
