//! Client connections: how many may be open, and which one is closed for a new one.
//!
//! At `max`, each new connection makes the one that has been idle longest close gracefully: immediately if it is idle,
//! otherwise after the response in flight. In the meantime, new connections are accepted up to `hard`; beyond that they
//! wait in the listener's backlog. A shutdown closes all connections the same way.

use std::{
    collections::HashMap,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use futures_util::task::AtomicWaker;

/// Default maximum, if the open file limit allows it. An idle connection uses about 20 KiB.
const DEFAULT_MAX: usize = 10_000;
/// Lower bound of the maximum, even if the open file limit is lower.
const MIN_CONNECTIONS: usize = 16;
/// Files other than connections: standard streams, the listener, event queues.
const OTHER_FILES: usize = 64;
/// Files per HTTP worker.
const FILES_PER_WORKER: usize = 8;
/// Files per database connection: SQLite opens the database, its WAL, the index of the WAL, and temporary files.
const FILES_PER_DATABASE_CONNECTION: usize = 4;
/// Value of [`Activity::idle_since`] while a request is in flight.
const BUSY: u64 = u64::MAX;

/// The limits of open connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// At this number, each new connection makes another one close.
    pub(crate) max: usize,
    /// At this number, no connection is accepted until one has closed.
    pub(crate) hard: usize,
}

impl Limits {
    /// Raises the open file limit as far as the system allows, and returns the limits that fit into it.
    pub(crate) fn for_process(requested: usize, workers: usize, database: usize) -> Self {
        let files = match rlimit::increase_nofile_limit(u64::MAX) {
            Ok(files) => usize::try_from(files).unwrap_or(usize::MAX),
            Err(error) => {
                tracing::warn!(%error, "cannot raise the open file limit");
                rlimit::Resource::NOFILE.get_soft().map_or(usize::MAX, |files| files.try_into().unwrap_or(usize::MAX))
            }
        };
        let limits = Self::for_open_files(files, requested, workers, database);
        let is_low = if requested == 0 { limits.max < DEFAULT_MAX / 10 } else { limits.max < requested };
        if is_low {
            tracing::warn!(
                open_files = files,
                max_connections = limits.max,
                pool_max = database,
                "the open file limit is low; raise it (ulimit -n, LimitNOFILE=) to serve more connections"
            );
        }
        limits
    }

    /// Returns the limits for a requested maximum (0 = the default) that fit into a number of open files.
    fn for_open_files(files: usize, requested: usize, workers: usize, database: usize) -> Self {
        let others = OTHER_FILES + workers * FILES_PER_WORKER + database * FILES_PER_DATABASE_CONNECTION;
        let available = files.saturating_sub(others);
        // An eighth is reserved for new connections that are accepted while others close.
        let upper_bound = (available - available / 8).max(MIN_CONNECTIONS);
        let max = if requested == 0 { DEFAULT_MAX } else { requested }.min(upper_bound);
        Self { max, hard: max + (max / 8).max(1) }
    }
}

/// The registry of open connections.
#[derive(Clone, Debug)]
pub(crate) struct Connections(Arc<Registry>);

#[derive(Debug)]
struct Registry {
    max: usize,
    began: Instant,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    last_id: u64,
    connections: HashMap<u64, Arc<Activity>>,
    /// How many of them were requested to close.
    closing: usize,
    /// Whether new connections are requested to close immediately.
    is_shutting_down: bool,
}

/// The state of a connection.
#[derive(Debug, Default)]
struct Activity {
    /// Microseconds since the registry was created, or [`BUSY`].
    idle_since: AtomicU64,
    /// Requests in flight: several on a connection of HTTP/2.
    in_flight: AtomicU32,
    is_closing: AtomicBool,
    /// Whether it sends live events, which have no end.
    is_live: AtomicBool,
    /// Whether it ends if its client does not read.
    is_aborting: AtomicBool,
    /// Wakes the connection's task while its client does not read.
    blocked: AtomicWaker,
    /// Wakes the connection's task. Registered again for each request, and therefore lock-free.
    waker: AtomicWaker,
}

