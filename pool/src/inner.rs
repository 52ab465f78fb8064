//! The state that all parts of the pool share. It only coordinates: the connection set counts connections, [`Health`]
//! tracks the state of the database, [`PoolMetrics`] counts events.

pub(crate) mod connections;
pub(crate) mod housekeeper;
pub(crate) mod lease;
mod lost_responses;
mod pace;
pub(crate) mod probe;
pub(crate) mod requests;
mod snapshot;

use std::{
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use tokio::{runtime::Handle, sync::Notify, time::Instant};

use self::requests::{ConnectDemand, Probes};
#[cfg(feature = "bulk")]
use crate::set::bulk_limiter::BulkLimiter;
use crate::{
    clock::Clock,
    connect::{connector::Connector, driver::DriverConnection, url::Engine},
    error::PoolUsage,
    error_kind::{DbErrorKind, root_cause},
    health::Health,
    options::PoolOptions,
    set::{Admission, CloseReason},
    stats::{gauges::Gauges, metrics::PoolMetrics},
};

/// Time without a response after which the database is probed while operations run. For this long after its last
/// response the database counts as up, even if a connection attempt fails.
const SILENCE_THRESHOLD: Duration = Duration::from_secs(1);

pub(crate) struct PoolInner {
    pub(crate) engine: Engine,
    /// Whether the database can be silent: an embedded one cannot, unless its round trips are simulated.
    can_be_silent: bool,
    pub(crate) clock: Clock,
    pub(crate) admission: Admission<DriverConnection>,
    pub(crate) health: Health,
    pub(crate) metrics: PoolMetrics,
    gauges: Gauges,
    /// The pool's runtime.
    pub(crate) handle: Handle,
    /// Permits for bulk operations.
    #[cfg(feature = "bulk")]
    pub(crate) bulk: BulkLimiter,
    probes: Probes,
    demand: ConnectDemand,
    /// The state of the pool that the latest refusals report.
    recent_usage: Mutex<Option<(Instant, Arc<PoolUsage>)>>,
    /// Wakes the housekeeper.
    attention: Notify,
    /// Notified when a connection is opened, checked in or closed.
    changed: Notify,
    options: RwLock<Arc<PoolOptions>>,
    /// The connector and its generation.
    connector: RwLock<(Arc<Connector>, u32)>,
}

impl std::fmt::Debug for PoolInner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolInner")
            .field("engine", &self.engine)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl PoolInner {
    pub(crate) fn new(options: PoolOptions, connector: Connector, metrics: PoolMetrics, handle: Handle) -> Self {
        let clock = Clock::start();
        let engine = connector.url().engine();
        Self {
            engine,
            can_be_silent: engine != Engine::Sqlite
                || (connector.has_round_trip_hook() && !connector.url().is_in_memory()),
            clock,
            admission: Admission::new(options.max, engine),
            health: Health::new(clock),
            metrics,
            gauges: Gauges::new(&options.application_name),
            handle,
            #[cfg(feature = "bulk")]
            bulk: BulkLimiter::new(&options),
            probes: Probes::default(),
            demand: ConnectDemand::default(),
            recent_usage: Mutex::default(),
            attention: Notify::new(),
            changed: Notify::new(),
            options: RwLock::new(Arc::new(options)),
            connector: RwLock::new((Arc::new(connector), 0)),
        }
    }

    pub(crate) fn options(&self) -> Arc<PoolOptions> {
        Arc::clone(&self.options.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_options(&self, options: PoolOptions) {
        self.admission.connections().set_max(options.max);
        #[cfg(feature = "bulk")]
        self.bulk.resize(&options);
        *self.options.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(options);
        self.attention.notify_one();
    }

    pub(crate) fn connector(&self) -> Arc<Connector> {
        self.connector_and_generation().0
    }

    fn connector_and_generation(&self) -> (Arc<Connector>, u32) {
        let connector = self.connector.read().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&connector.0), connector.1)
    }

    fn generation(&self) -> u32 {
        self.connector.read().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Replaces the connector. Connections of earlier generations are closed when they are checked in.
    /// Returns the new generation.
    pub(crate) fn set_connector(self: &Arc<Self>, new: Connector) -> u32 {
        let generation = {
            let mut connector = self.connector.write().unwrap_or_else(PoisonError::into_inner);
            *connector = (Arc::new(new), connector.1.wrapping_add(1));
            connector.1
        };
        self.close_outdated();
        generation
    }

    /// Starts a new generation, unless `generation` has already been replaced. `change` may return a new connector for
    /// it.
    fn start_generation(
        self: &Arc<Self>,
        generation: u32,
        change: impl FnOnce(&Connector) -> Option<Connector>,
    ) -> bool {
        {
            let mut connector = self.connector.write().unwrap_or_else(PoisonError::into_inner);
            if connector.1 != generation {
                return false;
            }
            connector.1 = generation.wrapping_add(1);
            if let Some(changed) = change(&connector.0) {
                connector.0 = Arc::new(changed);
            }
        }
        self.close_outdated();
        true
    }

    /// Closes idle connections of earlier generations; the others are closed when they are checked in.
    fn close_outdated(self: &Arc<Self>) {
        let current = self.generation();
        while let Some(entry) = self.admission.take_idle_if(|entry| entry.generation != current) {
            self.close(entry, CloseReason::Replaced);
        }
    }

    /// Whether the database is in memory: closing its only connection would delete it.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.connector().url().is_in_memory()
    }

    /// Marks connections as suspect after one of them broke: they are validated before they are used again.
    pub(crate) fn mark_suspect(&self) {
        if !self.is_in_memory() {
            self.health.mark_suspect();
        }
        self.attention.notify_one();
    }

    /// Whether the pool fails over to another host when the server is read-only.
    pub(crate) fn needs_writable_server(&self) -> bool {
        let connector = self.connector();
        connector.has_several_hosts() && connector.needs_writable_server()
    }

    /// Updates health and connections after an operation has failed.
    pub(crate) fn on_error(
        self: &Arc<Self>,
        kind: DbErrorKind,
        operation: &'static str,
        generation: u32,
        error: &(dyn std::error::Error + 'static),
    ) {
        if kind == DbErrorKind::StalePlan {
            if self.start_generation(generation, |_| None) {
                tracing::info!("schema changed; recycling connections");
            }
        } else if kind == DbErrorKind::TooManyStatements {
            if self.start_generation(generation, Connector::with_fewer_statements) {
                let statement_cache = self.connector().statement_cache();
                tracing::warn!(
                    statement_cache,
                    "prepared statement limit of the server reached; recycling connections"
                );
            }
        } else if kind == DbErrorKind::ReadOnly && self.needs_writable_server() {
            // The other connections may be to the same server.
            if self.start_generation(generation, |_| None) {
                tracing::warn!("the server has become read-only; connecting to another host");
            }
        } else if kind.breaks_connection() {
            self.mark_suspect();
        }
        if kind.is_impairment() {
            self.health.note_impairment(kind, operation, &root_cause(error));
        }
    }
}
