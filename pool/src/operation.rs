//! An operation from its arrival to its answer: let in, run on the pool's runtime, repeated where that is safe.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use sea_orm::{AccessMode, TransactionOptions};
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;

use crate::{
    Connection, Error, Fault, Pool,
    admission::Lane,
    bulk::Place,
    core::{Core, SIGN_OF_LIFE},
    lease::Lease,
    raw::Raw,
    ticket::{self, Ticket},
};

/// How often an operation is begun at the most, when connections die underneath it: often enough to outlast a server that
/// ends its connections one after another, and no more, since it may be the operation itself that ends them.
const LIVES: u32 = 5;
/// How often it is begun at the most, when others stand in its way.
const CONFLICTS: u32 = 10;
const FIRST_BACKOFF: Duration = Duration::from_millis(4);
const LONGEST_BACKOFF: Duration = Duration::from_millis(250);

/// What may be done again if it fails half-way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Changes nothing, so it may be repeated.
    Read,
    /// Repeated only if its first statement was refused.
    Write,
    /// Repeated as a whole, unless the commit was sent and its answer is not known.
    Transaction(TransactionOptions),
}

impl Kind {
    pub(crate) fn lane(self) -> Lane {
        match self {
            Self::Read => Lane::Read,
            Self::Transaction(options) if options.access_mode == Some(AccessMode::ReadOnly) => Lane::Read,
            Self::Write | Self::Transaction(_) => Lane::Write,
        }
    }

    /// The same on a connection whose session keeps nothing: what writes becomes a transaction.
    fn on(self, raw: &Raw) -> Self {
        match self {
            Self::Write if raw.needs_transaction() => Self::Transaction(TransactionOptions::default()),
            kind => kind,
        }
    }

    /// The transaction that an operation of this kind needs, if any.
    fn transaction(self, raw: &Raw) -> Option<TransactionOptions> {
        match self {
            Self::Transaction(options) => Some(options),
            Self::Read | Self::Write => raw.needs_transaction().then(TransactionOptions::default),
        }
    }