impl Activity {
    fn request_close(&self) {
        self.is_closing.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Acquire)
    }
}

/// An open connection. Dropping it deregisters the connection.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    registry: Connections,
    id: u64,
    activity: Arc<Activity>,
}

/// Signals to a connection whose client does not read that it must end.
#[derive(Debug)]
pub(crate) struct AbortSignal(Arc<Activity>);

impl AbortSignal {
    /// Returns whether the connection must end. If not, its task is woken when it must.
    pub(crate) fn is_aborted(&self, context: &Context<'_>) -> bool {
        self.0.blocked.register(context.waker());
        self.0.is_aborting.load(Ordering::Acquire)
    }
}

/// A request in flight on a connection, until it is dropped.
pub(crate) struct InFlightGuard(Connections, Arc<Activity>);

impl Connections {
    pub(crate) fn new(max: usize) -> Self {
        metrics::describe_counter!(CLOSED, "Connections closed at server.max_connections in favour of new ones");
        metrics::counter!(CLOSED).absolute(0);
        metrics::describe_gauge!(OPEN, "Open client connections");
        metrics::describe_gauge!(
            ACTIVE,
            "Requests in flight: until the head of the response with HTTP/1, until its end with HTTP/2 and for live events"
        );
        Self(Arc::new(Registry { max, began: Instant::now(), open: Mutex::default() }))
    }

    /// Registers a connection. At the maximum, another one is requested to close.
    pub(crate) fn open(&self) -> OpenConnection {
        let activity = Arc::new(Activity { idle_since: AtomicU64::new(self.now()), ..Activity::default() });
        let mut open = self.lock();
        open.last_id += 1;
        let id = open.last_id;
        open.close_longest_idle_at(self.0.max);
        if open.is_shutting_down {
            activity.request_close();
            open.closing += 1;
        }
        open.connections.insert(id, Arc::clone(&activity));
        drop(open);
        OpenConnection { registry: self.clone(), id, activity }
    }

    /// Requests all connections to close, including those opened later.
    pub(crate) fn close_all(&self) {
        let mut open = self.lock();
        open.is_shutting_down = true;
        open.closing = open.connections.len();
        for activity in open.connections.values() {
            activity.request_close();
        }
    }

