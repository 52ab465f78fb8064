//! Detects operations whose response was lost, for example because a firewall dropped the connection or a load balancer
//! failed over.
//!
//! For the pool, such a connection looks like one with a slow statement. The server knows the difference, so the pool
//! queries it over another connection for idle sessions. A session that has been idle for a second while the pool waits
//! for its response will never send it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{PoolInner, probe::PING_TIMEOUT};
use crate::{
    connect::{driver::DriverConnection, url::Engine},
    context::{OperationContext, PendingStatement},
    error_kind::timed_out,
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
    async fn abort_lost(self: &Arc<Self>, suspects: &[Suspect]) {
        let sessions: Vec<_> = suspects.iter().map(|(_, statement)| statement.session).collect();
        let query = async |connection: &mut DriverConnection| {
            let response = timeout(PING_TIMEOUT, connection.idle_sessions(&sessions)).await;
            response.unwrap_or_else(|_| Err(timed_out()))
        };
        let idle = if let Some(mut entry) = self.admission.take_idle_if(|_| true) {
            let idle = query(&mut entry.connection).await;
            if idle.is_ok() {
                entry.last_response = Instant::now();
                self.check_in(entry);
            } else {
                drop(entry);
                self.discard(CloseReason::Broken);
            }
            idle
        } else {
            let opened = timeout(PING_TIMEOUT, self.open_detached(None)).await;
            // A failed query is no evidence that responses were lost.
            let Ok(Some(Ok(mut connection))) = opened else { return };
            let idle = query(&mut connection).await;
            // The server cleans up the session in any case.
            let _ = timeout(PING_TIMEOUT, connection.close()).await;
            idle
        };
        match idle {
            Ok(idle) => {
                let lost = suspects.iter().filter(|(_, statement)| idle.contains(&statement.session));
                for (context, _) in lost.filter(|(context, statement)| context.strand_in(*statement)) {
                    tracing::warn!(
                        operation = context.operation,
                        unanswered = ?context.pending_for(self.clock),
                        "operation aborted: response lost, session is idle on the server"
                    );
                }
            }
            Err(error) => tracing::debug!(%error, "failed to query the server about pending statements"),
        }
    }
}
