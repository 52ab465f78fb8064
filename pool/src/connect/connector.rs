//! Opens connections, as the URL and the pool options describe them.

use std::{sync::Arc, time::Duration};

use sea_orm::{DatabaseConnection, sqlx};
use tokio::time::{Instant, sleep, timeout};

pub(crate) use super::engine_connector::EngineDisabled;
use super::{
    driver::DriverConnection,
    driver_options::DriverOptions,
    engine_connector::EngineConnector,
    hosts::Hosts,
    session::{ConnectParams, Session},
    url::{Address, DatabaseUrl, Engine, HostAddress, TargetServer},
};
use crate::{
    error_kind::{DbErrorKind, PoolError, is_tls_alert, root_cause, timed_out},
    options::PoolOptions,
};

/// Time limit for one of several hosts, about as long as an open connection may be silent before the database counts as
/// down. If all hosts are silent, they are tried again with twice the limit.
const HOST_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before all hosts are tried again.
const ROUND_PAUSE: Duration = Duration::from_millis(50);
/// How long to wait for the resolver when checking whether name resolution has failed.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Prepared statements that each connection caches unless the URL sets another number: the drivers' default.
const STATEMENT_CACHE: usize = 100;
/// The smallest such cache, for a server that has reached its limit of prepared statements.
const MIN_STATEMENT_CACHE: usize = 5;

/// Round trips to open a connection, for the hook `before_round_trip`: connection, authentication, session settings.
const CONNECT_ROUND_TRIPS: usize = 3;

/// The reason why a connection could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{kind}")]
pub(crate) struct ConnectFailure {
    pub(crate) kind: DbErrorKind,
    #[source]
    pub(crate) source: Arc<sqlx::Error>,
}

impl ConnectFailure {
    pub(crate) fn new(kind: DbErrorKind, source: impl Into<sqlx::Error>) -> Self {
        Self { kind, source: Arc::new(source.into()) }
    }

    /// The server did not respond in time.
    pub(crate) fn silent() -> Self {
        Self::new(DbErrorKind::Silent, timed_out())
    }

    /// Returns the message of the root cause, from the driver, the server or the system.
    pub(crate) fn detail(&self) -> String {
        root_cause(self.source.as_ref())
    }
}

/// Opens connections to one database. Not `Debug`: the driver's options contain the password in plain text.
#[derive(Clone)]
pub(crate) struct Connector {
    url: DatabaseUrl,
    /// One for each host.
    engines: Vec<EngineConnector>,
    hosts: Arc<Hosts>,
    /// The only host to connect to.
    only: Option<usize>,
    session: Session,
    statement_cache: usize,
    driver_options: Arc<DriverOptions>,
}

impl Connector {
    /// Creates a connector.
    ///
    /// # Errors
    ///
    /// [`EngineDisabled`] if the crate was built without the engine.
    pub(crate) fn new(
        url: &DatabaseUrl,
        options: &PoolOptions,
        driver_options: &Arc<DriverOptions>,
    ) -> Result<Self, EngineDisabled> {
        let hosts = match url.address() {
            Address::File(_) => Hosts::new(&[], false),
            Address::Server(server) => Hosts::new(&server.hosts, server.is_random),
        };
        Ok(Self {
            url: url.clone(),
            engines: EngineConnector::of_url(url, options, driver_options)?,
            hosts: Arc::new(hosts),
            only: None,
            session: Session::new(options.statement_timeout),
            statement_cache: url.statement_cache().unwrap_or(STATEMENT_CACHE),
            driver_options: Arc::clone(driver_options),
        })
    }