    /// Ends connections with live events whose clients do not read: they cannot be informed of the end.
    pub(crate) fn abort_blocked_live(&self) {
        for activity in self.lock().connections.values().filter(|it| it.is_live.load(Ordering::Relaxed)) {
            activity.is_aborting.store(true, Ordering::Release);
            activity.blocked.wake();
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().connections.len()
    }

    fn update_gauges(&self) {
        let (open, in_flight) = {
            let open = self.lock();
            let in_flight = |activity: &Arc<Activity>| u64::from(activity.in_flight.load(Ordering::Relaxed));
            (open.connections.len() as u64, open.connections.values().map(in_flight).sum())
        };
        for (name, value) in [(OPEN, open), (ACTIVE, in_flight)] {
            metrics::gauge!(name).set(u32::try_from(value).unwrap_or(u32::MAX));
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_micros()).unwrap_or(BUSY - 1)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Requests the connection that has been idle longest to close, if one more would exceed `max`.
    fn close_longest_idle_at(&mut self, max: usize) {
        if self.connections.len() - self.closing < max {
            return;
        }
        let staying = self.connections.values().filter(|activity| !activity.is_closing());
        let Some(longest) = staying.min_by_key(|activity| activity.idle_since.load(Ordering::Relaxed)) else { return };
        longest.request_close();
        self.closing += 1;
        metrics::counter!(CLOSED).increment(1);
    }
}

const OPEN: &str = "http_server_open_connections";
const ACTIVE: &str = "http_server_active_requests";
/// Metric: connections closed in favour of new ones.
pub(crate) const CLOSED: &str = "http_server_connections_closed_for_others_total";

impl OpenConnection {
    /// Completes when the connection is requested to close.
    pub(crate) fn close_requested(&self) -> impl Future<Output = ()> + use<> {
        let activity = Arc::clone(&self.activity);
        poll_fn(move |context| {
            // Register before reading, so that a request in between wakes the task.
            activity.waker.register(context.waker());
            if activity.is_closing() { Poll::Ready(()) } else { Poll::Pending }
        })
    }

    /// Updates the gauges of all connections.
    pub(crate) fn update_gauges(&self) {
        self.registry.update_gauges();
    }

    /// Marks the connection as busy with live events until the guard is dropped.
    pub(crate) fn begin_live_request(&self) -> InFlightGuard {
        self.activity.is_live.store(true, Ordering::Relaxed);
        self.begin_request()
    }

    /// Returns what a connection asks while its client does not read.
    pub(crate) fn abort_signal(&self) -> AbortSignal {
        AbortSignal(Arc::clone(&self.activity))
    }

    /// Marks the connection as busy until the guard is dropped.
    pub(crate) fn begin_request(&self) -> InFlightGuard {
        self.activity.in_flight.fetch_add(1, Ordering::Relaxed);
        self.activity.idle_since.store(BUSY, Ordering::Relaxed);
        InFlightGuard(self.registry.clone(), Arc::clone(&self.activity))
    }
}

impl InFlightGuard {
    /// Returns whether the connection is requested to close. Its task is woken when it is.
    pub(crate) fn is_closing(&self) -> bool {
        self.1.is_closing()
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        // The requests of a connection share a thread.
        if self.1.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.1.idle_since.store(self.0.now(), Ordering::Relaxed);
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut open = self.registry.lock();
        open.connections.remove(&self.id);
        if self.activity.is_closing() {
            open.closing -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, task::Wake, time::Duration};

    use super::*;

    #[test]
    fn limits_fit_into_the_open_file_limit() {
        let fitted = |files, requested| Limits::for_open_files(files, requested, 2, 10);
        assert_eq!(fitted(1_048_576, 0), Limits { max: 10_000, hard: 11_250 });
        assert_eq!(fitted(1_048_576, 200), Limits { max: 200, hard: 225 });
        assert_eq!(fitted(1024, 0), Limits { max: 791, hard: 889 });
        assert!(fitted(1024, 5000).hard + OTHER_FILES + 16 + 40 <= 1024);
        assert_eq!(fitted(64, 0).max, MIN_CONNECTIONS);
    }

    #[test]
    fn the_longest_idle_connection_is_closed() {
        // Makes every timestamp of the test later than the values below.
        let began = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        let connections = Connections(Arc::new(Registry { max: 3, began, open: Mutex::default() }));
        let open: Vec<OpenConnection> = (0..3).map(|_| connections.open()).collect();
        for (connection, since) in open.iter().zip([20, 10, 30]) {
            connection.activity.idle_since.store(since, Ordering::Relaxed);
        }
        let busy = open[1].begin_request();
        let is_closing = |number: usize| open[number].activity.is_closing();
        let new = connections.open();
        assert!(is_closing(0) && !is_closing(1) && !is_closing(2), "the busy connection stays open");
        drop(busy);
        new.activity.idle_since.store(BUSY, Ordering::Relaxed);
        let another = connections.open();
        assert!(is_closing(2) && !is_closing(1), "connection 1 became idle later");
        drop(open);
        assert_eq!(connections.count(), 2);
        assert_eq!(connections.lock().closing, 0);
        drop((new, another));
    }

    #[test]
    fn a_shutdown_closes_all_connections() {
        let connections = Connections::new(3);
        let open = connections.open();
        let mut requested = pin!(open.close_requested());
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        let mut context = Context::from_waker(&waker);
        assert!(requested.as_mut().poll(&mut context).is_pending());
        connections.close_all();
        assert!(woken.0.load(Ordering::Relaxed));
        assert!(requested.as_mut().poll(&mut context).is_ready());
        let late = connections.open();
        assert!(pin!(late.close_requested()).poll(&mut context).is_ready());
        drop((open, late));
        assert_eq!(connections.lock().closing, 0);
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}
