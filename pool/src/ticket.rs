//! Who asks: the operation, the request behind it, and how long it makes sense to go on.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{task::AbortHandle, time::Instant};

use crate::clock::Clock;

tokio::task_local! {
    static CALLER: Caller;
    static WITHIN: &'static str;
}

/// What stands behind the operations of a task: told in `/pool`, in refusals and warnings.
///
/// ```
/// # async fn handler() {}
/// # async fn example() {
/// use std::time::Duration;
///
/// orm_pool::Caller::new("request 4711").within(Duration::from_secs(30)).scope(handler()).await;
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Caller {
    label: Arc<str>,
    deadline: Option<Instant>,
}

impl Caller {
    /// A caller by the name that an operator will recognise, such as a request's id.
    #[must_use]
    pub fn new(label: impl Into<Arc<str>>) -> Self {
        Self { label: label.into(), deadline: None }
    }

    /// Nobody waits for the answer after this time: an operation that cannot begin by then is refused on arrival, and
    /// nothing is tried again after it.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.deadline = Instant::now().checked_add(limit);
        self
    }

    /// Runs a future whose operations are this caller's.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        CALLER.scope(self, future).await
    }

    fn current() -> Option<Self> {
        CALLER.try_with(Self::clone).ok()
    }
}

/// One operation, from its arrival to its end.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) operation: &'static str,
    pub(crate) caller: Option<Caller>,
    pub(crate) arrived: Instant,
    /// Ends the operation's task from outside.
    pub(crate) abort: OnceLock<AbortHandle>,
    /// Whether its long hold has been warned of.
    pub(crate) warned: AtomicBool,
    /// Whether it was given up because the peer had gone silent.
    pub(crate) is_stranded: AtomicBool,
    // On the pool's clock, plus one; 0 while the database is not asked anything.
    asked: AtomicU64,
}

impl Ticket {
    pub(crate) fn new(operation: &'static str) -> Arc<Self> {
        Self::of(operation, Caller::current())
    }

    /// A ticket for several, in the name of this one, whose deadline is not theirs.
    pub(crate) fn for_others(&self) -> Arc<Self> {
        Self::of(self.operation, self.caller.clone().map(|caller| Caller { deadline: None, ..caller }))
    }

    fn of(operation: &'static str, caller: Option<Caller>) -> Arc<Self> {
        Arc::new(Self {
            operation,
            caller,
            arrived: Instant::now(),
            abort: OnceLock::new(),
            warned: AtomicBool::new(false),
            is_stranded: AtomicBool::new(false),
            asked: AtomicU64::new(0),
        })
    }

    /// After this, nobody waits for the outcome.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.caller.as_ref().and_then(|caller| caller.deadline)
    }

    pub(crate) fn label(&self) -> Option<Arc<str>> {
        self.caller.as_ref().map(|caller| Arc::clone(&caller.label))
    }

    pub(crate) fn asks(&self, clock: Clock) {
        self.asked.store(clock.millis() + 1, Ordering::Relaxed);
    }

    pub(crate) fn answered(&self) {
        self.asked.store(0, Ordering::Relaxed);
    }

    /// How long the database has owed an answer; `None` if it owes none.
    pub(crate) fn unanswered(&self, clock: Clock) -> Option<Duration> {
        match self.asked.load(Ordering::Relaxed) {
            0 => None,
            since => Some(Duration::from_millis((clock.millis() + 1).saturating_sub(since))),
        }
    }
}

/// The operation that the current task is inside of.
pub(crate) fn within() -> Option<&'static str> {
    WITHIN.try_with(|operation| *operation).ok()
}

/// Runs an operation's body, so that a second one inside it is known as such.
pub(crate) async fn inside<F: Future>(operation: &'static str, body: F) -> F::Output {
    WITHIN.scope(operation, body).await
}