    /// Returns a connector for the same database with other credentials.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub(crate) fn with_url(&self, url: &DatabaseUrl, options: &PoolOptions) -> Result<Self, EngineDisabled> {
        // The hosts are the same, because only the credentials differ.
        Ok(Self { hosts: Arc::clone(&self.hosts), ..Self::new(url, options, &self.driver_options)? })
    }

    /// Returns a connector that connects only to one of several hosts, whether it accepts writes or not. `None` if there
    /// is only one.
    pub(crate) fn only(&self, host: Option<usize>) -> Option<Self> {
        let only = host.filter(|host| self.has_several_hosts() && *host < self.engines.len())?;
        Some(Self { only: Some(only), ..self.clone() })
    }

    pub(crate) fn has_several_hosts(&self) -> bool {
        self.engines.len() > 1
    }

    /// Whether connections must be to a server that accepts writes.
    pub(crate) fn needs_writable_server(&self) -> bool {
        matches!(self.url.address(), Address::Server(server) if server.target == TargetServer::ReadWrite)
    }

    pub(crate) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Returns a copy with another SQLite busy timeout. The database file stays the one that was opened.
    pub(crate) fn with_busy_timeout(&self, limit: Duration) -> Self {
        let mut other = self.clone();
        for engine in &mut other.engines {
            engine.set_busy_timeout(limit);
        }
        other
    }

    /// Returns a copy that caches half as many prepared statements per connection, for a server that has reached its
    /// limit. `None` if the cache cannot shrink further.
    pub(crate) fn with_fewer_statements(&self) -> Option<Self> {
        let mut fewer = self.clone();
        fewer.statement_cache = (self.statement_cache / 2).max(MIN_STATEMENT_CACHE);
        if fewer.statement_cache >= self.statement_cache {
            return None;
        }
        let is_limited = fewer.engines.iter_mut().all(|engine| engine.set_statement_cache(fewer.statement_cache));
        is_limited.then_some(fewer)
    }

    /// Returns how many prepared statements each connection caches.
    pub(crate) fn statement_cache(&self) -> usize {
        self.statement_cache
    }

    /// Whether the application awaits something before each round trip.
    pub(crate) fn has_round_trip_hook(&self) -> bool {
        self.driver_options.before_round_trip.is_some()
    }

    pub(crate) fn url(&self) -> &DatabaseUrl {
        &self.url
    }

    /// Opens a connection, ready for statements: to the first host that works. The source of the password and the hosts
    /// have `limit` each.
    pub(crate) async fn connect(&self, limit: Duration) -> Result<DriverConnection, ConnectFailure> {
        let unavailable = |error| ConnectFailure::new(DbErrorKind::PasswordUnavailable, error);
        let password = timeout(limit, self.driver_options.password()).await.unwrap_or_else(|_| {
            Err(PoolError::with_kind(DbErrorKind::PasswordUnavailable, "its source did not respond"))
        });
        let password = password.map_err(unavailable)?;
        // The hosts have the whole limit, however long the source of the password took.
        let began = Instant::now();
        let left = || limit.saturating_sub(began.elapsed());
        let mut host_limit = if self.has_several_hosts() { HOST_TIMEOUT } else { limit };
        loop {
            let mut failures = Vec::new();
            for host in self.only.map_or_else(|| self.order(), |only| vec![only]) {
                match self.connect_to(host, password.as_deref(), left().min(host_limit)).await {
                    Ok(connection) => return Ok(connection),
                    Err(failure) => failures.push((host, failure)),
                }
                // As in libpq: credentials are the same everywhere, and servers lock accounts that fail too often.
                let is_rejected = |failure: &ConnectFailure| failure.kind == DbErrorKind::Authentication;
                if failures.last().is_some_and(|(_, failure)| is_rejected(failure)) || left().is_zero() {
                    return Err(self.failure_of_all(failures));
                }
            }
            // Silent hosts may be slow, or one of them may have recovered. Others would respond in the same way.
            if !failures.iter().any(|(_, failure)| failure.kind == DbErrorKind::Silent) {
                return Err(self.failure_of_all(failures));
            }
            host_limit = (host_limit * 2).min(limit);
            sleep(ROUND_PAUSE).await;
        }
    }

    fn order(&self) -> Vec<usize> {
        if self.has_several_hosts() { self.hosts.order() } else { vec![0] }
    }

    /// Combines the failures of several hosts. Its kind is that of the host that came closest to a connection.
    fn failure_of_all(&self, failures: Vec<(usize, ConnectFailure)>) -> ConnectFailure {
        let closest = failures.iter().max_by_key(|(_, failure)| {
            let kind = failure.kind;
            (kind.is_final(), kind == DbErrorKind::ReadOnly, kind.is_response(), kind == DbErrorKind::Silent)
        });
        let Some(kind) = closest.map(|(_, failure)| failure.kind) else { return ConnectFailure::silent() };
        if !self.has_several_hosts() || self.only.is_some() {
            return failures.into_iter().next_back().map_or_else(ConnectFailure::silent, |(_, failure)| failure);
        }
        let details =
            failures.iter().map(|(host, failure)| format!("{}: {}", self.hosts.address(*host), failure.detail()));
        ConnectFailure::new(kind, PoolError::with_kind(kind, details.collect::<Vec<_>>().join("; ")))
    }

    /// Opens a connection to one host.
    async fn connect_to(
        &self,
        host: usize,
        password: Option<&str>,
        limit: Duration,
    ) -> Result<DriverConnection, ConnectFailure> {
        let opened = timeout(limit, self.open(host, password)).await.unwrap_or_else(|_| Err(timed_out()));
        let source = match opened {
            Ok(connection) if !self.has_several_hosts() => return Ok(connection),
            Ok(connection) => return Ok(connection.of_host(self.hosts.opened(host))),
            Err(source) => source,
        };
        let address = self.host_address(host);
        let kind = match DbErrorKind::of_driver(&source) {
            _ if self.url.engine() == Engine::Sqlite && matches!(source, sqlx::Error::Io(_)) => {
                DbErrorKind::NoSuchDatabase
            }
            // An unresponsive resolver looks like an unresponsive server.
            DbErrorKind::Lost | DbErrorKind::Silent if is_unresolvable(address, limit).await => {
                DbErrorKind::NameResolution
            }
            kind => kind,
        };
        let failure = match self.tls_failure(kind, address, &source) {
            Some(text) => ConnectFailure::new(DbErrorKind::Tls, sqlx::Error::Tls(text.into())),
            None => ConnectFailure::new(kind, source),
        };
        // Rejected credentials are not a fault of the host.
        if self.has_several_hosts() && failure.kind != DbErrorKind::Authentication {
            self.hosts.failed(host, failure.kind, &failure.detail());
        }
        Err(failure)
    }

    fn host_address(&self, host: usize) -> Option<&HostAddress> {
        match self.url.address() {
            Address::File(_) => None,
            Address::Server(server) => server.hosts.get(host),
        }
    }

    async fn open(&self, host: usize, password: Option<&str>) -> Result<DriverConnection, sqlx::Error> {
        let before_round_trip = self.driver_options.before_round_trip.clone();
        if let Some(hook) = &before_round_trip {
            for _ in 0..CONNECT_ROUND_TRIPS {
                hook().await;
            }
        }
        // A connection to a certain server serves to query it about statements and to cancel them.
        let must_accept_writes = self.needs_writable_server() && self.only.is_none();
        let params = ConnectParams { session: &self.session, password, must_accept_writes };
        let mut opened = self.engines[host].open(params).await?;
        self.driver_options.run_after_connect(opened.borrow()).await?;
        Ok(opened.before_round_trip(before_round_trip))
    }

    /// Describes a TLS error, with the host and the file concerned.
    fn tls_failure(&self, kind: DbErrorKind, address: Option<&HostAddress>, source: &sqlx::Error) -> Option<String> {
        if matches!(source, sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Configuration(_))
            && let Err(unreadable) = self.url.check_files()
        {
            // It was readable at startup.
            return Some(unreadable.to_string());
        }
        if kind != DbErrorKind::Tls {
            return None;
        }
        let (cause, host) = (root_cause(source), address.and_then(HostAddress::text).unwrap_or("localhost"));
        let file = match (is_tls_alert(source), self.url.tls_certificate(), self.url.tls_authority()) {
            (true, Some(certificate), _) => format!(", client certificate {}", certificate.display()),
            (false, _, Some(authority)) => format!(", CA certificates from {}", authority.display()),
            _ => String::new(),
        };
        Some(format!("{cause} (host {host}{file})"))
    }

    /// Checks that the file of an SQLite database is still the one that was opened. Does nothing for servers.
    ///
    /// # Errors
    ///
    /// [`DbErrorKind::NoSuchDatabase`], with what happened to the file.
    pub(crate) fn check_file(&self) -> Result<(), ConnectFailure> {
        let mut checked = self.engines.iter().map(EngineConnector::check_file);
        checked.try_for_each(|checked| checked).map_err(|error| ConnectFailure::new(DbErrorKind::NoSuchDatabase, error))
    }

    /// Returns a separate SeaORM connection to one host, preferably one that works, for code that accepts nothing else,
    /// such as `sea-orm-migration`. Its statements have no timeout, because schema changes can take long.
    ///
    /// # Errors
    ///
    /// The source of the password failed.
    pub(crate) async fn database_connection(&self, acquire: Duration) -> Result<DatabaseConnection, sqlx::Error> {
        let host = if self.has_several_hosts() { self.hosts.current() } else { 0 };
        let password = self.driver_options.password().await?;
        let driver_options = Arc::clone(&self.driver_options);
        Ok(self.engines[host].database_connection(&self.session, password.as_deref(), acquire, driver_options))
    }

    /// Returns the session settings, and what the first connection found.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }
}

/// Resolves the host again, because the driver's error does not show whether resolution failed.
async fn is_unresolvable(address: Option<&HostAddress>, limit: Duration) -> bool {
    let Some(host) = address.and_then(HostAddress::name) else { return false };
    !matches!(timeout(limit.min(RESOLVE_TIMEOUT), tokio::net::lookup_host((host, 0))).await, Ok(Ok(_)))
}
