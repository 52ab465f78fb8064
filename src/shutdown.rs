//! The way out, in phases: not ready any more → no new connections → farewell → the queue refused and what runs
//! finished → pool closed.

use std::{
    future::pending,
    io,
    net::{Shutdown, TcpListener},
    time::Duration,
};

use actix_web::dev::ServerHandle;
use orm_pool::{CloseError, Pool, Status};
use socket2::SockRef;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    connections::Connections,
    http::{Draining, Phase},
    telemetry,
};

/// How long the pool may take to close at most, within what is left of the time for the shutdown.
const POOL_LIMIT: Duration = Duration::from_secs(5);
/// How long output may still be written once a command was asked to stop.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);
/// How long a chunk of rows may still be written once a command was asked to stop.
const WORK_GRACE: Duration = Duration::from_secs(5);
/// How long the pool may take to close when nothing has to be finished.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(2);
/// How long it may take to close when nothing is left, so that idle connections are still closed in order.
const POOL_GRACE: Duration = Duration::from_secs(1);
/// How long clients that keep their connections busy get to hear that they should close them.
const FAREWELL: Duration = Duration::from_millis(500);
const FAREWELL_STEP: Duration = Duration::from_millis(5);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// To end: SIGTERM or SIGINT, its name and its number.
    Stop(&'static str, u8),
    /// To read the settings again: SIGHUP.
    Reload,
}

/// Waits for signals, in a process of its own.
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: Option<tokio::signal::unix::Signal>,
}

impl Signals {
    /// Starts to listen for SIGTERM, SIGINT and SIGHUP. From here on they do not end the process by themselves.
    ///
    /// # Errors
    ///
    /// If the system does not let us.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { hangup: Some(signal(SignalKind::hangup())?), ..Self::listen_to_stop()? })
    }

    /// The same, but leaves SIGHUP as it is: it ends the process when its terminal goes, unless `nohup` says no.
    ///
    /// # Errors
    ///
    /// If the system does not let us.
    pub fn listen_to_stop() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: None,
        })
    }

    /// The next signal.
    pub async fn next(&mut self) -> Signal {
        let hangup = self.hangup.as_mut();
        let hung_up = async {
            match hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => Signal::Stop("SIGTERM", 15),
            _ = self.interrupt.recv() => Signal::Stop("SIGINT", 2),
            () = hung_up => Signal::Reload,
        }
    }

    /// The next signal to end: its name and its number.
    pub async fn stop(&mut self) -> (&'static str, u8) {
        loop {
            if let Signal::Stop(name, number) = self.next().await {
                return (name, number);
            }
        }
    }
}

/// Whether a signal has asked to stop. Clones learn of the same request.
#[derive(Clone, Debug)]
pub struct StopRequest(watch::Receiver<bool>);

impl StopRequest {
    /// A request that has not been made, and what makes it.
    #[must_use]
    pub fn channel() -> (watch::Sender<bool>, Self) {
        let (ask, asked) = watch::channel(false);
        (ask, Self(asked))
    }

    /// A request that is never made.
    #[must_use]
    pub fn never() -> Self {
        Self::channel().1
    }

    /// Whether it was made.
    #[must_use]
    pub fn is_made(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is made.
    pub async fn made(mut self) {
        if self.0.wait_for(|is_made| *is_made).await.is_err() {
            pending::<()>().await;
        }
    }

    /// Waits until it is made, and for as long as something that is not read may still hold up the end.
    pub(crate) async fn grace_is_over(&self) {
        self.clone().made().await;
        sleep(OUTPUT_GRACE).await;
    }

    /// Waits until it is made, and for as long as a database that does not answer may still hold up the end.
    pub(crate) async fn work_is_over(&self) {
        self.clone().made().await;
        sleep(WORK_GRACE).await;
    }

    /// Runs `work`, unless the request is made before it ends; then it is dropped.
    pub async fn or<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.clone().made() => None,
        }
    }
}

/// Why the service did not end cleanly.
#[derive(Debug, thiserror::Error)]
pub enum ShutdownError {
    /// Requests were still running when their time was up.
    #[error("requests were still running after {0:?} and were cut off")]
    Requests(Duration),
    /// The pool could not be closed.
    #[error("the pool was left open")]
    Pool(#[from] CloseError),
    /// The HTTP server failed.
    #[error("the HTTP server failed")]
    Server(#[source] io::Error),
}

/// What has to be ended.
pub(crate) struct Drain<'a> {
    pub(crate) draining: &'a Draining,
    pub(crate) listener: &'a TcpListener,
    pub(crate) connections: &'a Connections,
    pub(crate) server: ServerHandle,
    pub(crate) pool: &'a Pool,
    /// How long requests are still taken once the service is not ready any more.
    pub(crate) delay: Duration,
    /// How long clients are told, running requests may take and the pool may take to close, all together. Only
    /// [`POOL_GRACE`] comes on top of it.
    pub(crate) limit: Duration,
}

impl Drain<'_> {
    /// Goes through all phases; a phase that fails does not keep the next from its work.
    pub(crate) async fn run(self) -> Result<(), ShutdownError> {
        let began = Instant::now();
        self.draining.enter(Phase::NotReady);
        tracing::info!(delay = ?self.delay, "shutdown: not ready any more");
        sleep(self.delay).await;
        let until = Instant::now() + self.limit;

        self.stop_listening().await;
        self.draining.enter(Phase::ClosingConnections);
        tracing::info!(connections = self.connections.count(), "shutdown: listening stopped");
        self.say_farewell().await;

        self.draining.enter(Phase::Draining);
        let Status { waiting, in_use, .. } = self.pool.status();
        self.pool.drain();
        tracing::info!(refused = waiting, running = in_use, "shutdown: the queue is refused, what runs is finished");
        let answered = self.answer_the_rest(until).await;
        match &answered {
            Ok(()) => tracing::info!(elapsed = ?began.elapsed(), "shutdown: all requests answered"),
            Err(error) => tracing::error!(%error, "shutdown: requests cut off"),
        }

        self.draining.enter(Phase::Closing);
        let closed =
            self.pool.close(until.saturating_duration_since(Instant::now()).clamp(POOL_GRACE, POOL_LIMIT)).await;
        match &closed {
            Ok(()) => tracing::info!(elapsed = ?began.elapsed(), "shutdown: pool closed"),
            Err(error) => tracing::error!(%error, "shutdown: pool left open"),
        }
        answered.and(closed.map_err(ShutdownError::from))
    }

    /// The server only pauses; it would close the listener together with idle connections, and a request that is on
    /// its way over one of those would be lost. So the socket is shut from here first.
    async fn stop_listening(&self) {
        telemetry::listening_ends();
        // Answered before the accept thread has acted on it, so that thread may still meet the shut socket.
        self.server.pause().await;
        if let Err(error) = SockRef::from(self.listener).shutdown(Shutdown::Read) {
            tracing::warn!(%error, "the listener could not be shut");
        }
    }

    /// Busy clients hear `Connection: close` with their next answer and go. Idle ones are closed afterwards.
    async fn say_farewell(&self) {
        let farewell = Instant::now() + FAREWELL.min(self.limit);
        while self.connections.count() > 0 && Instant::now() < farewell {
            sleep(FAREWELL_STEP).await;
        }
    }

    async fn answer_the_rest(&self, until: Instant) -> Result<(), ShutdownError> {
        self.connections.close_all();
        if timeout_at(until, self.server.stop(true)).await.is_ok() {
            return Ok(());
        }
        self.server.stop(false).await;
        Err(ShutdownError::Requests(self.limit))
    }
}
