//! Where the parts are wired together, and the only place that knows them all.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use actix_web::dev::Server;
use metrics_exporter_prometheus::PrometheusHandle;
use orm_pool::{ConnectError, Pool};

use secrecy::ExposeSecret;

use crate::{
    connections::{Connections, Limits},
    http::{CursorSigner, Hosts, HttpOptions, PublicUrl, State},
    server,
    service::{self, Progress},
    settings::{Migrate, Settings},
    shutdown::{Drain, STOP_LIMIT, ShutdownError, StopRequest},
    telemetry,
};

/// How often the metrics' recorder puts its raw values into buckets when nobody asks for them.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// How often expired idempotency keys are looked for, unless they are not even kept for as long.
const FORGETTING: Duration = Duration::from_secs(30);

/// The pause after some have been forgotten: some thousands a second at the most, in a fraction of one connection.
const BETWEEN_PIECES: Duration = Duration::from_millis(100);

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no database.
    #[error(transparent)]
    Database(#[from] ConnectError),
    /// The schema is not what it should be, or could not be brought there.
    #[error(transparent)]
    Schema(SchemaError),
    /// A signal came first.
    #[error("stopped")]
    Stopped,
    /// The address is not to be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// The HTTP server could not be set up.
    #[error("cannot start the HTTP server")]
    Server(#[source] io::Error),
    /// The database's URL was not validated.
    #[error("database.url: {0}")]
    Url(#[from] orm_pool::InvalidUrl),
}

/// Why the schema does not let the service start.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// Changes are pending, and `database.migrate` is `check`.
    #[error("{0} migrations are pending; run `users-api migrate up`, or set database.migrate to auto")]
    Pending(usize),
    /// The database refused.
    #[error("cannot migrate the database")]
    Failed(#[from] service::SchemaFailure),
    /// A signal came first.
    #[error("stopped; {applied} migrations were applied")]
    Stopped {
        /// How many of the pending migrations were applied before.
        applied: usize,
    },
    /// The service cannot work on this database.
    #[error("cannot use the database")]
    Unusable(#[source] service::SchemaFailure),
}

impl From<SchemaError> for StartError {
    fn from(error: SchemaError) -> Self {
        match error {
            SchemaError::Stopped { .. } => Self::Stopped,
            error => Self::Schema(error),
        }
    }
}

/// The whole service, ready to run.
pub struct Application {
    server: Server,
    listener: TcpListener,
    address: SocketAddr,
    connections: Connections,
    state: State,
    pool: Pool,
    keep_answers: Duration,
    drain_delay: Duration,
    shutdown_timeout: Duration,
}

impl Application {
    /// Opens the pool, brings the schema up to date, and listens. Nothing is answered before [`run`](Self::run).
    ///
    /// # Errors
    ///
    /// [`StartError`], after the pool has been closed again.
    pub async fn build(settings: Settings) -> Result<Self, StartError> {
        Self::build_unless_stopped(settings, StopRequest::never()).await
    }

    /// The same, but stops as soon as it safely can once it is asked to.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build); [`StartError::Stopped`] when it was stopped.
    pub async fn build_unless_stopped(settings: Settings, stop: StopRequest) -> Result<Self, StartError> {
        let url = settings.database.url()?;
        // Before the pool, which measures from its first connection on.
        let metrics = telemetry::metrics();
        // Before the pool, too, which opens files.
        let limits = Limits::of_process(
            settings.server.max_connections,
            server::workers(&settings.server),
            usize::try_from(settings.pool.max).unwrap_or(usize::MAX),
        );
        let pool = stop.or(Pool::connect(&url, &settings.pool)).await.ok_or(StartError::Stopped)??;
        tracing::info!(database = %url, max = settings.pool.max, min = settings.pool.min, "pool opened");
        match Self::on(pool.clone(), &settings, limits, metrics, &stop).await {
            Ok(application) => Ok(application),
            Err(error) => {
                let limit = if stop.is_made() { STOP_LIMIT } else { settings.pool.acquire };
                if let Err(close) = pool.close(limit).await {
                    tracing::warn!(error = %close, "the pool was left open");
                }
                Err(error)
            }
        }
    }

    async fn on(
        pool: Pool,
        settings: &Settings,
        limits: Limits,
        metrics: PrometheusHandle,
        stop: &StopRequest,
    ) -> Result<Self, StartError> {
        prepare_schema(&pool, settings.database.migrate, stop).await?;
        if settings.database.migrate != Migrate::Off {
            let schema = service::SchemaService::new(pool.clone());
            match stop.or(schema.check_privileges()).await.ok_or(StartError::Stopped)? {
                // A replica, or a table that is locked: that may pass, and the first write says so if not.
                Err(service::SchemaFailure::Pool(error)) => {
                    tracing::warn!(error = telemetry::chain(&error), "database privileges could not be checked");
                }
                checked => checked.map_err(SchemaError::Unusable)?,
            }
        }
        let listener = server::listen(&settings.server).map_err(|cause| {
            let address = SocketAddr::new(settings.server.host, settings.server.port);
            StartError::Listen { address, cause }
        })?;
        let address = listener.local_addr().map_err(StartError::Server)?;
        let connections = Connections::new(limits.max);
        let state = State::new(
            pool.clone(),
            CursorSigner::new(settings.users.cursor_key.expose_secret()),
            HttpOptions {
                request_timeout: settings.server.request_timeout,
                require_if_match: settings.users.require_if_match,
                keep_answers: settings.idempotency.keep,
            },
            Hosts::of_listener(settings.server.host, &settings.server.allowed_hosts),
            PublicUrl::new(&settings.server.public_url, settings.server.trusted_proxies().unwrap_or_default()),
            metrics,
        );
        let shared = listener.try_clone().map_err(StartError::Server)?;
        let server =
            server::start(shared, &settings.server, limits, &connections, &state).map_err(StartError::Server)?;
        Ok(Self {
            server,
            listener,
            address,
            connections,
            state,
            pool,
            keep_answers: settings.idempotency.keep,
            drain_delay: settings.server.drain_delay,
            shutdown_timeout: settings.server.shutdown_timeout,
        })
    }

    /// Where the service listens, the port that was free included.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The one pool.
    #[must_use]
    pub fn pool(&self) -> Pool {
        self.pool.clone()
    }

    /// Answers requests until `stop` is ready, then goes through the phases of [`shutdown`](crate::shutdown).
    ///
    /// # Errors
    ///
    /// [`ShutdownError`] if something had to be left behind.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), ShutdownError> {
        let handle = self.server.handle();
        let mut server = tokio::spawn(self.server);
        let upkeep = tokio::spawn(async {
            let metrics = telemetry::metrics();
            loop {
                tokio::time::sleep(METRICS_UPKEEP).await;
                metrics.run_upkeep();
            }
        });
        let forgetting = tokio::spawn(forget_expired_keys(self.pool.clone(), FORGETTING.min(self.keep_answers)));
        tracing::info!(address = %self.address, "listening");
        let failed = tokio::select! {
            () = stop => None,
            ended = &mut server => Some(ended.unwrap_or_else(|error| Err(io::Error::other(error)))),
        };
        let drain = Drain {
            draining: self.state.draining(),
            listener: &self.listener,
            connections: &self.connections,
            server: handle,
            pool: &self.pool,
            delay: self.drain_delay,
            limit: self.shutdown_timeout,
        };
        forgetting.abort();
        let drained = drain.run().await;
        upkeep.abort();
        match failed {
            Some(Err(error)) => Err(ShutdownError::Server(error)),
            Some(Ok(())) => Err(ShutdownError::Server(io::Error::other("it ended by itself"))),
            None => drained,
        }
    }
}

/// Checks the server, and does to the schema what `database.migrate` says.
pub(crate) async fn prepare_schema(pool: &Pool, migrate: Migrate, stop: &StopRequest) -> Result<(), SchemaError> {
    let stopped = SchemaError::Stopped { applied: 0 };
    let schema = service::SchemaService::new(pool.clone());
    let Some(checked) = stop.or(schema.check_server()).await else { return Err(stopped) };
    checked.map_err(SchemaError::Unusable)?;
    match migrate {
        Migrate::Auto => {
            let Progress { changed, is_stopped } = schema.up(stop.clone().made()).await?;
            if changed > 0 {
                tracing::info!(applied = changed, "schema migrated");
            }
            if is_stopped {
                return Err(SchemaError::Stopped { applied: changed });
            }
        }
        Migrate::Check => {
            let Some(status) = stop.or(schema.status()).await else { return Err(stopped) };
            let pending = status?.iter().filter(|migration| !migration.applied).count();
            if pending > 0 {
                return Err(SchemaError::Pending(pending));
            }
        }
        Migrate::Off => {}
    }
    Ok(())
}

/// Works in small pieces, with a pause after each for those who wait for a connection.
async fn forget_expired_keys(pool: Pool, every: Duration) {
    let keys = service::IdempotencyStore::new(pool);
    loop {
        tokio::time::sleep(every).await;
        loop {
            match keys.forget_expired().await {
                Ok(true) => tokio::time::sleep(BETWEEN_PIECES).await,
                Ok(false) => break,
                // The database's own troubles are told by the pool; this can wait.
                Err(error) => {
                    tracing::debug!(%error, "expired idempotency keys are kept for now");
                    break;
                }
            }
        }
    }
}
