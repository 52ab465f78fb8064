//! The queue of a batch: requests that wait for the same kind of statement, and the statements in flight for them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use sea_orm::DbErr;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};
use tracing::{Instrument, Span};

use crate::{
    context::{self, OperationContext},
    error::Error,
    exec::{
        connection::Connection,
        operation::{Kind, RunOptions, run},
    },
    inner::{PoolInner, lease::Lease},
    options::PoolOptions,
    set::{Access, AcquireError, WaiterKind},
};

/// A statement that takes longer is not waited for: requests that come later get another connection.
const OVERLAP_AFTER: Duration = Duration::from_millis(10);
/// How long a shared transaction waits for a lock. After that each request is retried individually:
/// the blocked one waits up to its own statement timeout, the others are served.
const SHARED_LOCK_TIMEOUT: Duration = Duration::from_millis(250);

pub(super) type Body<K, V> = dyn Fn(Connection, Arc<[K]>) -> BoxFuture<'static, Result<Vec<V>, DbErr>> + Send + Sync;

type Grouping<K, V> = fn(Vec<PendingRequest<K, V>>) -> Vec<Group<K, V>>;

/// How a kind of operation is shared.
pub(super) struct BatchConfig<K, V> {
    pub(super) operation: &'static str,
    /// What it is for a single request.
    pub(super) single: Kind,
    /// What it is for several at once.
    pub(super) several: Kind,
    /// Statements that are in flight at the same time.
    pub(super) in_flight: u32,
    /// Groups requests that share one answer.
    pub(super) group: Grouping<K, V>,
    /// Copies an answer for others with the same key; `None` for writes, which are never the same.
    pub(super) copy: fn(&V) -> Option<V>,
    pub(super) body: Box<Body<K, V>>,
    pub(super) sizes: metrics::Histogram,
}

impl<K, V> BatchConfig<K, V> {
    pub(super) async fn run_body(&self, db: Connection, keys: Arc<[K]>) -> Result<Vec<V>, Error> {
        let count = keys.len();
        let answers = (self.body)(db, keys).await?;
        if answers.len() == count { Ok(answers) } else { Err(wrong_count(self.operation)) }
    }
}

/// The error of a body that returns the wrong number of answers.
pub(super) fn wrong_count(operation: &str) -> Error {
    Error::Database(DbErr::Custom(format!("{operation} gave more or fewer answers than were asked for")))
}

/// Requests that wait, and how many statements are in flight for them.
pub(super) struct BatchQueue<K, V> {
    inner: Arc<PoolInner>,
    config: Arc<BatchConfig<K, V>>,
    state: Mutex<State<K, V>>,
}

struct State<K, V> {
    // In order of arrival.
    waiting: BTreeMap<u64, PendingRequest<K, V>>,
    in_flight: u32,
}

/// One request.
pub(super) struct PendingRequest<K, V> {
    pub(super) key: K,
    reply: oneshot::Sender<Reply<V>>,
    context: Arc<OperationContext>,
    span: Span,
}

/// A request, and others with the same key.
pub(super) struct Group<K, V> {
    first: PendingRequest<K, V>,
    pub(super) others: Vec<PendingRequest<K, V>>,
}

impl<K, V> Group<K, V> {
    pub(super) fn of_one(first: PendingRequest<K, V>) -> Self {
        Self { first, others: Vec::new() }
    }
}

pub(super) enum Reply<V> {
    Answer(V),
    Failed(Error),
    /// The shared statement failed and has left nothing behind.
    RetryIndividually,
}

/// What can be asked for, and answered.
pub(super) trait Key: Clone + Send + Sync + 'static {}
impl<K: Clone + Send + Sync + 'static> Key for K {}
pub(super) trait Answer: Send + 'static {}
impl<V: Send + 'static> Answer for V {}

impl<K, V> BatchQueue<K, V> {
    pub(super) fn new(inner: Arc<PoolInner>, config: Arc<BatchConfig<K, V>>) -> Self {
        Self { inner, config, state: Mutex::new(State { waiting: BTreeMap::new(), in_flight: 0 }) }
    }

