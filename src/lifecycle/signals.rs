//! Signals of the operating system, and the stop request that they trigger.

use std::{future::pending, io, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::sleep,
};

/// How long output may still be written after a stop request.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);
/// How long a chunk of rows may still be written after a stop request.
const WORK_GRACE: Duration = Duration::from_secs(5);

/// A signal, by its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Stop: SIGTERM or SIGINT, with its name and number.
    Stop(&'static str, u8),
    /// Read the settings again: SIGHUP.
    Reload,
}

/// Receives the signals of the process.
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: Option<tokio::signal::unix::Signal>,
}

impl Signals {
    /// Starts to listen for SIGTERM, SIGINT and SIGHUP, which no longer terminate the process.
    ///
    /// # Errors
    ///
    /// If a signal handler cannot be installed.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { hangup: Some(signal(SignalKind::hangup())?), ..Self::listen_for_stop()? })
    }

    /// Like [`listen`](Self::listen), without SIGHUP, which still terminates the process when its terminal closes,
    /// unless it runs under `nohup`.
    ///
    /// # Errors
    ///
    /// If a signal handler cannot be installed.
    pub fn listen_for_stop() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: None,
        })
    }

    /// Waits for the next signal.
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

    /// Waits for the next stop signal. Returns its name and number.
    pub async fn next_stop(&mut self) -> (&'static str, u8) {
        loop {
            if let Signal::Stop(name, number) = self.next().await {
                return (name, number);
            }
        }
    }
}

/// A request to stop, observed by all clones.
#[derive(Clone, Debug)]
pub struct StopRequest(watch::Receiver<bool>);

impl StopRequest {
    /// Creates a request, and the sender that makes it.
    #[must_use]
    pub fn channel() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Creates a request that is never made.
    #[must_use]
    pub fn never() -> Self {
        Self::channel().1
    }

    /// Returns whether the request was made.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the request is made.
    pub async fn requested(mut self) {
        if self.0.wait_for(|is_requested| *is_requested).await.is_err() {
            pending::<()>().await;
        }
    }

    /// Waits until the request is made, and then for as long as an output without a reader may delay the exit.
    pub(crate) async fn output_grace_elapsed(&self) {
        self.clone().requested().await;
        sleep(OUTPUT_GRACE).await;
    }

    /// Waits until the request is made, and then for as long as an unresponsive database may delay the exit.
    pub(crate) async fn work_grace_elapsed(&self) {
        self.clone().requested().await;
        sleep(WORK_GRACE).await;
    }

    /// Runs `work` to completion, or drops it and returns `None` once the request is made.
    pub async fn run_until_requested<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            result = work => Some(result),
            () = self.clone().requested() => None,
        }
    }
}
