//! Leases: connections in use, from admission to check-in.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::PoolInner;
use crate::{
    connect::driver::DriverConnection,
    context::OperationContext,
    error::{Error, PoolUsage},
    error_kind::DbErrorKind,
    options::PoolOptions,
    set::{Access, AcquireError, AdmissionParams, Admitted, CloseReason, PoolEntry},
};

/// How long refusals share the state of the pool.
const USAGE_AGE: Duration = Duration::from_millis(20);

/// A connection in use. If it is dropped without [`Lease::end`] (after a panic or an abort), the connection is closed.
#[derive(Debug)]
pub(crate) struct Lease {
    inner: Arc<PoolInner>,
    context: Arc<OperationContext>,
    id: u64,
    entry: Option<PoolEntry<DriverConnection>>,
    waited: Duration,
    ended: bool,
    _write_permit: Option<OwnedSemaphorePermit>,
}

impl PoolInner {
    /// Acquires a connection for an operation, without a ping.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        context: &Arc<OperationContext>,
        access: Access,
    ) -> Result<Lease, Error> {
        let arrived = Instant::now();
        let options = self.options();
        match self.admission.acquire(context, access, &self.admission_params(&options, &|| self.replenish())).await {
            Ok(admitted) => Ok(self.lease(context, admitted, arrived.elapsed())),
            Err(reason) => Err(self.refusal(context.operation, reason)),
        }
    }

    pub(crate) fn admission_params<'a>(
        &'a self,
        options: &'a PoolOptions,
        demand: &'a (dyn Fn() + Sync),
    ) -> AdmissionParams<'a> {
        AdmissionParams { options, health: &self.health, mean_hold: self.metrics.mean_hold(), demand }
    }

    pub(crate) fn lease(
        self: &Arc<Self>,
        context: &Arc<OperationContext>,
        admitted: Admitted<DriverConnection>,
        waited: Duration,
    ) -> Lease {
        Lease {
            inner: Arc::clone(self),
            context: Arc::clone(context),
            id: admitted.entry.id,
            entry: Some(admitted.entry),
            waited,
            ended: false,
            _write_permit: admitted.turn,
        }
    }

    /// Returns the error for a refused operation, with the current state of the pool, and counts it.
    pub(crate) fn refusal(&self, operation: &'static str, reason: AcquireError) -> Error {
        let reason = self.with_cause(reason);
        self.metrics.refused(&reason);
        Error::Refused { operation, reason, usage: self.recent_usage() }
    }

    /// Returns the state of the pool. It visits all connections, so refusals in quick succession share it: an overloaded
    /// process must not spend its time on them.
    fn recent_usage(&self) -> Arc<PoolUsage> {
        let mut recent = self.recent_usage.lock().unwrap_or_else(PoisonError::into_inner);
        match &*recent {
            Some((at, usage)) if at.elapsed() < USAGE_AGE => Arc::clone(usage),
            _ => {
                let usage = Arc::new(PoolUsage { counts: self.status(), holders: self.longest_holders(3) });
                *recent = Some((Instant::now(), Arc::clone(&usage)));
                usage
            }
        }
    }

    /// A timeout while no connection is in use is caused by an outage, not by a busy pool.
    fn with_cause(&self, reason: AcquireError) -> AcquireError {
        let counts = self.admission.connections().counts();
        if !matches!(reason, AcquireError::TimedOut { .. }) || counts.in_use > 0 {
            return reason;
        }
        match self.health.shortage() {
            Some(incident) => AcquireError::Down { kind: incident.kind, detail: incident.detail },
            None if counts.open == 0 => {
                AcquireError::Down { kind: DbErrorKind::Silent, detail: "no connection could be opened in time".into() }
            }
            None => reason,
        }
    }
}

impl Lease {
    pub(crate) fn take(&mut self) -> Option<PoolEntry<DriverConnection>> {
        self.entry.take()
    }

    /// Sets the time that the first operation of a batch has waited.
    pub(crate) fn set_waited(&mut self, waited: Duration) {
        self.waited = waited;
    }

    pub(crate) fn entry(&mut self) -> Option<&mut PoolEntry<DriverConnection>> {
        self.entry.as_mut()
    }

    /// Returns a working connection to the pool.
    pub(crate) fn end(self, entry: PoolEntry<DriverConnection>) {
        self.check_in(entry, true);
    }

    /// Like [`end`](Self::end), for a hold that does not count towards the mean hold time.
    pub(crate) fn end_unmeasured(self, entry: PoolEntry<DriverConnection>) {
        self.check_in(entry, false);
    }

    fn check_in(mut self, mut entry: PoolEntry<DriverConnection>, is_measured: bool) {
        self.ended = true;
        self.release(is_measured);
        entry.last_used = Instant::now();
        self.inner.check_in(entry);
    }

    /// Closes a working connection that must not be reused.
    pub(crate) fn end_and_close(mut self, entry: PoolEntry<DriverConnection>, reason: CloseReason) {
        self.ended = true;
        self.release(true);
        self.inner.close(entry, reason);
    }

    fn release(&self, is_measured: bool) {
        if let Some(since) = self.inner.admission.connections().release(self.id) {
            self.inner.metrics.used(self.waited, since.elapsed(), is_measured);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.release(false);
        // Dropping the connection closes its socket.
        drop(self.entry.take());
        let is_stranded = self.context.is_stranded.load(Ordering::Relaxed);
        self.inner.discard(if is_stranded { CloseReason::Stranded } else { CloseReason::Broken });
    }
}
