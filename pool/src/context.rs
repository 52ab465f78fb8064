//! The operation that runs, the request behind it, and how long its caller waits.

use std::{
    num::NonZeroU64,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use sea_orm::sqlx;
use tokio::{sync::Notify, task::AbortHandle, time::Instant};

use crate::{clock::Clock, connect::driver::SessionId, error_kind::timed_out};

tokio::task_local! {
    static REQUEST: RequestContext;
    static WITHIN: &'static str;
}

/// The request behind the operations of a task: shown in snapshots, refusals and warnings.
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
    /// A request by the name that an operator recognises, such as its id.
    #[must_use]
    pub fn new(label: impl Into<Arc<str>>) -> Self {
        Self { label: label.into(), deadline: None }
    }

    /// The caller does not wait for the answer after this time: an operation that cannot begin by then is refused on arrival, and
    /// nothing is tried again after it.
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

/// One operation, from its arrival to its end.
#[derive(Debug)]
pub(crate) struct OperationContext {
    pub(crate) operation: &'static str,
    pub(crate) request: Option<RequestContext>,
    pub(crate) arrived: Instant,
    /// Ends the operation's task from outside.
    abort: OnceLock<AbortHandle>,
    /// The same for one that is not a separate task: ends the statement that it waits for.
    interrupt: Option<Notify>,
    /// Whether its long hold has been warned of.
    pub(crate) warned: AtomicBool,
    /// Whether it was given up because the peer had gone silent.
    pub(crate) is_stranded: AtomicBool,
    // The statement that has no answer yet: when it was sent, on the pool's clock, plus one, with `KILLED` and `DEAD`. 0
    // while there is none.
    asked: AtomicU64,
    /// The number of the session that the statement runs in, or 0 if the server has none.
    session: AtomicU64,
    server: AtomicU64,
    /// Whether the pool has to kill statements in that session that run too long.
    is_limited_by_pool: AtomicBool,
}

/// Set together with the time of a statement that the pool is about to kill.
const KILLED: u64 = 1 << 63;
/// Set once the server has taken the kill.
const DEAD: u64 = 1 << 62;

/// A statement that has no answer yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingStatement {
    pub(crate) session: SessionId,
    asked: u64,
}

impl OperationContext {
    pub(crate) fn new(operation: &'static str) -> Arc<Self> {
        Self::of(operation, RequestContext::current())
    }

    /// The same for an operation that is not a task of the pool's runtime.
    pub(crate) fn of_guard(operation: &'static str) -> Arc<Self> {
        Arc::new(Self { interrupt: Some(Notify::new()), ..Self::unshared(operation, RequestContext::current()) })
    }

    /// A context for several, in the name of this one, whose deadline is not theirs.
    pub(crate) fn for_others(&self) -> Arc<Self> {
        Self::of(self.operation, self.request.clone().map(|request| RequestContext { deadline: None, ..request }))
    }

    fn of(operation: &'static str, request: Option<RequestContext>) -> Arc<Self> {
        Arc::new(Self::unshared(operation, request))
    }

    fn unshared(operation: &'static str, request: Option<RequestContext>) -> Self {
        Self {
            operation,
            request,
            arrived: Instant::now(),
            abort: OnceLock::new(),
            interrupt: None,
            warned: AtomicBool::new(false),
            is_stranded: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            session: AtomicU64::new(0),
            server: AtomicU64::new(0),
            is_limited_by_pool: AtomicBool::new(false),
        }
    }

    /// The operation runs as this task.
    pub(crate) fn runs_as(&self, task: AbortHandle) {
        // Set once.
        let _ = self.abort.set(task);
    }

    /// Ends the operation, since its answer will not come. Returns whether that is new.
    pub(crate) fn strand(&self) -> bool {
        let is_new = !self.is_stranded.swap(true, Ordering::Relaxed);
        if let Some(abort) = self.abort.get() {
            abort.abort();
        }
        if let Some(interrupt) = &self.interrupt {
            interrupt.notify_waiters();
        }
        is_new
    }

    /// Waits for the answer to a statement, unless the operation is ended before.
    pub(crate) async fn interruptible<T>(
        &self,
        // Pinned by the caller: passing the future by value would store it twice.
        answer: Pin<&mut impl Future<Output = Result<T, sqlx::Error>>>,
    ) -> Result<T, sqlx::Error> {
        let Some(interrupt) = &self.interrupt else { return answer.await };
        tokio::select! {
            biased;
            answer = answer => answer,
            () = interrupt.notified() => Err(timed_out()),
        }
    }

