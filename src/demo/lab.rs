//! The lab: changes the pool and the load while they run, and reports what the clients experience.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use orm_pool::{DatabaseUrl, Pool, PoolOptions, ReconfigureError};
use serde::Serialize;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    figures::{Figures, LoadReport},
    load::{Load, Plan},
    settings::{LabChange, LabSettings, NotAllowed, RANGES, Ranges},
    simulation::Simulation,
};
use crate::service::{ChangeSignal, Error, UserService};

/// The clients pause when the figures have not been requested for this long.
const UNWATCHED: Duration = Duration::from_secs(3);
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// The lab of the demo. Clones share it.
#[derive(Clone, Debug)]
pub struct Lab(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    service: UserService,
    pool: Pool,
    url: DatabaseUrl,
    options: PoolOptions,
    simulation: Simulation,
    figures: Arc<Figures>,
    plan: watch::Sender<Plan>,
    state: Mutex<State>,
    /// Changes are applied one after another.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    settings: LabSettings,
    /// Until when an operation holds its connection.
    slow_until: Instant,
    watched_at: Instant,
}

/// The state of the lab.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LabReport {
    engine: &'static str,
    settings: LabSettings,
    defaults: LabSettings,
    allowed: Ranges,
    /// For how long the database will not respond.
    outage_ms: u64,
    /// For how long an operation will hold its connection.
    slow_statement_ms: u64,
    load: LoadReport,
}

/// The error type of [`Lab`].
#[derive(Debug)]
pub enum LabError {
    /// Values that are not allowed.
    NotAllowed(Vec<NotAllowed>),
    /// The pool did not accept the options.
    Pool(ReconfigureError),
}

impl Lab {
    /// Creates the lab of a pool whose round trips the simulation delays. With a signal, its changes appear in the feed.
    ///
    /// # Errors
    ///
    /// None in practice: the bounds of its histograms are valid.
    pub fn new(
        pool: Pool,
        url: DatabaseUrl,
        options: PoolOptions,
        simulation: Simulation,
        feed: Option<ChangeSignal>,
    ) -> Result<Self, hdrhistogram::CreationError> {
        let settings = LabSettings::default();
        let now = Instant::now();
        Ok(Self(Arc::new(Inner {
            service: UserService::new(pool.clone(), feed),
            pool,
            url,
            options,
            simulation,
            figures: Arc::new(Figures::new()?),
            plan: watch::Sender::default(),
            state: Mutex::new(State { settings, slow_until: now, watched_at: now }),
            changing: tokio::sync::Mutex::default(),
        })))
    }

    /// Creates the synthetic users, then runs the clients while the figures are requested. Dropping the future stops them.
    ///
    /// # Errors
    ///
    /// [`Error`] if a user could not be created, or the pool does not accept the options.
    pub async fn run(&self) -> Result<(), Error> {
        let load = {
            // Changes wait: with some settings the creation would take long.
            let _turn = self.0.changing.lock().await;
            Load::new(self.0.service.clone(), Arc::clone(&self.0.figures)).await?
        };
        if let Err(LabError::Pool(error)) = self.change(&LabChange::default()).await {
            tracing::warn!(%error, "demo: the settings of the lab were not applied");
        }
        tokio::select! {
            () = load.run(self.0.plan.subscribe()) => {}
            () = self.watch() => {}
        }
        Ok(())
    }

    /// Lets the clients pause while the figures are not requested.
    async fn watch(&self) {
        loop {
            self.plan();
            sleep(WATCH_INTERVAL).await;
        }
    }

    fn plan(&self) {
        let next = {
            let State { settings, watched_at, .. } = &*self.state();
            let clients = if watched_at.elapsed() < UNWATCHED { settings.clients } else { 0 };
            Plan { clients, write_percent: settings.write_percent }
        };
        self.0.plan.send_if_modified(|plan| std::mem::replace(plan, next) != next);
    }

    /// Returns the state. The clients run while it is called.
    #[must_use]
    pub fn report(&self) -> LabReport {
        let (settings, slow_until) = {
            let mut state = self.state();
            state.watched_at = Instant::now();
            (state.settings.clone(), state.slow_until)
        };
        LabReport {
            engine: self.0.pool.engine().name(),
            settings,
            defaults: LabSettings::default(),
            allowed: RANGES,
            outage_ms: millis(self.0.simulation.silent_for()),
            slow_statement_ms: millis(slow_until.saturating_duration_since(Instant::now())),
            load: self.0.figures.report(),
        }
    }

    /// Changes the pool and the load.
    ///
    /// # Errors
    ///
    /// [`LabError`]; nothing is changed if a value is not allowed.
    pub async fn change(&self, change: &LabChange) -> Result<(), LabError> {
        let _turn = self.0.changing.lock().await;
        let next = self.state().settings.changed(change).map_err(LabError::NotAllowed)?;
        let options = next.pool_options(&self.0.options);
        self.0.pool.reconfigure(&self.0.url, &options).await.map_err(LabError::Pool)?;
        self.0.simulation.set_latency(Duration::from_millis(next.latency_ms.into()));
        self.state().settings = next;
        self.plan();
        Ok(())
    }

    /// Makes the database unresponsive for this long; zero ends it.
    pub fn stop_database(&self, duration: Duration) {
        self.0.simulation.stop_for(duration);
    }

    /// Lets an operation hold a connection for this long, once it has one.
    pub fn hold_connection(&self, duration: Duration) {
        let lab = self.clone();
        tokio::spawn(async move {
            let holder = lab.clone();
            let held = lab.0.pool.read("demo.slow_statement", move |_connection| {
                let lab = holder.clone();
                async move {
                    let until = Instant::now() + duration;
                    {
                        let mut state = lab.state();
                        state.slow_until = state.slow_until.max(until);
                    }
                    sleep_until(until).await;
                    Ok::<_, Error>(())
                }
            });
            if let Err(error) = held.await {
                tracing::info!(%error, "demo: the slow statement was refused");
            }
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
