//! Opens the pool and its first connections.

use std::{sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};

use super::{Pool, PoolParts};
use crate::{
    connect::{
        connector::{ConnectFailure, Connector},
        driver_options::DriverOptions,
        url::DatabaseUrl,
    },
    error::ConnectError,
    error_kind::{DbErrorKind, connection_error},
    exec::runtime::PoolRuntime,
    inner::{
        PoolInner, connections::open_connections, housekeeper::run_housekeeper, probe::PING_TIMEOUT,
        requests::ConnectProgress,
    },
    options::{InvalidOption, PoolOptions},
    stats::metrics::PoolMetrics,
};

impl Pool {
    /// Opens the pool. Returns once one connection is open, and `min` are, or an attempt to open another one has failed, or
    /// `options.acquire` has elapsed.
    ///
    /// If the database is unreachable, for example because it is still starting, the pool retries for up to
    /// `options.acquire`. Errors that a retry cannot fix, such as a wrong password, are returned immediately. Use
    /// [`builder`](Self::builder) to set driver options.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Unreachable`] contains the URL, without the password, and the cause; [`ConnectError::Option`] and
    /// [`ConnectError::EngineDisabled`] name what is invalid.
    pub async fn connect(url: &DatabaseUrl, options: &PoolOptions) -> Result<Self, ConnectError> {
        Self::builder(url).options(options.clone()).connect().await
    }

    pub(super) async fn open(
        url: &DatabaseUrl,
        options: &PoolOptions,
        driver_options: &Arc<DriverOptions>,
        runtime: Option<Handle>,
    ) -> Result<Self, ConnectError> {
        let options = effective_options(url, options)?;
        let runtime = match runtime {
            Some(handle) => PoolRuntime::from_handle(handle),
            None => PoolRuntime::start(options.threads).map_err(ConnectError::Runtime)?,
        };
        let metrics = PoolMetrics::new(&options.application_name)
            .map_err(|error| ConnectError::Runtime(std::io::Error::other(format!("{error:?}"))))?;
        let connector =
            Connector::new(url, &options, driver_options).map_err(|_| ConnectError::EngineDisabled(url.engine()))?;
        let inner = Arc::new(PoolInner::new(options, connector, metrics, runtime.handle()));
        // If the warm-up fails or is cancelled, dropping `pool` ends its tasks.
        let pool = Self(Arc::new(PoolParts { inner, runtime }));
        pool.runtime().spawn(open_connections(Arc::clone(pool.inner())));
        warm_up(pool.inner()).await?;
        pool.runtime().spawn(run_housekeeper(Arc::clone(pool.inner())));
        warn_if_unverified(url);
        Ok(pool)
    }
}

/// Validates the options and adapts them to the database.
pub(super) fn effective_options(url: &DatabaseUrl, options: &PoolOptions) -> Result<PoolOptions, InvalidOption> {
    options.validate()?;
    let mut options = options.clone();
    if url.is_in_memory() {
        // An in-memory database is deleted with its last connection, so it has exactly one, which is never closed.
        (options.max, options.min) = (1, 1);
        (options.idle, options.lifetime) = (Duration::ZERO, Duration::ZERO);
    }
    Ok(options)
}

/// Warns once per pool if connections are not verified: without verification TLS does not protect from an active
/// attacker.
fn warn_if_unverified(url: &DatabaseUrl) {
    const ADVICE: &str = "sslmode=verify-full (PostgreSQL), ssl-mode=VERIFY_IDENTITY (MySQL, MariaDB)";
    if let Some(host) = url.unverified_host() {
        tracing::warn!(host, advice = ADVICE, "TLS certificate of the database is not verified");
    }
}

/// Waits for the first connection, then until `min` connections are open or an attempt fails.
async fn warm_up(inner: &Arc<PoolInner>) -> Result<(), ConnectError> {
    let (began, wait) = (Instant::now(), inner.options().acquire);
    let connector = inner.connector();
    let mut progress = inner.connect_progress();
    let mut has_warned = false;
    loop {
        if inner.admission.connections().counts().open > 0 {
            break;
        }
        let failure = progress.borrow_and_update().failure.clone();
        if let Some(failure) = &failure {
            if failure.kind.is_final() || failure.kind == DbErrorKind::Other {
                return Err(unreachable(&connector, began, failure.clone()));
            }
            if !std::mem::replace(&mut has_warned, true) {
                let error = failure.detail();
                tracing::warn!(url = %connector.url(), error, ?wait, "database unreachable; retrying");
            }
        }
        if !matches!(timeout_at(began + wait, progress.changed()).await, Ok(Ok(()))) {
            let failure = last_failure(&progress.borrow());
            return Err(unreachable(&connector, began, failure));
        }
    }
    // Afterwards the housekeeper maintains `min`.
    let min = inner.options().min;
    let is_warm = |inner: &PoolInner| {
        inner.admission.connections().counts().staying() >= min || inner.connect_progress().borrow().failure.is_some()
    };
    inner.replenish();
    // Within the same time limit; the remaining ones are opened in the background.
    let _ = timeout_at(began + wait, inner.until(is_warm)).await;
    Ok(())
}

/// Returns the cause to report after the timeout: the last failure if the current attempt has only just begun,
/// otherwise that the current attempt got no response.
fn last_failure(progress: &ConnectProgress) -> ConnectFailure {
    let is_overdue = progress.began.is_none_or(|began| began.elapsed() >= PING_TIMEOUT);
    progress.failure.clone().filter(|_| !is_overdue || !progress.is_in_flight()).unwrap_or_else(ConnectFailure::silent)
}

fn unreachable(connector: &Connector, began: Instant, failure: ConnectFailure) -> ConnectError {
    ConnectError::Unreachable {
        url: connector.url().to_string(),
        waited: began.elapsed(),
        kind: failure.kind,
        cause: connection_error(failure.source),
    }
}
