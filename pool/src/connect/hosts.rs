//! What is known of the hosts of a database URL, and which one to try next.
//!
//! A URL with several hosts is that of a cluster, or of a primary with replicas. Connections go to the first host that
//! works, or to a random one (`load_balance_hosts`). A host that failed is tried last, until [`RETRY`] has passed: then
//! one attempt tries it in its usual place, so that a host that does not respond delays only that attempt.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::url::HostAddress;
use crate::error_kind::DbErrorKind;

/// How long a host that failed is tried last.
const RETRY: Duration = Duration::from_secs(10);

/// The hosts of a database URL.
#[derive(Debug)]
pub(crate) struct Hosts {
    hosts: Vec<Host>,
    is_random: bool,
}

#[derive(Debug)]
struct Host {
    /// The address, without user and password.
    address: String,
    /// Open connections.
    connections: AtomicU32,
    /// The digest of the server that its latest connection reached; 0 if unknown.
    server: AtomicU64,
    state: Mutex<HostState>,
}

/// What the latest attempts to connect to a host have found.
#[derive(Clone, Debug)]
pub(crate) enum HostState {
    /// No connection to it was tried.
    Untried,
    Working,
    Failed(HostFailure),
}

/// Why a host is not used.
#[derive(Clone, Debug)]
pub(crate) struct HostFailure {
    pub(crate) kind: DbErrorKind,
    pub(crate) detail: Arc<str>,
    pub(crate) since: Instant,
    /// When it is next tried in its usual place.
    retry_at: Instant,
}

/// One host, as it is shown.
#[derive(Clone, Debug)]
pub(crate) struct HostInfo {
    pub(crate) address: String,
    pub(crate) connections: u32,
    pub(crate) state: HostState,
}

impl Hosts {
    pub(super) fn new(addresses: &[HostAddress], is_random: bool) -> Self {
        let host = |address: &HostAddress| Host {
            address: address.to_string(),
            connections: AtomicU32::new(0),
            server: AtomicU64::new(0),
            state: Mutex::new(HostState::Untried),
        };
        Self { hosts: addresses.iter().map(host).collect(), is_random }
    }

    /// Returns the hosts in the order in which the next attempt tries them.
    pub(super) fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.hosts.len()).collect();
        if self.is_random {
            fastrand::shuffle(&mut order);
        }
        let now = Instant::now();
        // The sort is stable: those that are expected to work keep their order.
        order.sort_by_cached_key(|at| match &mut *self.hosts[*at].state() {
            HostState::Untried | HostState::Working => None,
            HostState::Failed(failure) if failure.retry_at <= now => {
                // Other attempts try it last, until this one has ended.
                failure.retry_at = now + RETRY;
                None
            }
            HostState::Failed(failure) => Some(failure.retry_at),
        });
        order
    }

    pub(super) fn address(&self, host: usize) -> &str {
        &self.hosts[host].address
    }

    /// Records a new connection to a host, and counts it as long as the result exists.
    pub(super) fn opened(self: &Arc<Self>, host: usize, server: Option<u64>) -> HostConnection {
        let Host { address, connections, server: known, state } = &self.hosts[host];
        connections.fetch_add(1, Ordering::Relaxed);
        known.store(server.unwrap_or_default(), Ordering::Relaxed);
        let before = std::mem::replace(&mut *lock(state), HostState::Working);
        if let HostState::Failed(failure) = before {
            tracing::info!(host = %address, after = ?failure.since.elapsed(), "the host is available again");
        }
        HostConnection { hosts: Arc::clone(self), host }
    }

    /// Records that a host cannot be used.
    pub(super) fn failed(&self, host: usize, kind: DbErrorKind, detail: &str) {
        let Host { address, state, .. } = &self.hosts[host];
        let now = Instant::now();
        let mut state = lock(state);
        let since = match &*state {
            HostState::Failed(before) if before.kind == kind => before.since,
            _ => now,
        };
        if since == now {
            tracing::warn!(host = %address, cause = %kind, detail, "the host is not used");
        }
        *state = HostState::Failed(HostFailure { kind, detail: detail.into(), since, retry_at: now + RETRY });
    }

    /// Returns the host whose latest connection reached this server.
    pub(super) fn of_server(&self, server: u64) -> Option<usize> {
        self.hosts.iter().position(|host| host.server.load(Ordering::Relaxed) == server)
    }

    /// Whether the latest attempt to connect to this server's host had no response.
    pub(crate) fn is_silent(&self, server: u64) -> bool {
        self.of_server(server).is_some_and(|host| {
            matches!(&*self.hosts[host].state(), HostState::Failed(failure) if failure.kind == DbErrorKind::Silent)
        })
    }

    /// Returns what is known of each host.
    pub(crate) fn infos(&self) -> Vec<HostInfo> {
        let info = |host: &Host| HostInfo {
            address: host.address.clone(),
            connections: host.connections.load(Ordering::Relaxed),
            state: host.state().clone(),
        };
        self.hosts.iter().map(info).collect()
    }
}

impl Host {
    fn state(&self) -> MutexGuard<'_, HostState> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<HostState>) -> MutexGuard<'_, HostState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open connection to one of several hosts.
#[derive(Debug)]
pub(super) struct HostConnection {
    hosts: Arc<Hosts>,
    host: usize,
}

impl HostConnection {
    /// Records that the host cannot be used.
    pub(super) fn failed(&self, kind: DbErrorKind, detail: &str) {
        self.hosts.failed(self.host, kind, detail);
    }
}

impl Drop for HostConnection {
    fn drop(&mut self) {
        self.hosts.hosts[self.host].connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::url::Host as UrlHost, *};

    fn hosts(is_random: bool) -> Arc<Hosts> {
        let address = |port| HostAddress { host: UrlHost::Name("db".to_owned()), port };
        Arc::new(Hosts::new(&[address(1), address(2), address(3)], is_random))
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_host_is_tried_last_until_one_attempt_retries_it() {
        let hosts = hosts(false);
        assert_eq!(hosts.order(), [0, 1, 2]);
        hosts.failed(0, DbErrorKind::Refused, "refused");
        assert_eq!(hosts.order(), [1, 2, 0]);
        tokio::time::advance(Duration::from_secs(1)).await;
        hosts.failed(1, DbErrorKind::Silent, "silent");
        assert_eq!(hosts.order(), [2, 0, 1], "the one that failed first is tried first");
        tokio::time::advance(RETRY - Duration::from_secs(1)).await;
        assert_eq!(hosts.order(), [0, 2, 1]);
        assert_eq!(hosts.order(), [2, 1, 0], "only one attempt retries it");
        let connection = hosts.opened(0, Some(7));
        assert_eq!((hosts.order(), hosts.infos()[0].connections), (vec![0, 2, 1], 1));
        assert!(!hosts.is_silent(7));
        connection.failed(DbErrorKind::Silent, "silent");
        assert!(hosts.is_silent(7) && !hosts.is_silent(8));
        drop(connection);
        assert_eq!(hosts.infos()[0].connections, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_random_order_has_every_host_and_failed_ones_at_the_end() {
        let hosts = hosts(true);
        hosts.failed(1, DbErrorKind::Refused, "refused");
        let mut firsts = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let order = hosts.order();
            assert_eq!(order[2], 1);
            firsts.insert(order[0]);
        }
        assert_eq!(firsts.into_iter().collect::<Vec<_>>(), [0, 2]);
    }
}
