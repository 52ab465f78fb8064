//! The state of the hosts of a database URL, and the choice of the next one to try.
//!
//! A URL with several hosts is that of a cluster, or of a primary with replicas. Connections go to the first host that
//! works, or to a random one (`load_balance_hosts`). A host that failed is tried last, until [`RETRY`] has passed, or
//! longer after repeated failures: then one attempt tries it in its usual place, so that a host that does not respond delays only that attempt.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::url::HostAddress;
use crate::error_kind::DbErrorKind;

/// How long a host that failed is tried last. It doubles with each further failure, up to the maximum.
const RETRY: Duration = Duration::from_secs(10);
const MAX_RETRY: Duration = Duration::from_mins(2);

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
    /// A copy of the state for the hot path: whether a connection attempt or a ping had no response, and nothing has
    /// responded since.
    is_silent: AtomicBool,
    state: Mutex<HostState>,
}

/// The state of a host after the latest connection attempt, ping or statement.
#[derive(Clone, Debug)]
pub(crate) enum HostState {
    /// No connection to it was tried.
    Untried,
    Working,
    Failed(HostFailure),
}

/// The failure for which a host is not used.
#[derive(Clone, Debug)]
pub(crate) struct HostFailure {
    pub(crate) kind: DbErrorKind,
    pub(crate) detail: Arc<str>,
    pub(crate) since: Instant,
    /// How often it has failed since it last worked.
    failures: u32,
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
            is_silent: AtomicBool::new(false),
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
        order.sort_by_cached_key(|at| match &*self.hosts[*at].state() {
            HostState::Failed(failure) if failure.retry_at > now => Some(failure.retry_at),
            _ => None,
        });
        for at in &order {
            let HostState::Failed(failure) = &mut *self.hosts[*at].state() else { break };
            if failure.retry_at <= now {
                // Other attempts try it last, until this one has ended.
                failure.retry_at = now + RETRY;
            }
        }
        order
    }

    /// Returns the host for a connection without a choice: one that works, otherwise the first one.
    pub(super) fn current(&self) -> usize {
        let works = |host: &Host| matches!(&*host.state(), HostState::Working);
        let has_connections = |host: &Host| works(host) && host.connections.load(Ordering::Relaxed) > 0;
        let used = self.hosts.iter().position(has_connections);
        used.or_else(|| self.hosts.iter().position(works)).unwrap_or_default()
    }

    pub(super) fn address(&self, host: usize) -> &str {
        &self.hosts[host].address
    }

    /// Records a new connection to a host, and counts it as long as the result exists.
    pub(super) fn opened(self: &Arc<Self>, host: usize) -> HostConnection {
        let Host { address, connections, is_silent, state } = &self.hosts[host];
        connections.fetch_add(1, Ordering::Relaxed);
        is_silent.store(false, Ordering::Relaxed);
        let before = std::mem::replace(&mut *lock(state), HostState::Working);
        if let HostState::Failed(failure) = before {
            tracing::info!(host = %address, after = ?failure.since.elapsed(), "host available again");
        }
        HostConnection { hosts: Arc::clone(self), host }
    }

    /// Records that a host cannot be used.
    pub(crate) fn failed(&self, host: usize, kind: DbErrorKind, detail: &str) {
        let Host { address, state, is_silent, .. } = &self.hosts[host];
        let now = Instant::now();
        let mut state = lock(state);
        let (since, failures) = match &*state {
            HostState::Failed(before) if before.kind == kind => (before.since, before.failures + 1),
            HostState::Failed(before) => (now, before.failures + 1),
            _ => (now, 1),
        };
        if since == now {
            tracing::warn!(host = %address, cause = %kind, detail, "host marked as failed; trying others first");
        }
        let pause = RETRY.saturating_mul(1 << (failures - 1).min(10)).min(MAX_RETRY);
        is_silent.store(kind == DbErrorKind::Silent, Ordering::Relaxed);
        *state = HostState::Failed(HostFailure { kind, detail: detail.into(), since, failures, retry_at: now + pause });
    }

    /// Records a response of a host on an open connection.
    fn responded(&self, host: usize) {
        let Host { is_silent, state, .. } = &self.hosts[host];
        if is_silent.load(Ordering::Relaxed) && is_silent.swap(false, Ordering::Relaxed) {
            *lock(state) = HostState::Working;
        }
    }

    /// Whether a connection attempt or a ping had no response from this host, and nothing has responded since.
    pub(crate) fn is_silent(&self, host: usize) -> bool {
        self.hosts.get(host).is_some_and(|host| host.is_silent.load(Ordering::Relaxed))
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
    pub(super) fn host(&self) -> usize {
        self.host
    }

    /// Records a response on the connection.
    pub(super) fn responded(&self) {
        self.hosts.responded(self.host);
    }

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
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(hosts.order(), [0, 2, 1]);
        assert_eq!(hosts.order(), [2, 1, 0], "only one attempt retries it");
        hosts.failed(0, DbErrorKind::Refused, "refused");
        tokio::time::advance(RETRY).await;
        assert_eq!(hosts.order()[2], 0, "after another failure it takes twice as long");
        let connection = hosts.opened(0);
        assert_eq!((hosts.order()[0], hosts.infos()[0].connections), (0, 1));
        drop(connection);
        assert_eq!(hosts.infos()[0].connections, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_behind_one_that_works_keeps_its_retry() {
        let hosts = hosts(false);
        hosts.failed(1, DbErrorKind::Refused, "refused");
        tokio::time::advance(RETRY).await;
        assert_eq!((hosts.order(), hosts.order()), (vec![0, 1, 2], vec![0, 1, 2]));
    }

    #[tokio::test]
    async fn a_response_ends_the_silence_of_a_host() {
        let hosts = hosts(false);
        let connection = hosts.opened(1);
        connection.failed(DbErrorKind::Silent, "a ping was lost");
        assert!(hosts.is_silent(1) && !hosts.is_silent(0));
        connection.responded();
        assert!(!hosts.is_silent(1) && matches!(hosts.infos()[1].state, HostState::Working));
        connection.failed(DbErrorKind::ReadOnly, "read-only");
        connection.responded();
        assert!(matches!(hosts.infos()[1].state, HostState::Failed(_)), "it responds, and is still read-only");
        assert_eq!(hosts.current(), 0, "none works");
        let _other = hosts.opened(2);
        assert_eq!(hosts.current(), 2);
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
