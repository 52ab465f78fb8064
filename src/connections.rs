//! The connections of clients: how many may be open, and which one is closed for a newcomer.
//!
//! At `max` the connection that has been idle for longest is asked to close, as by a graceful shutdown: the server closes
//! it when it is idle, or after the answer that is under way. Newcomers are accepted meanwhile, up to a few above `max`;
//! beyond that they wait in the listener's backlog. A shutdown asks all of them.

use std::{
    collections::HashMap,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::Instant,
};

use futures_util::task::AtomicWaker;

/// Connections by default, if the limit of open files allows it. Each takes about 20 KiB while it is idle.
const DEFAULT_MAX: usize = 10_000;
/// Connections that are served however low the limit of open files is.
const LEAST: usize = 16;
/// Files that are open besides clients' and databases' connections: standard streams, the listener, event queues.
const OTHER_FILES: usize = 64;
/// Files of one more HTTP worker.
const FILES_PER_WORKER: usize = 8;
/// Files of a database connection: SQLite has the database, its log, its index, and temporary files.
const FILES_PER_DATABASE_CONNECTION: usize = 4;
/// While a request is under way, its connection is not idle.
const BUSY: u64 = u64::MAX;

/// How many connections may be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// At this number a connection is closed for each newcomer.
    pub(crate) max: usize,
    /// At this number newcomers are not accepted: those that were asked to close are not closed yet.
    pub(crate) hard: usize,
}

impl Limits {
    /// Raises the limit of open files as far as the system allows, and fits the number of connections into it.
    pub(crate) fn of_process(wanted: usize, workers: usize, database: usize) -> Self {
        let files = match rlimit::increase_nofile_limit(u64::MAX) {
            Ok(files) => usize::try_from(files).unwrap_or(usize::MAX),
            Err(error) => {
                tracing::warn!(%error, "the limit of open files could not be raised");
                rlimit::Resource::NOFILE.get_soft().map_or(usize::MAX, |files| files.try_into().unwrap_or(usize::MAX))
            }
        };
        let limits = Self::within(files, wanted, workers, database);
        let is_low = if wanted == 0 { limits.max < DEFAULT_MAX / 10 } else { limits.max < wanted };
        if is_low {
            tracing::warn!(
                open_files = files,
                max_connections = limits.max,
                pool_max = database,
                "the limit of open files is low; raise it (ulimit -n, LimitNOFILE=) to serve more connections"
            );
        }
        limits
    }

    /// As many as are wanted (0 = the default), if they fit into this number of open files.
    fn within(files: usize, wanted: usize, workers: usize, database: usize) -> Self {
        let others = OTHER_FILES + workers * FILES_PER_WORKER + database * FILES_PER_DATABASE_CONNECTION;
        let fitting = files.saturating_sub(others);
        // An eighth more while connections are being closed.
        let most = (fitting - fitting / 8).max(LEAST);
        let max = if wanted == 0 { DEFAULT_MAX } else { wanted }.min(most);
        Self { max, hard: max + (max / 8).max(1) }
    }
}

/// The connections that are open now.
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
    /// Those of them that were asked to close.
    closing: usize,
    /// Whether connections are asked to close as soon as they are open.
    is_shutting_down: bool,
}

/// What is known of one connection.
#[derive(Debug, Default)]
struct Activity {
    /// Microseconds since the registry's beginning, or [`BUSY`].
    idle_since: AtomicU64,
    is_closing: AtomicBool,
    /// Of the connection's task. Registered with each request, which is why it takes no lock.
    waker: AtomicWaker,
}

impl Activity {
    fn ask_to_close(&self) {
        self.is_closing.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Acquire)
    }
}

/// One open connection; lives as long as it.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    registry: Connections,
    id: u64,
    activity: Arc<Activity>,
}

/// A request under way on a connection, until it is dropped.
pub(crate) struct Busy(Connections, Arc<Activity>);

impl Connections {
    pub(crate) fn new(max: usize) -> Self {
        metrics::describe_counter!(CLOSED, "Connections that were closed to make room for others");
        metrics::counter!(CLOSED).absolute(0);
        metrics::describe_gauge!(OPEN, "Open connections of clients");
        metrics::describe_gauge!(ACTIVE, "Requests in flight: those whose answer has not begun");
        Self(Arc::new(Registry { max, began: Instant::now(), open: Mutex::default() }))
    }

    /// Registers a connection, and asks another one to close if there are too many.
    pub(crate) fn open(&self) -> OpenConnection {
        let activity = Arc::new(Activity { idle_since: AtomicU64::new(self.now()), ..Activity::default() });
        let mut open = self.lock();
        open.last_id += 1;
        let id = open.last_id;
        open.make_room(self.0.max);
        if open.is_shutting_down {
            activity.ask_to_close();
            open.closing += 1;
        }
        open.connections.insert(id, Arc::clone(&activity));
        drop(open);
        OpenConnection { registry: self.clone(), id, activity }
    }

