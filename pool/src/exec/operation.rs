//! Runs an operation: admission, execution on the pool's runtime, and retries where they are safe.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use sea_orm::{AccessMode, TransactionOptions};
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;

use super::{check_in::check_in, connection::Connection, progress::Attempt, runtime::PoolRuntime};
use crate::{
    connect::driver::DriverConnection,
    context::{self, OperationContext},
    error::Error,
    error_kind::DbErrorKind,
    inner::{
        PoolInner,
        lease::Lease,
        probe::{PING_TIMEOUT, PING_UNANSWERED},
    },
    set::{Access, AcquireError},
};

/// Maximum number of attempts when connections are lost: enough for a server that closes its connections one after
/// another, but limited because the operation itself may be the cause.
const MAX_ATTEMPTS: u32 = 5;
/// Maximum number of attempts when conflicts occur.
const MAX_CONFLICT_ATTEMPTS: u32 = 10;
/// The limit of the first random pause. It doubles with each attempt, up to the maximum.
const INITIAL_BACKOFF: Duration = Duration::from_millis(8);
const MAX_BACKOFF: Duration = Duration::from_millis(250);

/// The kind of an operation. It decides whether a failed attempt may be retried.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Changes nothing, so it may be retried.
    Read,
    /// Retried only if its first statement was rolled back or not executed.
    Write,
    /// Retried as a whole, unless the commit was sent and its outcome is unknown.
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

    /// Returns the kind to use on this connection: a write becomes a transaction if the session does not outlive a
    /// statement.
    fn on(self, connection: &DriverConnection) -> Self {
        match self {
            Self::Write if connection.needs_transaction() => Self::Transaction(TransactionOptions::default()),
            kind => kind,
        }
    }

    /// Returns the options of the transaction that the operation runs in, if any.
    fn transaction(self, connection: &DriverConnection) -> Option<TransactionOptions> {
        match self {
            Self::Transaction(options) => Some(options),
            Self::Read | Self::Write => connection.needs_transaction().then(TransactionOptions::default),
        }
    }

    /// Returns why a failed attempt may be retried; `None` if it may have taken effect.
    fn retry_reason(self, attempt: Attempt) -> Option<RetryReason> {
        let kind = attempt.error.filter(|_| !attempt.has_raw_transaction)?;
        let is_lost = matches!(
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
            _ if kind == DbErrorKind::Conflict => Some(RetryReason::Conflict),
            // The server did not prepare the statement, so nothing was executed.
            Self::Write if kind == DbErrorKind::TooManyStatements => Some(RetryReason::ConnectionLost),
            Self::Read if is_lost => Some(RetryReason::ConnectionLost),
            Self::Transaction(_) if is_lost && !attempt.commit_sent => Some(RetryReason::ConnectionLost),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RetryReason {
    Conflict,
    ConnectionLost,
}

/// The options of an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunOptions {
    pub(crate) kind: Kind,
    /// No attempt starts after this.
    pub(crate) last_start: Instant,
    /// A shorter lock timeout for the transaction. If set, conflicts are not retried.
    pub(crate) lock_timeout: Option<Duration>,
}

impl RunOptions {
    pub(crate) fn new(kind: Kind, context: &OperationContext, inner: &PoolInner) -> Self {
        let last_start = context.deadline().unwrap_or_else(|| context.arrived + inner.options().acquire);
        Self { kind, last_start, lock_timeout: None }
    }
}

/// Runs an operation as a task of the pool's runtime, so that it completes even if the caller is dropped. `at_end` is
/// called when the body has ended, also by a panic. It is only dropped if the operation is refused or aborted.
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
    let (context, lease) = admit(inner, runtime, operation, kind.access(), &span).await?;
    let (inner, task_context) = (Arc::clone(inner), Arc::clone(&context));
    let work = async move {
        let options = RunOptions::new(kind, &task_context, &inner);
        let (outcome, _) = run(&inner, &task_context, options, lease, body).await;
        inner.metrics.ended(1, outcome.is_ok());
        at_end();
        outcome
    };
    run_task(runtime, context, work.instrument(span)).await
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

/// Refuses an operation inside another one, which would request a second connection while it holds the first.
///
/// # Errors
///
/// [`Error::Nested`].
pub(crate) fn refuse_nested(runtime: &PoolRuntime, operation: &'static str) -> Result<(), Error> {
    if let Some(within) = context::current_operation() {
        return Err(Error::Nested { operation, within });
    }
    // Also in a task that the body has spawned.
    if runtime.is_within_operation() {
        return Err(Error::Nested { operation, within: "a task spawned by an operation" });
    }
    Ok(())
}

/// Waits for a connection. Dropping the future leaves the queue.
pub(crate) async fn admit(
    inner: &Arc<PoolInner>,
    runtime: &PoolRuntime,
    operation: &'static str,
    access: Access,
    span: &tracing::Span,
) -> Result<(Arc<OperationContext>, Lease), Error> {
    refuse_nested(runtime, operation)?;
    let context = OperationContext::new(operation);
    let wait_span = tracing::info_span!(parent: span, "wait", otel.name = "pool.wait");
    let lease = inner.acquire(&context, access).instrument(wait_span).await?;
    Ok((context, lease))
}

/// Spawns the work of an operation on the pool's runtime and waits for its outcome.
pub(crate) async fn run_task<T, E>(
    runtime: &PoolRuntime,
    context: Arc<OperationContext>,
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    let operation = context.operation;
    let task = runtime.spawn(context::scope(operation, work));
    context.set_task(task.abort_handle());
    match task.await {
        Ok(outcome) => outcome,
        Err(failure) if failure.is_panic() => Err(Error::Panicked { operation }.into()),
        Err(_) if context.is_stranded.load(std::sync::atomic::Ordering::Relaxed) => {
            Err(Error::Aborted { operation }.into())
        }
        Err(_) => Err(Error::Closed.into()),
    }
}

/// Runs the body with retries. Also returns the state of the last attempt.
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
        let use_span = tracing::info_span!("use", otel.name = "pool.use");
        let (outcome, attempt, kind) = try_once(inner, context, options, lease, &body).instrument(use_span).await;
        attempts += 1;
        let reason = if outcome.is_err() { kind.retry_reason(attempt) } else { None };
        let pause = match reason {
            Some(RetryReason::ConnectionLost) if attempts == 1 => Duration::ZERO,
            Some(RetryReason::ConnectionLost) if attempts < MAX_ATTEMPTS => backoff(attempts),
            Some(RetryReason::Conflict) if attempts < MAX_CONFLICT_ATTEMPTS && options.lock_timeout.is_none() => {
                backoff(attempts)
            }
            _ => return (outcome, attempt),
        };
        if Instant::now() + pause >= options.last_start {
            return (outcome, attempt);
        }
        match (reason, kind) {
            (Some(RetryReason::Conflict), _) => inner.metrics.retried_conflict(),
            (_, Kind::Transaction(_)) => inner.metrics.retried_transaction(),
            _ => inner.metrics.retried_read(),
        }
        sleep(pause).await;
    }
}

