//! Detects operations whose response was lost, for example because a firewall dropped the connection or a load balancer
//! failed over.
//!
//! For the pool, such a connection looks like one with a slow statement. The server knows the difference, so the pool
//! queries it over another connection for idle sessions. A session that has been idle for a second while the pool waits
//! for its response will never send it.

use std::{sync::Arc, time::Duration};

use sea_orm::sqlx;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{
    PoolInner,
    probe::{PING_TIMEOUT, PING_UNANSWERED},
};
use crate::{
    connect::{
        driver::{DriverConnection, SessionId},
        url::Engine,
    },
    context::{OperationContext, PendingStatement},
    error_kind::{DbErrorKind, timed_out},
    set::CloseReason,
};

/// Time without a response after which the pool queries the server about a statement.
const RESPONSE_THRESHOLD: Duration = Duration::from_secs(2);
/// The pause before the next query is as long as the slow statements have already taken, within these limits.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(5);

type Suspect = (Arc<OperationContext>, PendingStatement);

/// When the server is queried next.
#[derive(Default)]
pub(super) struct LostResponses {
    next: Option<Instant>,
    query_lock: Arc<Mutex<()>>,
}

impl LostResponses {
    /// Queries the server about operations without a response, in a separate task, and aborts those whose response was
    /// lost.
    pub(super) fn check(&mut self, inner: &Arc<PoolInner>) {
        if inner.engine == Engine::Sqlite
            || inner.health.is_down()
            || self.next.is_some_and(|next| Instant::now() < next)
        {
            return;
        }
        let holders = inner.unanswered(RESPONSE_THRESHOLD);
        let shortest = holders.iter().filter_map(|holder| holder.context.pending_for(inner.clock)).min();
        let suspects: Vec<Suspect> = holders
            .into_iter()
            .filter_map(|holder| {
                let statement = holder.context.pending(RESPONSE_THRESHOLD, inner.clock)?;
                Some((holder.context, statement))
            })
            .collect();
        let Ok(guard) = Arc::clone(&self.query_lock).try_lock_owned() else { return };
        if suspects.is_empty() {
            return;
        }
        self.next = Some(Instant::now() + shortest.unwrap_or_default().clamp(MIN_PAUSE, MAX_PAUSE));
        let inner = Arc::clone(inner);
        inner.handle.clone().spawn(async move {
            inner.abort_lost(&suspects).await;
            drop(guard);
        });
    }
}

impl PoolInner {
    /// Asks each server about the statements that run on it.
    async fn abort_lost(self: &Arc<Self>, suspects: &[Suspect]) {
        let mut hosts: Vec<Option<usize>> = suspects.iter().map(|(context, _)| context.host()).collect();
        hosts.sort_unstable();
        hosts.dedup();
        for host in hosts {
            let on_host: Vec<&Suspect> = suspects.iter().filter(|(context, _)| context.host() == host).collect();
            let sessions: Vec<_> = on_host.iter().map(|(_, statement)| statement.session).collect();
            match self.idle_sessions(host, &sessions).await {
                Some(Ok(idle)) => {
                    let lost = on_host.into_iter().filter(|(_, statement)| idle.contains(&statement.session));
                    for (context, _) in lost.filter(|(context, statement)| context.strand_in(*statement)) {
                        tracing::warn!(
                            operation = context.operation,
                            unanswered = ?context.pending_for(self.clock),
                            "operation aborted: response lost, session is idle on the server"
                        );
                    }
                }
                Some(Err(error)) => tracing::debug!(%error, "failed to query the server about pending statements"),
                // The server could not be asked, so nothing is known about the responses.
                None => {}
            }
        }
    }

    /// Returns those of the sessions on a host that are idle, according to the server; `None` if it cannot be asked.
    async fn idle_sessions(
        self: &Arc<Self>,
        host: Option<usize>,
        sessions: &[SessionId],
    ) -> Option<Result<Vec<SessionId>, sqlx::Error>> {
        let query = async |connection: &mut DriverConnection| {
            let response = timeout(PING_TIMEOUT, connection.idle_sessions(sessions)).await;
            match &response {
                Ok(Ok(_)) => connection.host_responded(),
                Ok(Err(_)) => {}
                Err(_) => connection.host_failed(DbErrorKind::Silent, PING_UNANSWERED),
            }
            response.unwrap_or_else(|_| Err(timed_out()))
        };
        if let Some(mut entry) = self.admission.take_idle_if(|entry| entry.connection.host() == host) {
            let idle = query(&mut entry.connection).await;
            if idle.is_ok() {
                entry.last_response = Instant::now();
                self.check_in(entry);
            } else {
                drop(entry);
                self.discard(CloseReason::Broken);
            }
            return Some(idle);
        }
        let mut connection = self.open_on(host).await?;
        let idle = query(&mut connection).await;
        // The server cleans up the session in any case.
        let _ = timeout(PING_TIMEOUT, connection.close()).await;
        Some(idle)
    }

    /// Opens a connection to a host that does not belong to the pool. If the host does not respond, it is known to be
    /// silent from then on.
    async fn open_on(&self, host: Option<usize>) -> Option<DriverConnection> {
        let connector = self.connector();
        let Ok(opened) = timeout(PING_TIMEOUT, self.open_detached(connector.only(host))).await else {
            if let Some(host) = host {
                connector.hosts().failed(host, DbErrorKind::Silent, PING_UNANSWERED);
            }
            return None;
        };
        opened?.ok()
    }
}