    fn state(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a request whose wait has timed out. Returns whether it was still queued.
    fn withdraw(&self, number: u64) -> bool {
        let was_waiting = self.state().waiting.remove(&number).is_some();
        if was_waiting {
            self.inner.admission.leave([number]);
        }
        was_waiting
    }
}

impl<K: Key, V: Answer> BatchQueue<K, V> {
    /// Starts a statement if nothing is in the way, or else waits for the next one.
    pub(super) fn enter(self: &Arc<Self>, key: K, span: Span, options: &PoolOptions) -> Result<Place<K, V>, Error> {
        let (inner, config) = (&self.inner, &self.config);
        let context = OperationContext::new(config.operation);
        let (reply, receiver) = oneshot::channel();
        let request = PendingRequest { key, reply, context: Arc::clone(&context), span };
        let mut state = self.state();
        let may_start = state.in_flight < config.in_flight;
        if may_start
            && state.waiting.is_empty()
            && let Ok(admitted) = inner.admission.try_acquire(&context, config.single.access())
        {
            state.in_flight += 1;
            drop(state);
            let lease = inner.lease(&context, admitted, Duration::ZERO);
            self.spawn(&context, Some((lease, request)));
            return Ok(Place { queue: Arc::clone(self), receiver, waits: None });
        }
        let latest = context.arrived + options.acquire;
        let limit = context.deadline().map_or(latest, |deadline| deadline.min(latest));
        let params = inner.admission_params(options, &|| ());
        let joined = inner.admission.join(&context, config.single.access(), WaiterKind::Batched, &params, limit);
        let number = match joined {
            Ok(number) => number,
            Err(reason) => {
                drop(state);
                return Err(inner.refusal(config.operation, reason));
            }
        };
        state.waiting.insert(number, request);
        if may_start {
            state.in_flight += 1;
            drop(state);
            self.spawn(&context.for_others(), None);
        }
        Ok(Place { queue: Arc::clone(self), receiver, waits: Some((number, limit, context.arrived)) })
    }

    /// Starts a statement, for this request or for all that wait once there is a connection.
    fn spawn(self: &Arc<Self>, context: &Arc<OperationContext>, ready: Option<(Lease, PendingRequest<K, V>)>) {
        let in_flight = InFlight { queue: Arc::clone(self), counts: true };
        let work = serve(in_flight, Arc::clone(context), ready);
        let task = self.inner.handle.spawn(context::inside(self.config.operation, work));
        context.runs_as(task.abort_handle());
    }

    /// Waits for a connection, and takes all requests that wait by then.
    async fn acquire(&self, context: &Arc<OperationContext>) -> Option<(Lease, Vec<PendingRequest<K, V>>)> {
        let inner = &self.inner;
        let options = inner.options();
        let demand = || inner.replenish();
        let params = inner.admission_params(&options, &demand);
        match inner.admission.acquire_for_batch(context, self.config.single.access(), &params).await {
            Ok(admitted) => Some((inner.lease(context, admitted, Duration::ZERO), self.take(options.batch_max))),
            // Each has its own limit.
            Err(AcquireError::TimedOut { .. }) => None,
            Err(reason) => {
                self.refuse_all(&reason);
                None
            }
        }
    }

    fn record(&self, requests: &[PendingRequest<K, V>]) {
        #[expect(clippy::cast_precision_loss, reason = "a batch has a thousand members at the most")]
        self.config.sizes.record(requests.len() as f64);
        if requests.len() == 1 {
            return;
        }
        // The first one's wait is that of the connection.
        self.inner.metrics.waited(requests.iter().skip(1).map(|request| request.context.arrived.elapsed()));
        self.inner.metrics.batched(requests.len());
        for request in requests {
            request.span.record("db.operation.batch.size", requests.len());
        }
    }

    /// Takes requests in order of arrival.
    fn take(&self, most: usize) -> Vec<PendingRequest<K, V>> {
        let mut numbers = Vec::new();
        let mut requests = Vec::new();
        let mut state = self.state();
        while requests.len() < most
            && let Some((number, request)) = state.waiting.pop_first()
        {
            numbers.push(number);
            // Some callers may have gone away.
            if !request.reply.is_closed() {
                requests.push(request);
            }
        }
        drop(state);
        self.inner.admission.leave(numbers);
        requests
    }

    fn refuse_all(&self, reason: &AcquireError) {
        for request in self.take(usize::MAX) {
            let refusal = self.inner.refusal(self.config.operation, reason.clone());
            // The caller may have gone away.
            let _ = request.reply.send(Reply::Failed(refusal));
        }
    }

    /// How several requests run together: as long as one of them has time, and without waiting long for locks.
    fn run_options(&self, requests: &[PendingRequest<K, V>]) -> RunOptions {
        let acquire = self.inner.options().acquire;
        let last_start = |request: &PendingRequest<K, V>| {
            request.context.deadline().unwrap_or_else(|| request.context.arrived + acquire)
        };
        let is_shared = requests.len() > 1;
        let kind = if is_shared { self.config.several } else { self.config.single };
        RunOptions {
            kind,
            last_start: requests.iter().map(last_start).max().unwrap_or_else(Instant::now),
            lock_timeout: (is_shared && kind.access() == Access::Write).then_some(SHARED_LOCK_TIMEOUT),
        }
    }