/// Pings a connection if it has been idle for too long or is suspect, and acquires another one if it does not respond.
pub(super) async fn validate(
    inner: &Arc<PoolInner>,
    context: &Arc<OperationContext>,
    access: Access,
    mut lease: Lease,
) -> Result<Lease, Error> {
    // A write to a deleted file would be acknowledged and lost.
    if access == Access::Write
        && let Err(failure) = inner.check_file()
    {
        if let Some(entry) = lease.take() {
            lease.end_unmeasured(entry);
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
            // There is no server that could have closed it.
            return Ok(lease);
        }
        if !is_closed && since_response < inner.options().validate_after && !inner.health.is_suspect(since_response) {
            return Ok(lease);
        }
        match timeout(PING_TIMEOUT, entry.connection.ping()).await {
            Ok(Ok(())) => {
                inner.health.on_response();
                entry.connection.host_responded();
                return Ok(lease);
            }
            Ok(Err(_)) => {}
            Err(_) => {
                entry.connection.host_failed(DbErrorKind::Silent, PING_UNANSWERED);
                inner.health.on_silence();
            }
        }
        drop(lease);
        inner.mark_suspect();
        lease = Box::pin(inner.acquire(context, access)).await?;
    }
}

/// Runs one attempt. Also returns the kind that was used on its connection.
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
        // Boxed to keep the future small for operations without a transaction.
        let level =
            Box::pin(connection.begin_at(None, transaction, options.lock_timeout)).await.map_err(Error::from)?;
        // An uncommitted transaction is rolled back when the connection is reclaimed.
        let value = body(connection.clone()).await?;
        Box::pin(connection.commit_at(level)).await.map_err(Error::from)?;
        Ok(value)
    };
    let outcome = AssertUnwindSafe(work).catch_unwind().await;
    let attempt = connection.attempt();
    check_in(&connection, lease).await;
    let outcome = outcome.unwrap_or_else(|_| Err(Error::Panicked { operation: context.operation }.into()));
    (outcome, attempt, kind)
}

/// Returns a random pause, up to a limit that doubles with each attempt: operations that collided should not collide
/// again, and a server that is closing connections should have closed the others.
fn backoff(attempts: u32) -> Duration {
    let limit = INITIAL_BACKOFF.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(MAX_BACKOFF);
    limit.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_of_the_operating_system_are_retried() {
        let attempt = Attempt { error: Some(DbErrorKind::Silent), ..Attempt::default() };
        let transaction = Kind::Transaction(TransactionOptions::default());
        assert_eq!(Kind::Read.retry_reason(attempt), Some(RetryReason::ConnectionLost));
        assert_eq!(transaction.retry_reason(attempt), Some(RetryReason::ConnectionLost));
        assert_eq!(Kind::Write.retry_reason(attempt), None);
        assert_eq!(transaction.retry_reason(Attempt { commit_sent: true, ..attempt }), None);
        assert_eq!(Kind::Read.retry_reason(Attempt { has_raw_transaction: true, ..attempt }), None);
    }
}
