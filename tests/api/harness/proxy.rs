//! A TCP proxy that can be cut, stalled, slowed and reset: a network, or a database behind it, that misbehaves.

use std::{net::SocketAddr, sync::Arc, time::Duration};

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
    /// Grows when every connection is to be reset.
    resets: u32,
}

/// Forwards connections as the weather allows.
pub struct Proxy {
    weather: Arc<watch::Sender<Weather>>,
}

impl Proxy {
    /// A proxy in front of the server of this URL, and the URL through it.
    pub async fn before(url: &str) -> (Self, String) {
        let mut url = url::Url::parse(url).unwrap();
        let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let weather = Arc::new(watch::Sender::new(Weather::default()));
        tokio::spawn(listen(listener, address, target, weather.subscribe()));
        url.set_port(Some(address.port())).unwrap();
        (Self { weather }, url.into())
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

    /// Swallows what is answered: whatever is asked for is done, and nobody learns it.
    pub fn mute(&self) {
        self.weather.send_modify(|weather| weather.mute = true);
    }

    /// Delays each answer.
    pub fn slow(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// Forwards again, as if nothing had been.
    pub fn mend(&self) {
        self.weather.send_modify(|weather| *weather = Weather { resets: weather.resets, ..Weather::default() });
    }
}

async fn listen(listener: TcpListener, address: SocketAddr, target: String, mut weather: watch::Receiver<Weather>) {
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
                tokio::spawn(forward(client, target.clone(), weather.clone()));
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

async fn forward(client: TcpStream, target: String, mut weather: watch::Receiver<Weather>) {
    let resets = weather.borrow().resets;
    if weather.wait_for(|weather| !weather.stalled).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
        // What is dropped is reset.
        socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut reset = weather.clone();
    tokio::select! {
        // First, so that nothing slips through when a cut is mended at once.
        biased;
        _ = reset.wait_for(|weather| weather.resets != resets) => {}
        () = pump(from_client, to_server, weather.clone(), false) => {}
        () = pump(from_server, to_client, weather.clone(), true) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut weather: watch::Receiver<Weather>, answers: bool) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let delay = weather.borrow().delay;
        if answers && !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if weather.wait_for(|weather| !(weather.stalled || answers && weather.mute)).await.is_err()
            || to.write_all(&bytes[..count]).await.is_err()
        {
            return;
        }
    }
    // The end is not told either while nothing is.
    let _ = weather.wait_for(|weather| !weather.stalled).await;
}