    /// Sends each caller its answer.
    fn dispatch(&self, groups: Vec<Group<K, V>>, outcome: Result<Vec<V>, Error>, may_be_kept: bool) {
        let count: usize = groups.iter().map(|group| 1 + group.others.len()).sum();
        let error = match outcome {
            Ok(answers) => {
                self.inner.metrics.ended(count, true);
                for (group, answer) in groups.into_iter().zip(answers) {
                    for other in group.others {
                        // `None` for writes only, and those have no others.
                        let _ = (self.config.copy)(&answer).map(|copy| other.reply.send(Reply::Answer(copy)));
                    }
                    let _ = group.first.reply.send(Reply::Answer(answer));
                }
                return;
            }
            Err(error) => error,
        };
        // If the outcome is unknown, all get the error. Otherwise nothing took effect, and one member may have caused it.
        let retries = count > 1 && !may_be_kept;
        if !retries {
            self.inner.metrics.ended(count, false);
        }
        for request in groups.into_iter().flat_map(|group| std::iter::once(group.first).chain(group.others)) {
            let reply = if retries { Reply::RetryIndividually } else { Reply::Failed(error.clone()) };
            let _ = request.reply.send(reply);
        }
    }
}

/// One statement for many, from the connection to the answers.
async fn serve<K: Key, V: Answer>(
    mut in_flight: InFlight<K, V>,
    context: Arc<OperationContext>,
    ready: Option<(Lease, PendingRequest<K, V>)>,
) {
    let queue = Arc::clone(&in_flight.queue);
    let (mut lease, requests) = match ready {
        Some((lease, request)) => (lease, vec![request]),
        None => match queue.acquire(&context).await {
            Some(acquired) => acquired,
            None => return,
        },
    };
    let Some(first) = requests.first() else {
        // All callers have gone away.
        if let Some(entry) = lease.take() {
            lease.end_unlike_others(entry);
        }
        return;
    };
    let span = first.span.clone();
    lease.waited(first.context.arrived.elapsed());
    queue.record(&requests);
    let options = queue.run_options(&requests);
    let groups = (queue.config.group)(requests);
    let keys: Arc<[K]> = groups.iter().map(|group| group.first.key.clone()).collect();
    let body = |db| queue.config.run_body(db, Arc::clone(&keys));
    // Boxed: a task is moved several times before it runs, and this is most of it.
    let mut work = Box::pin(run(&queue.inner, &context, options, lease, body).instrument(span));
    let (outcome, attempt) = if let Ok(outcome) = timeout(OVERLAP_AFTER, &mut work).await {
        outcome
    } else {
        in_flight.end();
        work.await
    };
    queue.dispatch(groups, outcome, attempt.may_be_kept());
}

/// A statement in flight. When it ends, however that happens, the next one starts if requests wait.
struct InFlight<K: Key, V: Answer> {
    queue: Arc<BatchQueue<K, V>>,
    counts: bool,
}

impl<K: Key, V: Answer> InFlight<K, V> {
    fn end(&mut self) {
        if !std::mem::replace(&mut self.counts, false) {
            return;
        }
        let next = {
            let mut state = self.queue.state();
            let next = state.waiting.first_key_value().map(|(_, request)| request.context.for_others());
            if next.is_none() {
                state.in_flight -= 1;
            }
            next
        };
        match next {
            Some(_) if self.queue.inner.admission.is_closed() => {
                self.queue.state().in_flight -= 1;
                self.queue.refuse_all(&AcquireError::Closing);
            }
            Some(context) => self.queue.spawn(&context, None),
            None => {}
        }
    }
}

impl<K: Key, V: Answer> Drop for InFlight<K, V> {
    fn drop(&mut self) {
        self.end();
    }
}

/// A request's place in the queue; left when dropped.
pub(super) struct Place<K, V> {
    queue: Arc<BatchQueue<K, V>>,
    receiver: oneshot::Receiver<Reply<V>>,
    /// The number in the queue, until when, and since when; `None` once it is served.
    waits: Option<(u64, Instant, Instant)>,
}

impl<K: Key, V: Answer> Place<K, V> {
    pub(super) async fn reply(mut self) -> Result<Reply<V>, Error> {
        if let Some((number, limit, since)) = self.waits {
            let reply = timeout_at(limit, &mut self.receiver).await;
            if reply.is_err() && self.queue.withdraw(number) {
                self.waits = None;
                let reason = AcquireError::TimedOut { waited: since.elapsed() };
                return Err(self.queue.inner.refusal(self.queue.config.operation, reason));
            }
            self.waits = None;
            if let Ok(reply) = reply {
                return self.replied(reply);
            }
        }
        let reply = (&mut self.receiver).await;
        self.replied(reply)
    }

    fn replied(&self, reply: Result<Reply<V>, oneshot::error::RecvError>) -> Result<Reply<V>, Error> {
        // Without a reply the statement was ended together with all that shared it.
        reply.map_err(|_| {
            if self.queue.inner.admission.is_closed() {
                Error::Closed
            } else {
                Error::Abandoned { operation: self.queue.config.operation }
            }
        })
    }
}

impl<K, V> Drop for Place<K, V> {
    fn drop(&mut self) {
        if let Some((number, ..)) = self.waits {
            self.queue.withdraw(number);
        }
    }
}