    /// Whether an attempt that met this fault has certainly left nothing behind.
    fn may_repeat(self, fault: Fault, attempt: &Attempted) -> Option<Reason> {
        let died =
            matches!(fault, Fault::Lost | Fault::Terminated | Fault::NotAccepting | Fault::StalePlan | Fault::Pooler);
        match self {
            Self::Write if attempt.done > 0 => None,
            _ if fault == Fault::Conflict => Some(Reason::Conflict),
            Self::Read if died => Some(Reason::Died),
            Self::Transaction(_) if died && !attempt.commit_sent => Some(Reason::Died),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Conflict,
    Died,
}

/// What is left of an attempt.
struct Attempted {
    /// What the operation was on its connection.
    kind: Kind,
    fault: Option<Fault>,
    done: u32,
    commit_sent: bool,
}

impl Pool {
    pub(crate) async fn operate<T, E, F, Fut>(&self, operation: &'static str, kind: Kind, body: F) -> Result<T, E>
    where
        F: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.operate_in(operation, kind, None, body).await
    }

    /// The same, in a place of those who work in bulk, which the operation keeps until its end, whoever waits for it.
    pub(crate) async fn operate_in<T, E, F, Fut>(
        &self,
        operation: &'static str,
        kind: Kind,
        place: Option<Place>,
        body: F,
    ) -> Result<T, E>
    where
        F: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let span = self.span(operation);
        let (ticket, lease) = self.arrive(operation, kind.lane(), &span).await?;
        let core = Arc::clone(&self.inner.core);
        let of_task = Arc::clone(&ticket);
        let work = async move {
            let outcome = run(&core, &of_task, kind, lease, body).await;
            core.record.ended(1, outcome.is_ok());
            if let Some(place) = place {
                place.leave();
            }
            outcome
        };
        self.await_task(ticket, work.instrument(span)).await
    }

    pub(crate) fn span(&self, operation: &'static str) -> tracing::Span {
        tracing::info_span!(
            "operation",
            otel.name = operation,
            otel.kind = "client",
            db.system.name = self.engine().system_name(),
            db.operation.name = operation,
            db.operation.batch.size = tracing::field::Empty,
        )
    }

    /// Waits for a connection. Dropping this future leaves the queue.
    pub(crate) async fn arrive(
        &self,
        operation: &'static str,
        lane: Lane,
        span: &tracing::Span,
    ) -> Result<(Arc<Ticket>, Lease), Error> {
        if let Some(within) = ticket::within() {
            return Err(Error::Nested { operation, within });
        }
        let ticket = Ticket::new(operation);
        let waiting = tracing::info_span!(parent: span, "wait", otel.name = "pool.wait");
        let lease = self.inner.core.enter(&ticket, lane).instrument(waiting).await?;
        Ok((ticket, lease))
    }

    /// Runs an operation as a task of the pool's runtime: whoever waits for it may go away without ending it half-way.
    pub(crate) async fn await_task<T, E>(
        &self,
        ticket: Arc<Ticket>,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let operation = ticket.operation;
        let task = self.inner.runtime.spawn(ticket::inside(operation, work));
        // Set once, here.
        let _ = ticket.abort.set(task.abort_handle());
        match task.await {
            Ok(outcome) => outcome,
            Err(failure) if failure.is_panic() => Err(Error::Panicked { operation }.into()),
            Err(_) if ticket.is_stranded.load(std::sync::atomic::Ordering::Relaxed) => {
                Err(Error::Abandoned { operation }.into())
            }
            Err(_) => Err(Error::Closed.into()),
        }
    }
}

/// Runs the body until it has an answer worth giving.
pub(crate) async fn run<T, E, F, Fut>(
    core: &Arc<Core>,
    ticket: &Arc<Ticket>,
    kind: Kind,
    lease: Lease,
    body: F,
) -> Result<T, E>
where
    F: Fn(Connection) -> Fut + Send + Sync,
    Fut: Future<Output = Result<T, E>> + Send,
    T: Send,
    E: From<Error> + Send,
{
    let last_start = ticket.deadline().unwrap_or_else(|| ticket.arrived + core.options().acquire);
    let mut lease = Some(lease);
    let mut attempts = 0;
    loop {
        let lease = match lease.take() {
            Some(lease) => lease,
            None => core.enter(ticket, kind.lane()).await?,
        };
        let proven = prove(core, ticket, kind.lane(), lease).await?;
        let used = tracing::info_span!("use", otel.name = "pool.use");
        let (outcome, attempted) = attempt(core, ticket, kind, proven, &body).instrument(used).await;
        attempts += 1;
        let reason = match &outcome {
            Ok(_) => None,
            Err(_) => attempted.fault.and_then(|fault| attempted.kind.may_repeat(fault, &attempted)),
        };
        let pause = match reason {
            Some(Reason::Died) if attempts == 1 => Duration::ZERO,
            Some(Reason::Died) if attempts < LIVES => backoff(attempts),
            Some(Reason::Conflict) if attempts < CONFLICTS => backoff(attempts),
            _ => return outcome,
        };
        if Instant::now() + pause >= last_start {
            return outcome;
        }
        match (reason, kind) {
            (Some(Reason::Conflict), _) => core.record.retried_conflict(),
            (_, Kind::Transaction(_)) => core.record.retried_transaction(),
            _ => core.record.retried_read(),
        }
        sleep(pause).await;
    }
}

/// Asks a connection for a sign of life if there is reason to doubt it, and takes another one if it gives none.
async fn prove(core: &Arc<Core>, ticket: &Arc<Ticket>, lane: Lane, mut lease: Lease) -> Result<Lease, Error> {
    // A write into a deleted file would be acknowledged and lost.
    if lane == Lane::Write && core.check_file().is_err() {
        if let Some(slot) = lease.take() {
            lease.end_unlike_others(slot);
        }
        return Err(core.refusal_of_outage(ticket.operation));
    }
    loop {
        let Some(slot) = lease.slot() else { return Ok(lease) };
        // What a write has met cannot be repeated, so it is worth a look at the socket.
        let is_closed = lane == Lane::Write && slot.raw.has_unread();
        if !is_closed && !core.is_doubtful(slot) {
            return Ok(lease);
        }
        if matches!(timeout(SIGN_OF_LIFE, slot.raw.ping()).await, Ok(Ok(()))) {
            core.health.hears();
            return Ok(lease);
        }
        drop(lease);
        core.suspects();
        lease = core.enter(ticket, lane).await?;
    }
}

async fn attempt<T, E, F, Fut>(
    core: &Arc<Core>,
    ticket: &Arc<Ticket>,
    kind: Kind,
    mut lease: Lease,
    body: &F,
) -> (Result<T, E>, Attempted)
where
    F: Fn(Connection) -> Fut + Sync,
    Fut: Future<Output = Result<T, E>> + Send,
    E: From<Error> + Send,
{
    let Some(slot) = lease.take() else {
        return (Err(Error::Closed.into()), Attempted { kind, fault: None, done: 0, commit_sent: false });
    };
    let (kind, options) = (kind.on(&slot.raw), kind.transaction(&slot.raw));
    let connection = Connection::new(core, ticket, slot);
    let work = async {
        let Some(options) = options else { return body(connection.clone()).await };
        let depth = connection.begin_at(options).await.map_err(Error::from)?;
        // What is not committed is rolled back when the connection is taken back.
        let value = body(connection.clone()).await?;
        connection.commit_at(depth).await.map_err(Error::from)?;
        Ok(value)
    };
    let outcome = AssertUnwindSafe(work).catch_unwind().await;
    let attempted = Attempted {
        kind,
        fault: connection.failure(),
        done: connection.done(),
        commit_sent: connection.is_commit_sent(),
    };
    match connection.reclaim().await {
        Some(slot) => lease.end(slot),
        // Closes it.
        None => drop(lease),
    }
    let outcome = outcome.unwrap_or_else(|_| Err(Error::Panicked { operation: ticket.operation }.into()));
    (outcome, attempted)
}

/// A random time up to a limit that doubles with each attempt: those who collided should not meet again, and what ended
/// one connection should be done with the others.
fn backoff(attempts: u32) -> Duration {
    let most = FIRST_BACKOFF.saturating_mul(1 << attempts.min(10)).min(LONGEST_BACKOFF);
    most.mul_f64(fastrand::f64())
}