    /// Asks all connections to close, those included that are opened later.
    pub(crate) fn close_all(&self) {
        let mut open = self.lock();
        open.is_shutting_down = true;
        open.closing = open.connections.len();
        for activity in open.connections.values() {
            activity.ask_to_close();
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().connections.len()
    }

    /// Updates the gauges.
    fn publish(&self) {
        let (open, busy) = {
            let open = self.lock();
            let is_busy = |activity: &&Arc<Activity>| activity.idle_since.load(Ordering::Relaxed) == BUSY;
            (open.connections.len(), open.connections.values().filter(is_busy).count())
        };
        for (name, value) in [(OPEN, open), (ACTIVE, busy)] {
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
    /// Asks the connection that has been idle for longest to close, if one more would exceed `max`.
    fn make_room(&mut self, max: usize) {
        if self.connections.len() - self.closing < max {
            return;
        }
        let staying = self.connections.values().filter(|activity| !activity.is_closing());
        let Some(longest) = staying.min_by_key(|activity| activity.idle_since.load(Ordering::Relaxed)) else { return };
        longest.ask_to_close();
        self.closing += 1;
        metrics::counter!(CLOSED).increment(1);
    }
}

const OPEN: &str = "http_server_open_connections";
const ACTIVE: &str = "http_server_active_requests";
/// The metric of connections that were closed for others.
pub(crate) const CLOSED: &str = "http_server_connections_closed_for_others_total";

impl OpenConnection {
    /// Ready when the connection is asked to close.
    pub(crate) fn asked_to_close(&self) -> impl Future<Output = ()> + use<> {
        let activity = Arc::clone(&self.activity);
        poll_fn(move |context| {
            // First registered, then read: a request to close in between wakes.
            activity.waker.register(context.waker());
            if activity.is_closing() { Poll::Ready(()) } else { Poll::Pending }
        })
    }

    /// Updates the gauges of all connections.
    pub(crate) fn publish(&self) {
        self.registry.publish();
    }

    /// Notes that a request is under way.
    pub(crate) fn busy(&self) -> Busy {
        self.activity.idle_since.store(BUSY, Ordering::Relaxed);
        Busy(self.registry.clone(), Arc::clone(&self.activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.1.idle_since.store(self.0.now(), Ordering::Relaxed);
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
    use std::{
        pin::pin,
        task::{Context, Wake},
    };

    use super::*;

    #[test]
    fn connections_fit_into_the_open_files() {
        let fitted = |files, wanted| Limits::within(files, wanted, 2, 10);
        assert_eq!(fitted(1_048_576, 0), Limits { max: 10_000, hard: 11_250 });
        assert_eq!(fitted(1_048_576, 200), Limits { max: 200, hard: 225 });
        assert_eq!(fitted(1024, 0), Limits { max: 791, hard: 889 });
        assert!(fitted(1024, 5000).hard + OTHER_FILES + 16 + 40 <= 1024);
        assert_eq!(fitted(64, 0).max, LEAST);
    }

    #[test]
    fn the_longest_idle_is_asked_to_close() {
        let connections = Connections::new(3);
        let open: Vec<OpenConnection> = (0..3).map(|_| connections.open()).collect();
        for (connection, since) in open.iter().zip([20, 10, 30]) {
            connection.activity.idle_since.store(since, Ordering::Relaxed);
        }
        let busy = open[1].busy();
        let is_closing = |number: usize| open[number].activity.is_closing();
        let newcomer = connections.open();
        assert!(is_closing(0) && !is_closing(1) && !is_closing(2), "the busy one stays");
        drop(busy);
        newcomer.activity.idle_since.store(BUSY, Ordering::Relaxed);
        let another = connections.open();
        assert!(is_closing(2) && !is_closing(1), "it became idle later than the other");
        drop(open);
        assert_eq!(connections.count(), 2);
        assert_eq!(connections.lock().closing, 0);
        drop((newcomer, another));
    }

    #[test]
    fn a_shutdown_asks_all_connections_to_close() {
        let connections = Connections::new(3);
        let open = connections.open();
        let mut asked = pin!(open.asked_to_close());
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        let mut context = Context::from_waker(&waker);
        assert!(asked.as_mut().poll(&mut context).is_pending());
        connections.close_all();
        assert!(woken.0.load(Ordering::Relaxed));
        assert!(asked.as_mut().poll(&mut context).is_ready());
        let late = connections.open();
        assert!(pin!(late.asked_to_close()).poll(&mut context).is_ready());
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
