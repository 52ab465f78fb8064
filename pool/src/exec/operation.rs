//! An operation from its arrival to its answer: admitted, run on the pool's runtime, repeated where that is safe.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use sea_orm::{AccessMode, TransactionOptions};
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;

use super::{connection::Connection, lending::give_back, progress::Attempt, runtime::PoolRuntime};
use crate::{
    connect::driver::DriverConnection,
    context::{self, OperationContext},
    error::Error,
    error_kind::DbErrorKind,
    inner::{PoolInner, lease::Lease, probe::PING_TIMEOUT},
    set::{Access, AcquireError},
};

/// How often an operation is begun when connections die: often enough to outlast a server that ends its connections one
/// after another, and no more, since it may be the operation itself that ends them.
const MAX_ATTEMPTS: u32 = 5;
/// How many attempts an operation has after conflicts.
const MAX_CONFLICT_ATTEMPTS: u32 = 10;
const FIRST_BACKOFF: Duration = Duration::from_millis(4);
const LONGEST_BACKOFF: Duration = Duration::from_millis(250);

/// What an operation does, which decides what may be repeated if it fails half-way.
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
    pub(crate) fn access(self) -> Access {
        match self {
            Self::Read => Access::Read,
            Self::Transaction(options) if options.access_mode == Some(AccessMode::ReadOnly) => Access::Read,
            Self::Write | Self::Transaction(_) => Access::Write,
        }
    }

    /// The same on a connection whose session keeps nothing: what writes becomes a transaction.
    fn on(self, connection: &DriverConnection) -> Self {
        match self {
            Self::Write if connection.needs_transaction() => Self::Transaction(TransactionOptions::default()),
            kind => kind,
        }
    }

    /// The transaction that an operation of this kind needs, if any.
    fn transaction(self, connection: &DriverConnection) -> Option<TransactionOptions> {
        match self {
            Self::Transaction(options) => Some(options),
            Self::Read | Self::Write => connection.needs_transaction().then(TransactionOptions::default),
        }
    }

    /// Why an attempt that failed may be repeated: it has certainly left nothing behind.
    fn may_repeat(self, attempt: Attempt) -> Option<Reason> {
        let kind = attempt.error.filter(|_| !attempt.is_opaque)?;
        let died = matches!(
            kind,
            DbErrorKind::Lost
                | DbErrorKind::Silent
                | DbErrorKind::Terminated
                | DbErrorKind::NotAccepting
                | DbErrorKind::StalePlan
                | DbErrorKind::Pooler
                | DbErrorKind::TooManyStatements
        );
        match self {
            Self::Write if attempt.succeeded > 0 => None,
            _ if kind == DbErrorKind::Conflict => Some(Reason::Conflict),
            // The server refused to prepare it, so nothing was executed.
            Self::Write if kind == DbErrorKind::TooManyStatements => Some(Reason::Died),
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

/// How an operation is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunOptions {
    pub(crate) kind: Kind,
    /// No attempt begins after this.
    pub(crate) last_start: Instant,
    /// A shorter lock time-out for its transaction. With it, conflicts are not retried.
    pub(crate) lock_timeout: Option<Duration>,
}

impl RunOptions {
    pub(crate) fn new(kind: Kind, context: &OperationContext, inner: &PoolInner) -> Self {
        let last_start = context.deadline().unwrap_or_else(|| context.arrived + inner.options().acquire);
        Self { kind, last_start, lock_timeout: None }
    }
}

/// Runs an operation as a task of the pool's runtime: the caller may go away without ending it half-way. `at_end` is called
/// when it has its outcome, and dropped if it never begins.
pub(crate) async fn operate<T, E, F, Fut>(
    inner: &Arc<PoolInner>,
    runtime: &PoolRuntime,
    operation: &'static str,
    kind: Kind,
    body: F,
    at_end: impl FnOnce() + Send + 'static,
) -> Result<T, E>
where
    F: Fn(Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    let span = span(inner, operation);
    let (context, lease) = arrive(inner, runtime, operation, kind.access(), &span).await?;
    let (inner, of_task) = (Arc::clone(inner), Arc::clone(&context));
    let work = async move {
        let options = RunOptions::new(kind, &of_task, &inner);
        let (outcome, _) = run(&inner, &of_task, options, lease, body).await;
        inner.metrics.ended(1, outcome.is_ok());
        at_end();
        outcome
    };
    await_task(runtime, context, work.instrument(span)).await
}

pub(crate) fn span(inner: &PoolInner, operation: &'static str) -> tracing::Span {
    tracing::info_span!(
        "operation",
        otel.name = operation,
        otel.kind = "client",
        db.system.name = inner.engine.system_name(),
        db.operation.name = operation,
        db.operation.batch.size = tracing::field::Empty,
    )
}

/// Refuses an operation inside another one: it would ask for a second connection while the other one holds the first.
///
/// # Errors
///
/// [`Error::Nested`].
pub(crate) fn refuse_nested(runtime: &PoolRuntime, operation: &'static str) -> Result<(), Error> {
    if let Some(within) = context::current_operation() {
        return Err(Error::Nested { operation, within });
    }
    // Tasks on the pool's runtime are operations, and what their bodies have spawned.
    if runtime.is_current() {
        return Err(Error::Nested { operation, within: "a task that an operation has spawned" });
    }
    Ok(())
}

/// Waits for a connection. Dropping this future leaves the queue.
pub(crate) async fn arrive(
    inner: &Arc<PoolInner>,
    runtime: &PoolRuntime,
    operation: &'static str,
    access: Access,
    span: &tracing::Span,
) -> Result<(Arc<OperationContext>, Lease), Error> {
    refuse_nested(runtime, operation)?;
    let context = OperationContext::new(operation);
    let waiting = tracing::info_span!(parent: span, "wait", otel.name = "pool.wait");
    let lease = inner.acquire(&context, access).instrument(waiting).await?;
    Ok((context, lease))
}

/// Runs the work of an operation as a task of the pool's runtime.
pub(crate) async fn await_task<T, E>(
    runtime: &PoolRuntime,
    context: Arc<OperationContext>,
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    let operation = context.operation;
    let task = runtime.spawn(context::inside(operation, work));
    context.runs_as(task.abort_handle());
    match task.await {
        Ok(outcome) => outcome,
        Err(failure) if failure.is_panic() => Err(Error::Panicked { operation }.into()),
        Err(_) if context.is_stranded.load(std::sync::atomic::Ordering::Relaxed) => {
            Err(Error::Abandoned { operation }.into())
        }
        Err(_) => Err(Error::Closed.into()),
    }
}

/// Runs the body, with retries. Also returns the state of the last attempt.
pub(crate) async fn run<T, E, F, Fut>(
    inner: &Arc<PoolInner>,
    context: &Arc<OperationContext>,
    options: RunOptions,
    lease: Lease,
    body: F,
) -> (Result<T, E>, Attempt)
where
    F: Fn(Connection) -> Fut + Send + Sync,
    Fut: Future<Output = Result<T, E>> + Send,
    T: Send,
    E: From<Error> + Send,
{
    let access = options.kind.access();
    let mut lease = Some(lease);
    let mut attempts = 0;
    loop {
        let admitted = match lease.take() {
            Some(lease) => Ok(lease),
            None => Box::pin(inner.acquire(context, access)).await,
        };
        let validated = match admitted {
            Ok(lease) => validate(inner, context, access, lease).await,
            Err(error) => Err(error),
        };
        let lease = match validated {
            Ok(lease) => lease,
            Err(error) => return (Err(error.into()), Attempt::default()),
        };
        let used = tracing::info_span!("use", otel.name = "pool.use");
        let (outcome, attempt, kind) = try_once(inner, context, options, lease, &body).instrument(used).await;
        attempts += 1;
        let reason = if outcome.is_err() { kind.may_repeat(attempt) } else { None };
        let pause = match reason {
            Some(Reason::Died) if attempts == 1 => Duration::ZERO,
            Some(Reason::Died) if attempts < MAX_ATTEMPTS => backoff(attempts),
            Some(Reason::Conflict) if attempts < MAX_CONFLICT_ATTEMPTS && options.lock_timeout.is_none() => {
                backoff(attempts)
            }
            _ => return (outcome, attempt),
        };
        if Instant::now() + pause >= options.last_start {
            return (outcome, attempt);
        }
        match (reason, kind) {
            (Some(Reason::Conflict), _) => inner.metrics.retried_conflict(),
            (_, Kind::Transaction(_)) => inner.metrics.retried_transaction(),
            _ => inner.metrics.retried_read(),
        }
        sleep(pause).await;
    }
}

/// Pings a connection if there is reason to doubt it, and takes another one if it does not answer.
pub(super) async fn validate(
    inner: &Arc<PoolInner>,
    context: &Arc<OperationContext>,
    access: Access,
    mut lease: Lease,
) -> Result<Lease, Error> {
    // A write into a deleted file would be acknowledged and lost.
    if access == Access::Write
        && let Err(failure) = inner.check_file()
    {
        if let Some(entry) = lease.take() {
            lease.end_unlike_others(entry);
        }
        let reason = AcquireError::Down { kind: failure.kind, detail: failure.detail().into() };
        return Err(inner.refusal(context.operation, reason));
    }
    loop {
        let Some(entry) = lease.entry() else { return Ok(lease) };
        // A failed write cannot be retried, so the socket is checked first.
        let is_closed = access == Access::Write && entry.connection.has_unread();
        let since_response = entry.last_response.elapsed();
        if inner.is_in_memory() {
            // There is no peer that could have closed it.
            return Ok(lease);
        }
        if !is_closed && since_response < inner.options().validate_after && !inner.health.is_suspect(since_response) {
            return Ok(lease);
        }
        match timeout(PING_TIMEOUT, entry.connection.ping()).await {
            Ok(Ok(())) => {
                inner.health.on_response();
                return Ok(lease);
            }
            Ok(Err(_)) => {}
            Err(_) => inner.health.on_silence(),
        }
        drop(lease);
        inner.mark_suspect();
        lease = Box::pin(inner.acquire(context, access)).await?;
    }
}

/// One attempt. Also returns what kind of operation it was on its connection.
async fn try_once<T, E, F, Fut>(
    inner: &Arc<PoolInner>,
    context: &Arc<OperationContext>,
    options: RunOptions,
    mut lease: Lease,
    body: &F,
) -> (Result<T, E>, Attempt, Kind)
where
    F: Fn(Connection) -> Fut + Sync,
    Fut: Future<Output = Result<T, E>> + Send,
    E: From<Error> + Send,
{
    let Some(entry) = lease.take() else {
        return (Err(Error::Closed.into()), Attempt::default(), options.kind);
    };
    let (kind, transaction) = (options.kind.on(&entry.connection), options.kind.transaction(&entry.connection));
    let connection = Connection::new(inner, context, entry);
    let work = async {
        let Some(transaction) = transaction else { return body(connection.clone()).await };
        // Boxed, so that operations without a transaction do not carry it around.
        let level =
            Box::pin(connection.begin_at(None, transaction, options.lock_timeout)).await.map_err(Error::from)?;
        // What is not committed is rolled back when the connection is taken back.
        let value = body(connection.clone()).await?;
        Box::pin(connection.commit_at(level)).await.map_err(Error::from)?;
        Ok(value)
    };
    let outcome = AssertUnwindSafe(work).catch_unwind().await;
    let attempt = connection.attempt();
    give_back(&connection, lease).await;
    let outcome = outcome.unwrap_or_else(|_| Err(Error::Panicked { operation: context.operation }.into()));
    (outcome, attempt, kind)
}

/// A random time up to a limit that doubles with each attempt: those that collided should not meet again, and what ended
/// one connection should be done with the others.
fn backoff(attempts: u32) -> Duration {
    let most = FIRST_BACKOFF.saturating_mul(1 << attempts.min(10)).min(LONGEST_BACKOFF);
    most.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_outlives_a_time_out_of_the_system() {
        let attempt = Attempt { error: Some(DbErrorKind::Silent), ..Attempt::default() };
        let transaction = Kind::Transaction(TransactionOptions::default());
        assert_eq!(Kind::Read.may_repeat(attempt), Some(Reason::Died));
        assert_eq!(transaction.may_repeat(attempt), Some(Reason::Died));
        assert_eq!(Kind::Write.may_repeat(attempt), None);
        assert_eq!(transaction.may_repeat(Attempt { commit_sent: true, ..attempt }), None);
        assert_eq!(Kind::Read.may_repeat(Attempt { is_opaque: true, ..attempt }), None);
    }
}
