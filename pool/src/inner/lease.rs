//! A connection in use: from admission to its return.

use std::{
    sync::{Arc, atomic::Ordering},
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

/// A connection in use. Dropped without [`Lease::end`] (a panic, an abort), its connection is closed.
#[derive(Debug)]
pub(crate) struct Lease {
    inner: Arc<PoolInner>,
    context: Arc<OperationContext>,
    id: u64,
    entry: Option<PoolEntry<DriverConnection>>,
    waited: Duration,
    ended: bool,
    _turn: Option<OwnedSemaphorePermit>,
}

impl PoolInner {
    /// Acquires a connection for an operation. It is not pinged.
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
            _turn: admitted.turn,
        }
    }

    /// The error of an operation that was refused, with the pool's state at this moment.
    pub(crate) fn refusal(&self, operation: &'static str, reason: AcquireError) -> Error {
        let reason = self.with_cause(reason);
        self.metrics.refused(&reason);
        let usage = PoolUsage { counts: self.status(), holders: self.longest_holders(3) };
        Error::Refused { operation, reason, usage: Box::new(usage) }
    }

    /// A time-out while nothing is in use is an outage, and not a busy pool.
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

    /// Sets the wait of a batch's first member.
    pub(crate) fn waited(&mut self, waited: Duration) {
        self.waited = waited;
    }

    pub(crate) fn entry(&mut self) -> Option<&mut PoolEntry<DriverConnection>> {
        self.entry.as_mut()
    }

    /// Returns a connection that works.
    pub(crate) fn end(self, entry: PoolEntry<DriverConnection>) {
        self.check_in(entry, true);
    }

    /// The same for a use that should not count towards the mean hold time.
    pub(crate) fn end_unlike_others(self, entry: PoolEntry<DriverConnection>) {
        self.check_in(entry, false);
    }

    fn check_in(mut self, mut entry: PoolEntry<DriverConnection>, is_usual: bool) {
        self.ended = true;
        self.release(is_usual);
        entry.last_used = Instant::now();
        self.inner.check_in(entry);
    }

    /// Closes a connection that works and must not be used again.
    pub(crate) fn end_and_close(mut self, entry: PoolEntry<DriverConnection>, reason: CloseReason) {
        self.ended = true;
        self.release(true);
        self.inner.close(entry, reason);
    }

    fn release(&self, is_usual: bool) {
        if let Some(since) = self.inner.admission.connections().release(self.id) {
            self.inner.metrics.used(self.waited, since.elapsed(), is_usual);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.release(false);
        // Its socket is closed with it: the peer learns of it, if it still listens.
        drop(self.entry.take());
        let is_stranded = self.context.is_stranded.load(Ordering::Relaxed);
        self.inner.discard(if is_stranded { CloseReason::Stranded } else { CloseReason::Broken });
    }
}
