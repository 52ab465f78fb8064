//! The running operation, the request that it belongs to, and its deadline.

use std::{
    num::NonZeroU64,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sea_orm::sqlx;
use tokio::{sync::Notify, task::AbortHandle, time::Instant};

use crate::{clock::Clock, connect::driver::SessionId, error_kind::timed_out};

tokio::task_local! {
    static REQUEST: RequestContext;
    static CURRENT_OPERATION: &'static str;
}

/// The request that the operations of a task belong to. It is shown in snapshots, refusals and warnings.
///
/// ```
/// # async fn handler() {}
/// # async fn example() {
/// use std::time::Duration;
///
/// orm_pool::RequestContext::new("request 4711").timeout(Duration::from_secs(30)).scope(handler()).await;
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RequestContext {
    label: Arc<str>,
    deadline: Option<Instant>,
}

impl RequestContext {
    /// Creates a context with a label that an operator recognizes, such as the request id.
    #[must_use]
    pub fn new(label: impl Into<Arc<str>>) -> Self {
        Self { label: label.into(), deadline: None }
    }

    /// Sets how long the caller waits for the response. An operation that cannot begin by then is refused on arrival,
    /// and nothing is retried after it.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.deadline = Instant::now().checked_add(limit);
        self
    }

    /// Runs a future whose operations belong to this request.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        REQUEST.scope(self, future).await
    }

    fn current() -> Option<Self> {
        REQUEST.try_with(Self::clone).ok()
    }
}

/// The state of one operation, from its arrival to its end.
#[derive(Debug)]
pub(crate) struct OperationContext {
    pub(crate) operation: &'static str,
    pub(crate) request: Option<RequestContext>,
    pub(crate) arrived: Instant,
    /// Aborts the operation's task.
    abort: OnceLock<AbortHandle>,
    /// For an operation that is not a separate task: interrupts the statement that it waits for.
    interrupt: Option<Notify>,
    /// Whether its long hold has been logged.
    pub(crate) warned: AtomicBool,
    /// Whether it was aborted because the server did not respond.
    pub(crate) is_stranded: AtomicBool,
    // The statement in flight: when it was sent, on the pool's clock, plus one, with the flags `KILLED` and
    // `KILL_ACCEPTED`. 0 if there is none.
    sent: AtomicU64,
    /// The number of the session that the statement runs in, or 0 if the server has none.
    session: AtomicU64,
    server: AtomicU64,
    /// The host that it is connected to, plus one, if the URL has several.
    host: AtomicUsize,
    /// Whether the pool enforces the statement timeout in that session.
    pool_enforces_timeout: AtomicBool,
}

/// Flag: the pool is about to kill the statement.
const KILLED: u64 = 1 << 63;
/// Flag: the server has accepted the kill.
const KILL_ACCEPTED: u64 = 1 << 62;

/// A statement in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingStatement {
    pub(crate) session: SessionId,
    sent: u64,
}

impl OperationContext {
    pub(crate) fn new(operation: &'static str) -> Arc<Self> {
        Self::of(operation, RequestContext::current())
    }

    /// Creates a context for an operation that does not run as a task of the pool's runtime.
    pub(crate) fn of_guard(operation: &'static str) -> Arc<Self> {
        Arc::new(Self { interrupt: Some(Notify::new()), ..Self::build(operation, RequestContext::current()) })
    }

    /// Creates a context for a batch, with this operation's name and request but without its deadline.
    pub(crate) fn for_others(&self) -> Arc<Self> {
        Self::of(self.operation, self.request.clone().map(|request| RequestContext { deadline: None, ..request }))
    }

    fn of(operation: &'static str, request: Option<RequestContext>) -> Arc<Self> {
        Arc::new(Self::build(operation, request))
    }

    fn build(operation: &'static str, request: Option<RequestContext>) -> Self {
        Self {
            operation,
            request,
            arrived: Instant::now(),
            abort: OnceLock::new(),
            interrupt: None,
            warned: AtomicBool::new(false),
            is_stranded: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            session: AtomicU64::new(0),
            server: AtomicU64::new(0),
            host: AtomicUsize::new(0),
            pool_enforces_timeout: AtomicBool::new(false),
        }
    }

    /// Records the task that runs the operation.
    pub(crate) fn set_task(&self, task: AbortHandle) {
        // Set once.
        let _ = self.abort.set(task);
    }

    /// Aborts the operation, because its response will not arrive. Returns whether it was not aborted before.
    pub(crate) fn strand(&self) -> bool {
        let is_new = !self.is_stranded.swap(true, Ordering::Relaxed);
        self.abort();
        is_new
    }

    /// Aborts the operation, and the statement that it waits for.
    pub(crate) fn abort(&self) {
        if let Some(abort) = self.abort.get() {
            abort.abort();
        }
        if let Some(interrupt) = &self.interrupt {
            interrupt.notify_waiters();
        }
    }

