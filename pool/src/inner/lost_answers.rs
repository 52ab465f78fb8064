//! Operations whose answers were lost on the way: by a firewall that has forgotten a connection, or a balancer that has moved.
//!
//! Such a connection looks like one whose statement takes long. The server knows the difference: it is asked over another
//! connection whether the session runs a statement at all. One that has waited for its next statement for a second while the
//! pool waits for its answer will never send it.

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

/// The server is asked about statements that have had no answer for so long.
const UNANSWERED: Duration = Duration::from_secs(2);
/// Statements that simply take long are asked about again after as long as they have taken, within these limits.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

type Suspect = (Arc<OperationContext>, PendingStatement);

/// When the server was asked last.
#[derive(Default)]
pub(super) struct LostAnswers {
    next: Option<Instant>,
    asking: Arc<Mutex<()>>,
}

impl LostAnswers {
    /// Asks the server about operations that have had no answer for a while, in a separate task, and ends those whose answers
    /// were lost.
    pub(super) fn look(&mut self, inner: &Arc<PoolInner>) {
        if inner.engine == Engine::Sqlite
            || inner.health.is_down()
            || self.next.is_some_and(|next| Instant::now() < next)
        {
            return;
        }
        let holders = inner.unanswered(UNANSWERED);
        let owed = holders.iter().filter_map(|holder| holder.context.unanswered(inner.clock)).min();
        let suspects: Vec<Suspect> = holders
            .into_iter()
            .filter_map(|holder| {
                let statement = holder.context.pending(UNANSWERED, inner.clock)?;
                Some((holder.context, statement))
            })
            .collect();
        let Ok(alone) = Arc::clone(&self.asking).try_lock_owned() else { return };
        if suspects.is_empty() {
            return;
        }
        self.next = Some(Instant::now() + owed.unwrap_or_default().clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
        let inner = Arc::clone(inner);
        inner.handle.clone().spawn(async move {
            inner.end_lost(&suspects).await;
            drop(alone);
        });
    }
}

impl PoolInner {
    async fn end_lost(self: &Arc<Self>, suspects: &[Suspect]) {
        let sessions: Vec<_> = suspects.iter().map(|(_, statement)| statement.session).collect();
        let ask = async |connection: &mut DriverConnection| {
            let asked = timeout(PING_TIMEOUT, connection.idle_sessions(&sessions)).await;
            asked.unwrap_or_else(|_| Err(timed_out()))
        };
        let idle = if let Some(mut entry) = self.admission.take_idle_if(|_| true) {
            let idle = ask(&mut entry.connection).await;
            if idle.is_ok() {
                entry.last_response = Instant::now();
                self.check_in(entry);
            } else {
                drop(entry);
                self.discard(CloseReason::Broken);
            }
            idle
        } else {
            let opened = timeout(PING_TIMEOUT, self.open_aside(None)).await;
            // That the server cannot be asked says nothing about the operations.
            let Ok(Some(Ok(mut connection))) = opened else { return };
            let idle = ask(&mut connection).await;
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
                        unanswered = ?context.unanswered(self.clock),
                        "operation aborted: its answer was lost, the server waits for the next statement"
                    );
                }
            }
            Err(error) => tracing::debug!(%error, "the server could not be asked about unanswered statements"),
        }
    }
}
