//! The queue of a batch: pending requests, and the statements in flight for them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};
use tracing::{Instrument, Span};

use super::{
    config::BatchConfig,
    request::{Group, Key, PendingRequest, Reply, Value},
};
use crate::{
    context::{self, OperationContext},
    error::Error,
    exec::operation::{RunOptions, run},
    inner::{PoolInner, lease::Lease},
    options::PoolOptions,
    set::{Access, AcquireError, WaiterKind},
};

/// After this time the queue does not wait for a statement: later requests use another connection.
const OVERLAP_AFTER: Duration = Duration::from_millis(10);
/// Lock timeout of a shared transaction. After that each request is retried individually: only the blocked one waits
/// for the lock, up to the statement timeout.
const SHARED_LOCK_TIMEOUT: Duration = Duration::from_millis(250);

/// Pending requests, and the number of statements in flight for them.
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

impl<K, V> BatchQueue<K, V> {
    pub(super) fn new(inner: Arc<PoolInner>, config: Arc<BatchConfig<K, V>>) -> Self {
        Self { inner, config, state: Mutex::new(State { waiting: BTreeMap::new(), in_flight: 0 }) }
    }

    fn state(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a request that no longer waits. Returns whether it was still queued.
    fn withdraw(&self, number: u64) -> bool {
        let was_waiting = self.state().waiting.remove(&number).is_some();
        if was_waiting {
            self.inner.admission.leave([number]);
        }
        was_waiting
    }
}

impl<K: Key, V: Value> BatchQueue<K, V> {
    /// Starts a statement if possible, or else joins the queue for the next one.
    pub(super) fn enter(self: &Arc<Self>, key: K, span: Span, options: &PoolOptions) -> Result<Waiter<K, V>, Error> {
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
            return Ok(Waiter { queue: Arc::clone(self), receiver, queued: None });
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
        let queued = Queued { number, limit, since: context.arrived };
        Ok(Waiter { queue: Arc::clone(self), receiver, queued: Some(queued) })
    }

    /// Spawns a statement, for this request or for all requests that wait once a connection is available.
    fn spawn(self: &Arc<Self>, context: &Arc<OperationContext>, ready: Option<(Lease, PendingRequest<K, V>)>) {
        let in_flight = InFlight { queue: Arc::clone(self), counts: true };
        let work = serve(in_flight, Arc::clone(context), ready);
        let task = self.inner.handle.spawn(context::scope(self.config.operation, work));
        context.set_task(task.abort_handle());
    }

    /// Waits for a connection, then takes all requests that wait by then.
    async fn acquire(&self, context: &Arc<OperationContext>) -> Option<(Lease, Vec<PendingRequest<K, V>>)> {
        let inner = &self.inner;
        let options = inner.options();
        let demand = || inner.replenish();
        let params = inner.admission_params(&options, &demand);
        match inner.admission.acquire_for_batch(context, self.config.single.access(), &params).await {
            Ok(admitted) => Some((inner.lease(context, admitted, Duration::ZERO), self.take(options.batch_max))),
            // Each request has its own timeout.
            Err(AcquireError::TimedOut { .. }) => None,
            Err(reason) => {
                self.refuse_all(&reason);
                None
            }
        }
    }

    fn record(&self, requests: &[PendingRequest<K, V>]) {
        #[expect(clippy::cast_precision_loss, reason = "a batch has at most 1000 requests")]
        self.config.sizes.record(requests.len() as f64);
        if requests.len() == 1 {
            return;
        }
        // The wait of the first request is recorded by the lease.
        self.inner.metrics.waited(requests.iter().skip(1).map(|request| request.context.arrived.elapsed()));
        self.inner.metrics.batched(requests.len());
        for request in requests {
            request.span.record("db.operation.batch.size", requests.len());
        }
    }

    /// Takes requests in order of arrival.
    fn take(&self, max: usize) -> Vec<PendingRequest<K, V>> {
        let mut numbers = Vec::new();
        let mut requests = Vec::new();
        let mut state = self.state();
        while requests.len() < max
            && let Some((number, request)) = state.waiting.pop_first()
        {
            numbers.push(number);
            // Requests whose caller was dropped are skipped.
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
            // Fails if the caller was dropped.
            let _ = request.reply.send(Reply::Failed(refusal));
        }
    }

    /// Returns how to run these requests together: until the latest of their deadlines, and with a short lock timeout.
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