    /// Waits for the result of a statement, unless the operation is aborted before.
    pub(crate) async fn interruptible<T>(
        &self,
        // Pinned by the caller: passing the future by value would store it twice.
        statement: Pin<&mut impl Future<Output = Result<T, sqlx::Error>>>,
    ) -> Result<T, sqlx::Error> {
        let Some(interrupt) = &self.interrupt else { return statement.await };
        tokio::select! {
            biased;
            result = statement => result,
            () = interrupt.notified() => Err(timed_out()),
        }
    }

    /// Returns the time after which the caller no longer waits for the result.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.request.as_ref().and_then(|request| request.deadline)
    }

    pub(crate) fn label(&self) -> Option<Arc<str>> {
        self.request.as_ref().map(|request| Arc::clone(&request.label))
    }

    /// Records the session that the next statements run in, and whether the pool enforces the statement timeout there.
    pub(crate) fn set_session(&self, session: Option<(SessionId, bool)>) {
        if let Some((SessionId { server, number }, pool_enforces_timeout)) = session {
            self.server.store(server, Ordering::Relaxed);
            self.session.store(number.get(), Ordering::Relaxed);
            self.pool_enforces_timeout.store(pool_enforces_timeout, Ordering::Relaxed);
        }
    }

    /// Records the host that the next statements are sent to.
    pub(crate) fn set_host(&self, host: Option<usize>) {
        self.host.store(host.map_or(0, |host| host + 1), Ordering::Relaxed);
    }

    /// Returns the host, if the URL has several.
    pub(crate) fn host(&self) -> Option<usize> {
        self.host.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Records that a statement is about to be sent. Returns whether the previous one was killed, as
    /// [`statement_ended`](Self::statement_ended).
    pub(crate) fn statement_sent(&self, clock: Clock) -> bool {
        self.sent.swap(clock.millis() + 1, Ordering::AcqRel) & KILLED != 0
    }

    /// Records that the statement has ended. Returns whether the pool has killed it: the kill may still be on its way
    /// to the server, and must not hit another statement.
    pub(crate) fn statement_ended(&self) -> bool {
        self.sent.swap(0, Ordering::AcqRel) & KILLED != 0
    }

    /// Whether the pool has killed the statement in flight.
    pub(crate) fn is_killed(&self) -> bool {
        self.sent.load(Ordering::Acquire) & KILLED != 0
    }

    /// Returns the statement in flight if it has had no response for `limit` and its session is known.
    pub(crate) fn pending(&self, limit: Duration, clock: Clock) -> Option<PendingStatement> {
        let sent = self.sent.load(Ordering::Acquire);
        let number = NonZeroU64::new(self.session.load(Ordering::Relaxed))?;
        let session = SessionId { server: self.server.load(Ordering::Relaxed), number };
        (waited(sent, clock)? >= limit).then_some(PendingStatement { session, sent })
    }

    /// Aborts the operation, as [`strand`](Self::strand), if it still waits for this statement.
    pub(crate) fn strand_in(&self, statement: PendingStatement) -> bool {
        self.sent.load(Ordering::Acquire) == statement.sent && self.strand()
    }

    /// Marks the statement in flight as killed if it has had no response for `limit`, and returns it until the server
    /// has accepted the kill.
    pub(crate) fn kill_after(&self, limit: Duration, clock: Clock) -> Option<PendingStatement> {
        let PendingStatement { session, sent } = self.pending(limit, clock)?;
        if sent & KILL_ACCEPTED != 0 || !self.pool_enforces_timeout.load(Ordering::Relaxed) {
            return None;
        }
        // Fails if the response has arrived or another statement was sent; then there is nothing to kill.
        let marked = sent | KILLED;
        let is_marked = self.sent.compare_exchange(sent, marked, Ordering::AcqRel, Ordering::Acquire).is_ok();
        is_marked.then_some(PendingStatement { session, sent: marked })
    }

    /// Records that the server has accepted the kill.
    pub(crate) fn is_dead(&self, killed: PendingStatement) {
        // Fails if the response has arrived or another statement was sent; then the mark is not needed.
        let _ =
            self.sent.compare_exchange(killed.sent, killed.sent | KILL_ACCEPTED, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Returns how long the statement in flight has had no response; `None` if there is none.
    pub(crate) fn pending_for(&self, clock: Clock) -> Option<Duration> {
        waited(self.sent.load(Ordering::Relaxed), clock)
    }
}

fn waited(sent: u64, clock: Clock) -> Option<Duration> {
    match sent & !(KILLED | KILL_ACCEPTED) {
        0 => None,
        since => Some(Duration::from_millis((clock.millis() + 1).saturating_sub(since))),
    }
}

/// Returns the operation that the current task runs in.
pub(crate) fn current_operation() -> Option<&'static str> {
    CURRENT_OPERATION.try_with(|operation| *operation).ok()
}

/// Runs an operation's body, so that nested operations are recognized.
pub(crate) async fn scope<F: Future>(operation: &'static str, body: F) -> F::Output {
    CURRENT_OPERATION.scope(operation, body).await
}
