//! The composition root: builds the service from its parts and runs it. The only module that uses all others.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_web::dev::Server;
use metrics_exporter_prometheus::PrometheusHandle;
use orm_pool::{ConnectError, Pool};
use secrecy::ExposeSecret;

#[cfg(feature = "kafka")]
use crate::feed::KafkaUrl;
use crate::{
    auth::{Authenticator, JwksSource, TokenVerifier},
    connections::{Connections, Limits},
    database,
    demo::{Lab, Simulation},
    error_chain::chain,
    exchange::CursorSigner,
    feed::Feed,
    http::{Hosts, HttpOptions, Parts, PublicUrl, RouteSet, State},
    jobs::{AuthJobs, Jobs, Retention, refresh_keys},
    lifecycle::{
        GracefulShutdown, INTERRUPTED_CLOSE_TIMEOUT, SchemaError, ShutdownError, StopRequest, check_privileges,
        prepare_schema, store_bootstrap_key,
    },
    server,
    service::{self, FeedStore, KeyService},
    settings::{AuthMode, Settings},
    telemetry,
    tls::{Certificate, CertificateError},
};

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The pool could not connect to the database.
    #[error(transparent)]
    Database(#[from] ConnectError),
    /// The schema is not up to date or could not be migrated.
    #[error(transparent)]
    Schema(SchemaError),
    /// The API keys could not be read, or the first one could not be stored.
    #[error("the API keys cannot be read or stored")]
    Keys(#[source] service::Error),
    /// A signal stopped the startup.
    #[error("stopped")]
    Stopped,
    /// The certificate of the listeners cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The address could not be bound.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// The HTTP server could not be set up.
    #[error("cannot start the HTTP server")]
    Server(#[source] io::Error),
    /// The database URL is invalid.
    #[error("database.url: {0}")]
    Url(#[from] orm_pool::InvalidUrl),
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
    listeners: Vec<TcpListener>,
    address: SocketAddr,
    admin_address: Option<SocketAddr>,
    connections: Connections,
    state: State,
    pool: Pool,
    certificate: Option<Arc<Certificate>>,
    auth: AuthJobs,
    feed: Option<Feed>,
    #[cfg(feature = "kafka")]
    export: Option<KafkaUrl>,
    retention: Retention,
    drain_delay: Duration,
    shutdown_timeout: Duration,
}

impl Application {
    /// Opens the pool, prepares the schema and starts to listen. Requests are served once [`run`](Self::run) is called.
    ///
    /// # Errors
    ///
    /// [`StartError`]. The pool is closed before this returns; if that fails, a warning is logged.
    pub async fn build(settings: Settings) -> Result<Self, StartError> {
        Self::build_interruptible(settings, StopRequest::never()).await
    }

    /// Like [`build`](Self::build), but a stop request ends it as soon as that is safe.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build); [`StartError::Stopped`] after a stop request.
    pub async fn build_interruptible(settings: Settings, stop: StopRequest) -> Result<Self, StartError> {
        Self::open(settings, stop, None).await
    }

    /// Builds a demonstration: a service with a lab, in which round trips to the database are simulated.
    ///
    /// # Errors
    ///
    /// As [`build_interruptible`](Self::build_interruptible).
    pub async fn build_demo(settings: Settings, stop: StopRequest) -> Result<Self, StartError> {
        Self::open(settings, stop, Some(Simulation::default())).await
    }

    async fn open(settings: Settings, stop: StopRequest, simulation: Option<Simulation>) -> Result<Self, StartError> {
        let url = settings.database.url()?;
        let files = settings.server.tls.files();
        let certificate = files.map(|(certificate, key)| Certificate::read(certificate, key)).transpose()?;
        // The recorder must exist before the pool, which records metrics from its first connection on.
        let metrics = telemetry::metrics();
        // Raises the limit of open files, so it must precede the pool, which opens some.
        let limits = Limits::for_process(
            settings.server.max_connections,
            server::workers(&settings.server),
            usize::try_from(settings.pool.max).unwrap_or(usize::MAX),
        );
        let mut builder = database::pool_builder(&settings.database, &settings.pool)?;
        if let Some(simulation) = simulation.clone() {
            builder = builder.before_round_trip(move || simulation.round_trip());
        }
        let pool = stop.run_until_requested(builder.connect()).await.ok_or(StartError::Stopped)??;
        tracing::info!(database = %url, max = settings.pool.max, min = settings.pool.min, "pool opened");
        match Self::with_pool(pool.clone(), &settings, limits, certificate, metrics, simulation, &stop).await {
            Ok(application) => Ok(application),
            Err(error) => {
                let timeout = if stop.is_requested() { INTERRUPTED_CLOSE_TIMEOUT } else { settings.pool.acquire };
                if let Err(close) = pool.close(timeout).await {
                    tracing::warn!(error = %close, "pool not closed");
                }
                Err(error)
            }
        }
    }

    async fn with_pool(
        pool: Pool,
        settings: &Settings,
        limits: Limits,
        certificate: Option<Arc<Certificate>>,
        metrics: PrometheusHandle,
        simulation: Option<Simulation>,
        stop: &StopRequest,
    ) -> Result<Self, StartError> {
        prepare_schema(&pool, settings.database.migrate, stop).await?;
        check_privileges(&pool, settings.database.migrate, stop).await?;
        let auth = Self::open_auth(&pool, settings).await?;
        let listener = listen(SocketAddr::new(settings.server.host, settings.server.port), settings)?;
        let address = listener.local_addr().map_err(StartError::Server)?;
        let connections = Connections::new(limits.max);
        let feed = open_feed(&pool, settings).await;
        let lab = simulation.map(|simulation| open_lab(&pool, settings, simulation, feed.as_ref())).transpose()?;
        let state = State::new(Parts {
            pool: pool.clone(),
            feed: feed.clone(),
            authenticator: Arc::clone(&auth.authenticator),
            signer: CursorSigner::new(settings.users.cursor_key.expose_secret()),
            options: http_options(settings),
            hosts: hosts(settings.server.host, settings),
            public_url: PublicUrl::new(
                &settings.server.public_url,
                settings.server.trusted_proxies().unwrap_or_default(),
            ),
            metrics,
            lab,
        });
        let listeners = listeners(listener, &state, settings)?;
        let shared = listeners.iter().map(|(listener, state)| Ok((listener.try_clone()?, state.clone())));
        let shared = shared.collect::<io::Result<_>>().map_err(StartError::Server)?;
        let tls = certificate.clone().map(Certificate::server_config).transpose()?;
        let server =
            server::start(shared, &settings.server, limits, &connections, tls.as_ref()).map_err(StartError::Server)?;
        Ok(Self {
            server,
            listeners: listeners.into_iter().map(|(listener, _)| listener).collect(),
            address,
            admin_address: settings.admin.address(),
            connections,
            state,
            pool,
            certificate,
            auth,
            feed,
            #[cfg(feature = "kafka")]
            export: settings.feed.export(),
            retention: retention(settings),
            drain_delay: settings.server.drain_delay,
            shutdown_timeout: settings.server.shutdown_timeout,
        })
    }

    /// Prepares authentication: the API keys are read before the first request.
    async fn open_auth(pool: &Pool, settings: &Settings) -> Result<AuthJobs, StartError> {
        let tokens = settings
            .auth
            .jwt
            .token_rules()
            .map(|rules| (Arc::new(TokenVerifier::new(rules)), JwksSource::new(settings.auth.jwt.jwks())));
        let authenticator = Arc::new(Authenticator::new(
            settings.auth.mode == AuthMode::Required,
            settings.auth.stale,
            tokens.as_ref().map(|(verifier, _)| Arc::clone(verifier)),
            settings.limits.rate_limits(),
        ));
        if authenticator.is_required() {
            let keys = KeyService::new(pool.clone());
            let bootstrap_key = settings.auth.bootstrap_key.expose_secret();
            store_bootstrap_key(&keys, bootstrap_key).await.map_err(StartError::Keys)?;
            refresh_keys(&keys, &authenticator).await.map_err(StartError::Keys)?;
        }
        Ok(AuthJobs { authenticator, key_refresh: settings.auth.refresh, tokens })
    }

    /// Returns the address that the service listens on, with the actual port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the pool.
    #[must_use]
    pub fn pool(&self) -> Pool {
        self.pool.clone()
    }

    /// Returns the lab of a demonstration.
    #[must_use]
    pub fn lab(&self) -> Option<Lab> {
        self.state.lab()
    }

    /// Returns the certificate of the listeners; `None` without TLS.
    #[must_use]
    pub fn certificate(&self) -> Option<Arc<Certificate>> {
        self.certificate.clone()
    }

    /// Serves requests until `stop` completes, then shuts down in [`Phase`](crate::lifecycle::Phase)s.
    ///
    /// # Errors
    ///
    /// [`ShutdownError`] if requests were still in flight after `server.shutdown_timeout`, the pool was not closed in
    /// time, or the HTTP server failed.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), ShutdownError> {
        let handle = self.server.handle();
        let mut server = tokio::spawn(self.server);
        let jobs = Jobs::start(self.pool.clone(), self.retention, self.auth, self.feed.clone());
        #[cfg(feature = "kafka")]
        let jobs = match self.feed.clone().zip(self.export) {
            Some((feed, target)) => jobs.export(feed, self.pool.clone(), target),
            None => jobs,
        };
        if let Some(address) = self.admin_address {
            tracing::info!(%address, "admin listener started");
        }
        tracing::info!(address = %self.address, "listening");
        let server_result = tokio::select! {
            () = stop => None,
            ended = &mut server => Some(ended.unwrap_or_else(|error| Err(io::Error::other(error)))),
        };
        let shutdown = GracefulShutdown {
            phase: self.state.phase(),
            listeners: &self.listeners,
            connections: &self.connections,
            server: handle,
            pool: &self.pool,
            feed: self.feed.as_ref(),
            delay: self.drain_delay,
            timeout: self.shutdown_timeout,
        };
        let drained = shutdown.run(jobs.stop()).await;
        match server_result {
            Some(Err(error)) => Err(ShutdownError::Server(error)),
            Some(Ok(())) => Err(ShutdownError::Server(io::Error::other("it ended unexpectedly"))),
            None => drained,
        }
    }
}

fn open_lab(pool: &Pool, settings: &Settings, simulation: Simulation, feed: Option<&Feed>) -> Result<Lab, StartError> {
    let (url, options) = (settings.database.url()?, settings.pool.clone());
    let lab = Lab::new(pool.clone(), url, options, simulation, feed.map(Feed::change_signal));
    lab.map_err(|error| StartError::Server(io::Error::other(error)))
}

/// Opens the feed and reads its position, which responses have from the first request on.
async fn open_feed(pool: &Pool, settings: &Settings) -> Option<Feed> {
    let feed = Feed::new(FeedStore::new(pool.clone()), settings.feed.options()?);
    if let Err(error) = feed.advance().await {
        tracing::warn!(error = chain(&error), "cannot read the feed yet");
    }
    Some(feed)
}

fn http_options(settings: &Settings) -> HttpOptions {
    HttpOptions {
        request_timeout: settings.server.request_timeout,
        require_if_match: settings.users.require_if_match,
        idempotency_retention: settings.idempotency.keep,
        cors_origins: settings.cors.origins.iter().cloned().collect(),
    }
}

fn retention(settings: &Settings) -> Retention {
    Retention {
        idempotency_keys: settings.idempotency.keep,
        journal: settings.journal.keep,
        // An event needs its entry in the journal.
        feed: (settings.feed.retain.min(settings.journal.keep), settings.feed.retain_rows),
    }
}

/// Returns the listeners with their routes: those of operators have a separate one, if it is configured.
fn listeners(
    listener: TcpListener,
    state: &State,
    settings: &Settings,
) -> Result<Vec<(TcpListener, State)>, StartError> {
    let Some(address) = settings.admin.address() else { return Ok(vec![(listener, state.clone())]) };
    let clients = state.with_routes(RouteSet::Clients, hosts(settings.server.host, settings));
    let operators = state.with_routes(RouteSet::Operators, hosts(settings.admin.host, settings));
    Ok(vec![(listener, clients), (listen(address, settings)?, operators)])
}

fn hosts(host: IpAddr, settings: &Settings) -> Hosts {
    Hosts::of_listener(host, &settings.server.allowed_hosts)
}

fn listen(address: SocketAddr, settings: &Settings) -> Result<TcpListener, StartError> {
    server::listen(address, &settings.server).map_err(|cause| StartError::Listen { address, cause })
}
