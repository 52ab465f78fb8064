//! A TCP proxy in front of the database that can refuse, reset or silence connections. It runs on a separate thread and runtime,
//! so that the pools cannot starve it.

use std::{
    future::pending,
    io, mem,
    net::{Ipv4Addr, SocketAddr},
    ops::Range,
    thread,
};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{copy, copy_bidirectional, sink},
    net::{TcpListener, TcpStream},
    runtime::Builder,
    select,
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot, watch,
    },
    task::JoinSet,
};

/// Below Linux's ephemeral ports. A pool that keeps retrying a closed ephemeral port can be assigned that port as its own
/// source, and connect to itself.
const PORTS: Range<u16> = 20_000..32_000;
const TRIES: usize = 100;

pub struct Proxy {
    address: SocketAddr,
    orders: UnboundedSender<(Order, Reply)>,
}

enum Order {
    Close,
    Open,
    Silence,
}

type Reply = oneshot::Sender<io::Result<()>>;

impl Proxy {
    /// Forwards connections to the database for as long as this lives.
    pub fn start(database: SocketAddr) -> Result<Self> {
        let listener = listen()?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (orders, taken) = unbounded_channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let serve = move || runtime.block_on(serve(listener, database, taken));
        thread::Builder::new().name("proxy".to_owned()).spawn(serve)?;
        Ok(Self { address, orders })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Refuses new connections, and resets all others.
    pub async fn close(&self) -> Result<()> {
        self.order(Order::Close).await
    }

    /// Listens again, where it did before.
    pub async fn open(&self) -> Result<()> {
        self.order(Order::Open).await
    }

    /// Lets all connections of this moment go silent for ever: they stay open, and what is sent is lost. New ones are
    /// forwarded.
    pub async fn silence(&self) -> Result<()> {
        self.order(Order::Silence).await
    }

    async fn order(&self, order: Order) -> Result<()> {
        let (reply, done) = oneshot::channel();
        self.orders.send((order, reply)).ok().context("the proxy has ended")?;
        Ok(done.await.context("the proxy has ended")??)
    }
}

fn listen() -> Result<std::net::TcpListener> {
    for _ in 0..TRIES {
        if let Ok(listener) = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, fastrand::u16(PORTS))) {
            return Ok(listener);
        }
    }
    bail!("no free port in {PORTS:?}")
}

/// What the proxy does with open connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Forwarded,
    Silent,
    Reset,
}

async fn serve(
    listener: std::net::TcpListener,
    database: SocketAddr,
    mut orders: UnboundedReceiver<(Order, Reply)>,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let mut listener = Some(TcpListener::from_std(listener)?);
    let mut fate = watch::Sender::new(Fate::Forwarded);
    // The fates of those that went silent.
    let mut silent: Vec<watch::Sender<Fate>> = Vec::new();
    let mut relays = JoinSet::new();
    loop {
        select! {
            order = orders.recv() => {
                let Some((order, reply)) = order else { return Ok(()) };
                let outcome = match order {
                    Order::Close => {
                        listener = None;
                        silent.push(mem::replace(&mut fate, watch::Sender::new(Fate::Forwarded)));
                        for fate in silent.drain(..) {
                            fate.send_replace(Fate::Reset);
                        }
                        while relays.join_next().await.is_some() {}
                        Ok(())
                    }
                    Order::Open => TcpListener::bind(address).await.map(|opened| listener = Some(opened)),
                    Order::Silence => {
                        fate.send_replace(Fate::Silent);
                        silent.push(mem::replace(&mut fate, watch::Sender::new(Fate::Forwarded)));
                        Ok(())
                    }
                };
                // The caller may have stopped waiting.
                drop(reply.send(outcome));
            }
            accepted = accept(listener.as_ref()) => {
                if let Ok(client) = accepted {
                    relays.spawn(relay(client, database, fate.subscribe()));
                }
            }
            Some(_) = relays.join_next(), if !relays.is_empty() => {}
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => pending().await,
    }
}

/// Forwards a connection until it ends, or until its fate says otherwise.
async fn relay(mut client: TcpStream, database: SocketAddr, mut fate: watch::Receiver<Fate>) -> io::Result<()> {
    let mut server = TcpStream::connect(database).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    select! {
        // Checked first: no byte passes after a reset or a silence was requested.
        biased;
        _ = fate.changed() => {}
        ended = copy_bidirectional(&mut client, &mut server) => return ended.map(drop),
    }
    let is_silent = *fate.borrow() == Fate::Silent;
    if is_silent {
        let swallow = async {
            drop(copy(&mut client, &mut sink()).await);
            // The server does not learn that the client is gone.
            pending::<()>().await;
        };
        select! {
            biased;
            _ = fate.changed() => {}
            () = swallow => {}
        }
    }
    client.set_zero_linger()?;
    server.set_zero_linger()
}
