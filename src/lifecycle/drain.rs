//! Graceful shutdown in phases: not ready, no new connections, drained, pool closed.

use std::{
    io,
    net::{Shutdown, TcpListener},
    pin::pin,
    time::Duration,
};

use actix_web::dev::ServerHandle;
use orm_pool::{CloseError, Pool, Status};
use socket2::SockRef;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::{CurrentPhase, Phase, handshakes};
use crate::{connections::Connections, feed::Feed, telemetry};

/// Upper bound of the time that the pool gets to close, out of what remains of the shutdown timeout.
const MAX_POOL_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Lower bound of that time, even after the shutdown timeout, so that idle connections are still closed cleanly.
const MIN_POOL_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long closing the pool may take when no operation has to be completed.
pub(crate) const INTERRUPTED_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long aborting the remaining requests may take.
const ABORT_TIMEOUT: Duration = Duration::from_millis(100);
/// How long the connections that are already established have to be accepted.
const ACCEPT_GRACE: Duration = Duration::from_millis(100);
/// How long busy clients have to receive `Connection: close`.
const CLOSE_NOTICE: Duration = Duration::from_millis(500);
/// How long clients have to read the end of live events, after the end has been sent to the last one.
const LIVE_GRACE: Duration = Duration::from_secs(2);
const CLOSE_NOTICE_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The reason why a shutdown was not clean.
#[derive(Debug, thiserror::Error)]
pub enum ShutdownError {
    /// Requests were still in flight at the shutdown timeout.
    #[error("requests still in flight after {0:?} were aborted")]
    Requests(Duration),
    /// The pool could not be closed.
    #[error("the pool was not closed")]
    Pool(#[from] CloseError),
    /// The HTTP server failed.
    #[error("the HTTP server failed")]
    Server(#[source] io::Error),
}

/// The parts to shut down, and the time for it.
pub(crate) struct GracefulShutdown<'a> {
    pub(crate) phase: &'a CurrentPhase,
    pub(crate) listeners: &'a [TcpListener],
    pub(crate) connections: &'a Connections,
    pub(crate) server: ServerHandle,
    pub(crate) pool: &'a Pool,
    pub(crate) feed: Option<&'a Feed>,
    /// How long requests are still accepted once readiness is false.
    pub(crate) delay: Duration,
    /// Total time to notify clients, stop the jobs, complete requests and close the pool. Only [`ABORT_TIMEOUT`] and
    /// [`MIN_POOL_CLOSE_TIMEOUT`] can be added to it, and [`ACCEPT_GRACE`] if it is shorter than that.
    pub(crate) timeout: Duration,
}

impl GracefulShutdown<'_> {
    /// Runs all phases, even if one of them fails. `stop_jobs` is run before the pool refuses operations: until then clients
    /// get events, and revoked keys stop working.
    pub(crate) async fn run(self, stop_jobs: impl Future<Output = ()>) -> Result<(), ShutdownError> {
        let began = Instant::now();
        self.phase.enter(Phase::NotReady);
        tracing::info!(delay = ?self.delay, "shutdown: readiness is now false");
        sleep(self.delay).await;
        let deadline = Instant::now() + self.timeout;

        self.stop_listening().await;
        self.phase.enter(Phase::ClosingConnections);
        if let Some(feed) = self.feed {
            // Its streams end by themselves, but not all at the same moment.
            feed.close();
        }
        tracing::info!(connections = self.connections.count(), "shutdown: listening stopped");
        self.notify_clients().await;
        stop_jobs.await;

        self.phase.enter(Phase::Draining);
        let Status { waiting, in_use, .. } = self.pool.status();
        self.pool.drain();
        tracing::info!(refused = waiting, running = in_use, "shutdown: draining; waiting operations are refused");
        let completed = self.complete_requests(deadline).await;
        match &completed {
            Ok(()) => tracing::info!(elapsed = ?began.elapsed(), "shutdown: all requests completed"),
            Err(error) => tracing::error!(%error, "shutdown: requests aborted"),
        }

        self.phase.enter(Phase::Closing);
        let remaining = deadline.saturating_duration_since(Instant::now());
        let closed = self.pool.close(remaining.clamp(MIN_POOL_CLOSE_TIMEOUT, MAX_POOL_CLOSE_TIMEOUT)).await;
        match &closed {
            Ok(()) => tracing::info!(elapsed = ?began.elapsed(), "shutdown: pool closed"),
            Err(error) => tracing::error!(%error, "shutdown: pool not closed"),
        }
        completed.and(closed.map_err(ShutdownError::from))
    }

    /// Pauses the server and shuts the listening sockets down. Stopping the server would also close idle connections,
    /// and lose requests that are already on their way over them.
    async fn stop_listening(&self) {
        for listener in self.listeners {
            if let Err(error) = handshakes::stop(listener) {
                tracing::warn!(%error, "shutdown: cannot stop handshakes; new connections may be reset");
            }
        }
        // What is connected by now is accepted in the meantime.
        sleep(ACCEPT_GRACE).await;
        telemetry::expect_listener_close();
        // Returns before the accept thread has paused, so that thread may still see an error from the socket.
        self.server.pause().await;
        for listener in self.listeners {
            if let Err(error) = SockRef::from(listener).shutdown(Shutdown::Read) {
                tracing::warn!(%error, "shutdown: cannot close the listener");
            }
        }
    }

    /// Gives busy clients time to disconnect: their next response carries `Connection: close`. Idle connections are
    /// closed afterwards.
    async fn notify_clients(&self) {
        let deadline = Instant::now() + CLOSE_NOTICE.min(self.timeout);
        while self.connections.count() > 0 && Instant::now() < deadline {
            sleep(CLOSE_NOTICE_POLL_INTERVAL).await;
        }
    }

    async fn complete_requests(&self, deadline: Instant) -> Result<(), ShutdownError> {
        let mut stopping = pin!(self.server.stop(true));
        self.connections.close_all();
        let live_end = Instant::now() + self.feed.map_or(Duration::ZERO, Feed::drain) + LIVE_GRACE;
        let stopped = async {
            tokio::select! {
                biased;
                () = &mut stopping => {}
                () = sleep_until(live_end) => {
                    self.connections.abort_blocked_live();
                    stopping.await;
                }
            }
        };
        if timeout_at(deadline, stopped).await.is_ok() {
            return Ok(());
        }
        // Aborts the requests. The server would first wait for its own timeout, in whole seconds.
        let _ = timeout(ABORT_TIMEOUT, self.server.stop(false)).await;
        Err(ShutdownError::Requests(self.timeout))
    }
}