    /// Sends each caller its value or error.
    fn dispatch(&self, groups: Vec<Group<K, V>>, outcome: Result<Vec<V>, Error>, may_have_taken_effect: bool) {
        let count: usize = groups.iter().map(|group| 1 + group.others.len()).sum();
        let error = match outcome {
            Ok(values) => {
                self.inner.metrics.ended(count, true);
                for (group, value) in groups.into_iter().zip(values) {
                    for other in group.others {
                        // `None` only for writes, which are not grouped.
                        let _ = (self.config.copy)(&value).map(|copy| other.reply.send(Reply::Value(copy)));
                    }
                    let _ = group.first.reply.send(Reply::Value(value));
                }
                return;
            }
            Err(error) => error,
        };
        // If the outcome is unknown, all get the error. Otherwise nothing took effect, and a single request may be the
        // cause.
        let retry_individually = count > 1 && !may_have_taken_effect;
        if !retry_individually {
            self.inner.metrics.ended(count, false);
        }
        for request in groups.into_iter().flat_map(|group| std::iter::once(group.first).chain(group.others)) {
            let reply = if retry_individually { Reply::RetryIndividually } else { Reply::Failed(error.clone()) };
            let _ = request.reply.send(reply);
        }
    }
}

/// Runs one statement for the waiting requests, from acquiring a connection to dispatching the values.
async fn serve<K: Key, V: Value>(
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
        // All callers were dropped.
        if let Some(entry) = lease.take() {
            lease.end_unmeasured(entry);
        }
        return;
    };
    let span = first.span.clone();
    lease.set_waited(first.context.arrived.elapsed());
    queue.record(&requests);
    let options = queue.run_options(&requests);
    let groups = (queue.config.group)(requests);
    let keys: Arc<[K]> = groups.iter().map(|group| group.first.key.clone()).collect();
    let body = |db| queue.config.run_body(db, Arc::clone(&keys));
    // Boxed because it is the largest part of the task, which is moved several times before it runs.
    let mut work = Box::pin(run(&queue.inner, &context, options, lease, body).instrument(span));
    let (outcome, attempt) = if let Ok(outcome) = timeout(OVERLAP_AFTER, &mut work).await {
        outcome
    } else {
        in_flight.end();
        work.await
    };
    queue.dispatch(groups, outcome, attempt.may_have_taken_effect());
}

/// A statement in flight. When it ends, even by a panic or an abort, the next one starts if requests wait.
struct InFlight<K: Key, V: Value> {
    queue: Arc<BatchQueue<K, V>>,
    counts: bool,
}

impl<K: Key, V: Value> InFlight<K, V> {
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

impl<K: Key, V: Value> Drop for InFlight<K, V> {
    fn drop(&mut self) {
        self.end();
    }
}

/// The caller of a request, which waits for the reply. It leaves the queue on drop.
pub(super) struct Waiter<K, V> {
    queue: Arc<BatchQueue<K, V>>,
    receiver: oneshot::Receiver<Reply<V>>,
    /// `None` if a statement was started for it, or once it is served.
    queued: Option<Queued>,
}

/// A request that is in the queue.
#[derive(Clone, Copy)]
struct Queued {
    number: u64,
    /// How long it may wait.
    limit: Instant,
    since: Instant,
}

impl<K: Key, V: Value> Waiter<K, V> {
    pub(super) async fn reply(mut self) -> Result<Reply<V>, Error> {
        if let Some(Queued { number, limit, since }) = self.queued {
            let reply = timeout_at(limit, &mut self.receiver).await;
            if reply.is_err() && self.queue.withdraw(number) {
                self.queued = None;
                let reason = AcquireError::TimedOut { waited: since.elapsed() };
                return Err(self.queue.inner.refusal(self.queue.config.operation, reason));
            }
            self.queued = None;
            if let Ok(reply) = reply {
                return self.replied(reply);
            }
        }
        let reply = (&mut self.receiver).await;
        self.replied(reply)
    }

    fn replied(&self, reply: Result<Reply<V>, oneshot::error::RecvError>) -> Result<Reply<V>, Error> {
        // Without a reply, the statement was aborted with all requests that shared it.
        reply.map_err(|_| {
            if self.queue.inner.admission.is_closed() {
                Error::Closed
            } else {
                Error::Aborted { operation: self.queue.config.operation }
            }
        })
    }
}

impl<K, V> Drop for Waiter<K, V> {
    fn drop(&mut self) {
        if let Some(queued) = self.queued {
            self.queue.withdraw(queued.number);
        }
    }
}
