//! A TCP proxy in front of the database that can refuse, reset or silence connections. It has a separate thread and
//! runtime, so that the pools cannot starve it.

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

/// Below Linux's ephemeral ports. A pool that retries a closed ephemeral port can be assigned the same port as its
/// source port, and connect to itself.
const PORTS: Range<u16> = 20_000..32_000;
const MAX_ATTEMPTS: usize = 100;

pub struct Proxy {
    address: SocketAddr,
    commands: UnboundedSender<(Command, Reply)>,
}

enum Command {
    Close,
    Open,
    Silence,
}

type Reply = oneshot::Sender<io::Result<()>>;

impl Proxy {
    /// Starts forwarding connections to the database, until this is dropped.
    pub fn start(database: SocketAddr) -> Result<Self> {
        let listener = listen()?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (commands, received) = unbounded_channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let serve = move || runtime.block_on(serve(listener, database, received));
        thread::Builder::new().name("proxy".to_owned()).spawn(serve)?;
        Ok(Self { address, commands })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Refuses new connections and resets all open ones.
    pub async fn close(&self) -> Result<()> {
        self.send(Command::Close).await
    }

    /// Listens again on the same address.
    pub async fn open(&self) -> Result<()> {
        self.send(Command::Open).await
    }

    /// Silences all open connections permanently: they stay open, but their data is discarded. New ones are forwarded.
    pub async fn silence(&self) -> Result<()> {
        self.send(Command::Silence).await
    }

    async fn send(&self, command: Command) -> Result<()> {
        let (reply, done) = oneshot::channel();
        self.commands.send((command, reply)).ok().context("the proxy has ended")?;
        Ok(done.await.context("the proxy has ended")??)
    }
}

fn listen() -> Result<std::net::TcpListener> {
    for _ in 0..MAX_ATTEMPTS {
        if let Ok(listener) = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, fastrand::u16(PORTS))) {
            return Ok(listener);
        }
    }
    bail!("no free port in {PORTS:?}")
}

/// What the proxy does with an open connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Forward,
    Silence,
    Reset,
}

async fn serve(
    listener: std::net::TcpListener,
    database: SocketAddr,
    mut commands: UnboundedReceiver<(Command, Reply)>,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let mut listener = Some(TcpListener::from_std(listener)?);
    let mut mode = watch::Sender::new(Mode::Forward);
    // The modes of silent connections.
    let mut silent: Vec<watch::Sender<Mode>> = Vec::new();
    let mut relays = JoinSet::new();
    loop {
        select! {
            received = commands.recv() => {
                let Some((command, reply)) = received else { return Ok(()) };
                let outcome = match command {
                    Command::Close => {
                        listener = None;
                        silent.push(mem::replace(&mut mode, watch::Sender::new(Mode::Forward)));
                        for mode in silent.drain(..) {
                            mode.send_replace(Mode::Reset);
                        }
                        while relays.join_next().await.is_some() {}
                        Ok(())
                    }
                    Command::Open => TcpListener::bind(address).await.map(|opened| listener = Some(opened)),
                    Command::Silence => {
                        mode.send_replace(Mode::Silence);
                        silent.push(mem::replace(&mut mode, watch::Sender::new(Mode::Forward)));
                        Ok(())
                    }
                };
                // The caller may have stopped waiting.
                drop(reply.send(outcome));
            }
            accepted = accept(listener.as_ref()) => {
                if let Ok(client) = accepted {
                    relays.spawn(relay(client, database, mode.subscribe()));
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

/// Forwards a connection until it ends or its mode changes.
async fn relay(mut client: TcpStream, database: SocketAddr, mut mode: watch::Receiver<Mode>) -> io::Result<()> {
    let mut server = TcpStream::connect(database).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    select! {
        // Checked first, so that no byte passes after a reset or a silence was requested.
        biased;
        _ = mode.changed() => {}
        ended = copy_bidirectional(&mut client, &mut server) => return ended.map(drop),
    }
    let is_silent = *mode.borrow() == Mode::Silence;
    if is_silent {
        let discard = async {
            drop(copy(&mut client, &mut sink()).await);
            // The server is not notified that the client has closed the connection.
            pending::<()>().await;
        };
        select! {
            biased;
            _ = mode.changed() => {}
            () = discard => {}
        }
    }
    client.set_zero_linger()?;
    server.set_zero_linger()
}