    /// After this, the caller does not wait for the outcome.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.request.as_ref().and_then(|request| request.deadline)
    }

    pub(crate) fn label(&self) -> Option<Arc<str>> {
        self.request.as_ref().map(|request| Arc::clone(&request.label))
    }

    /// From now on its statements run in this session, in which the pool may have to kill those that run too long.
    pub(crate) fn runs_in(&self, session: Option<(SessionId, bool)>) {
        if let Some((SessionId { server, number }, is_limited_by_pool)) = session {
            self.server.store(server, Ordering::Relaxed);
            self.session.store(number.get(), Ordering::Relaxed);
            self.is_limited_by_pool.store(is_limited_by_pool, Ordering::Relaxed);
        }
    }

    /// A statement is about to be sent. Gives whether the one before it was killed, as [`answered`](Self::answered).
    pub(crate) fn asks(&self, clock: Clock) -> bool {
        self.asked.swap(clock.millis() + 1, Ordering::AcqRel) & KILLED != 0
    }

    /// The statement is over. Gives whether the pool has killed it: the kill may then still be on its way to the server,
    /// and must not meet another statement.
    pub(crate) fn answered(&self) -> bool {
        self.asked.swap(0, Ordering::AcqRel) & KILLED != 0
    }

    /// Whether the statement that has no answer yet was killed by the pool.
    pub(crate) fn is_killed(&self) -> bool {
        self.asked.load(Ordering::Acquire) & KILLED != 0
    }

    /// The statement that has had no answer for so long, if its session is known.
    pub(crate) fn pending(&self, limit: Duration, clock: Clock) -> Option<PendingStatement> {
        let asked = self.asked.load(Ordering::Acquire);
        let number = NonZeroU64::new(self.session.load(Ordering::Relaxed))?;
        let session = SessionId { server: self.server.load(Ordering::Relaxed), number };
        (owed(asked, clock)? >= limit).then_some(PendingStatement { session, asked })
    }

    /// Ends the operation, as [`strand`](Self::strand), if it still waits for the answer to this statement.
    pub(crate) fn strand_in(&self, statement: PendingStatement) -> bool {
        self.asked.load(Ordering::Acquire) == statement.asked && self.strand()
    }

    /// Marks the statement as killed if it has had no answer for so long, and gives what is to be killed: until the server
    /// has taken the kill.
    pub(crate) fn kill_after(&self, limit: Duration, clock: Clock) -> Option<PendingStatement> {
        let PendingStatement { session, asked } = self.pending(limit, clock)?;
        if asked & DEAD != 0 || !self.is_limited_by_pool.load(Ordering::Relaxed) {
            return None;
        }
        // Fails if the answer has arrived or another statement was sent; then there is nothing to kill.
        let marked = asked | KILLED;
        let is_marked = self.asked.compare_exchange(asked, marked, Ordering::AcqRel, Ordering::Acquire).is_ok();
        is_marked.then_some(PendingStatement { session, asked: marked })
    }

    /// The server has taken the kill.
    pub(crate) fn is_dead(&self, killed: PendingStatement) {
        // Fails if the answer has arrived or another statement was sent; then the mark is not needed.
        let _ = self.asked.compare_exchange(killed.asked, killed.asked | DEAD, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// How long the database has owed an answer; `None` if it owes none.
    pub(crate) fn unanswered(&self, clock: Clock) -> Option<Duration> {
        owed(self.asked.load(Ordering::Relaxed), clock)
    }
}

fn owed(asked: u64, clock: Clock) -> Option<Duration> {
    match asked & !(KILLED | DEAD) {
        0 => None,
        since => Some(Duration::from_millis((clock.millis() + 1).saturating_sub(since))),
    }
}

/// The operation that the current task is inside of.
pub(crate) fn current_operation() -> Option<&'static str> {
    WITHIN.try_with(|operation| *operation).ok()
}

/// Runs an operation's body, so that a second one inside it is known as such.
pub(crate) async fn inside<F: Future>(operation: &'static str, body: F) -> F::Output {
    WITHIN.scope(operation, body).await
}
