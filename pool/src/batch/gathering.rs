//! Those who wait for the same kind of statement, and the statements under way for them.

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
    Connection, Error, Fault, PoolOptions, Refusal,
    admission::Company,
    core::Core,
    lease::Lease,
    operation::{Kind, run},
    ticket::{self, Ticket},
};

/// A statement that takes longer is not waited for: others that ask alike get another connection.
const PATIENCE: Duration = Duration::from_millis(10);

/// What can be asked for.
pub(super) trait Key: Clone + Send + Sync + 'static {}
impl<K: Clone + Send + Sync + 'static> Key for K {}

/// What can be answered.
pub(super) trait Answer: Send + 'static {}
impl<V: Send + 'static> Answer for V {}

pub(super) type Body<K, V> = dyn Fn(Connection, Arc<[K]>) -> BoxFuture<'static, Result<Vec<V>, DbErr>> + Send + Sync;

type Join<K, V> = fn(Vec<Member<K, V>>) -> Vec<Party<K, V>>;

/// How a kind of operation is shared.
pub(super) struct Terms<K, V> {
    pub(super) operation: &'static str,
    /// What it is for one.
    pub(super) one: Kind,
    /// What it is for several at once.
    pub(super) several: Kind,
    /// Statements that are under way at the same time.
    pub(super) lanes: u32,
    /// Makes parties of those who ask.
    pub(super) join: Join<K, V>,
    /// Copies an answer for others who asked the same; `None` for writes, which nobody shares.
    pub(super) copy: fn(&V) -> Option<V>,
}

/// What all who ask alike have in common.
pub(super) struct Shared<K, V> {
    pub(super) core: Arc<Core>,
    pub(super) terms: Terms<K, V>,
    pub(super) body: Box<Body<K, V>>,
    pub(super) gathering: Mutex<Gathering<K, V>>,
    pub(super) sizes: metrics::Histogram,
}

/// Those who wait, and how many statements are under way.
pub(super) struct Gathering<K, V> {
    // By the order in which they came.
    waiting: BTreeMap<u64, Member<K, V>>,
    lanes: u32,
}

impl<K, V> Gathering<K, V> {
    pub(super) fn new() -> Mutex<Self> {
        Mutex::new(Self { waiting: BTreeMap::new(), lanes: 0 })
    }
}

/// One operation.
pub(super) struct Member<K, V> {
    pub(super) key: K,
    reply: oneshot::Sender<Reply<V>>,
    ticket: Arc<Ticket>,
    span: Span,
}

/// One who asks, and others who ask the very same thing.
pub(super) struct Party<K, V> {
    first: Member<K, V>,
    pub(super) others: Vec<Member<K, V>>,
}

impl<K, V> Party<K, V> {
    pub(super) fn of_one(first: Member<K, V>) -> Self {
        Self { first, others: Vec::new() }
    }
}

pub(super) enum Reply<V> {
    Answer(V),
    Failed(Error),
    /// Something is wrong with one of them: each has to ask for itself.
    Apart,
}

impl<K: Key, V: Answer> Shared<K, V> {
    fn gathering(&self) -> MutexGuard<'_, Gathering<K, V>> {
        self.gathering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn ask(&self, db: Connection, keys: Arc<[K]>) -> Result<Vec<V>, Error> {
        let count = keys.len();
        let answers = (self.body)(db, keys).await?;
        if answers.len() == count { Ok(answers) } else { Err(wrong_count(self.terms.operation)) }
    }

    /// Goes at once if nothing is in the way, or else waits with the others.
    pub(super) fn arrive(self: &Arc<Self>, key: K, span: Span, options: &PoolOptions) -> Result<Place<K, V>, Error> {
        let ticket = Ticket::new(self.terms.operation);
        let (reply, receiver) = oneshot::channel();
        let member = Member { key, reply, ticket: Arc::clone(&ticket), span };
        let mut gathering = self.gathering();
        let is_free = gathering.lanes < self.terms.lanes;
        if is_free
            && gathering.waiting.is_empty()
            && let Ok(taken) = self.core.admission.try_enter(&ticket, self.terms.one.lane())
        {
            gathering.lanes += 1;
            drop(gathering);
            let lease = self.core.lease(&ticket, taken, Duration::ZERO);
            self.set_off(&ticket, Some((lease, member)));
            return Ok(Place { shared: Arc::clone(self), receiver, waits: None });
        }
        let patience = ticket.arrived + options.acquire;
        let limit = ticket.deadline().map_or(patience, |deadline| deadline.min(patience));
        let terms = self.core.terms(options, &|| ());
        let joined = self.core.admission.join(&ticket, self.terms.one.lane(), Company::Shared, &terms, limit);
        let number = match joined {
            Ok(number) => number,
            Err(reason) => {
                drop(gathering);
                return Err(self.core.refusal(self.terms.operation, reason));
            }
        };
        gathering.waiting.insert(number, member);
        if is_free {
            gathering.lanes += 1;
            drop(gathering);
            self.set_off(&ticket.for_others(), None);
        }
        Ok(Place { shared: Arc::clone(self), receiver, waits: Some((number, limit, ticket.arrived)) })
    }

    /// Begins a statement, for this one or for all that wait by the time that there is a connection.
    fn set_off(self: &Arc<Self>, ticket: &Arc<Ticket>, ready: Option<(Lease, Member<K, V>)>) {
        let under_way = UnderWay { shared: Arc::clone(self), counts: true };
        let work = serve(under_way, Arc::clone(ticket), ready);
        let task = self.core.handle.spawn(ticket::inside(self.terms.operation, work));
        // Set once, here.
        let _ = ticket.abort.set(task.abort_handle());
    }

    /// A connection, and all that wait by then.
    async fn enter(&self, ticket: &Arc<Ticket>) -> Option<(Lease, Vec<Member<K, V>>)> {
        let core = &self.core;
        let options = core.options();
        let demand = || core.grow();
        let terms = core.terms(&options, &demand);
        match core.admission.enter_for_others(ticket, self.terms.one.lane(), &terms).await {
            Ok(taken) => Some((core.lease(ticket, taken, Duration::ZERO), self.take(options.batch_max))),
            // Each has a limit of its own.
            Err(Refusal::TimedOut { .. }) => None,
            Err(reason) => {
                self.refuse_all(&reason);
                None
            }
        }
    }

    fn record(&self, members: &[Member<K, V>]) {
        #[expect(clippy::cast_precision_loss, reason = "a batch has a thousand members at the most")]
        self.sizes.record(members.len() as f64);
        if members.len() == 1 {
            return;
        }
        // The first one's is that of the connection.
        self.core.record.waited(members.iter().skip(1).map(|member| member.ticket.arrived.elapsed()));
        self.core.record.batched(members.len());
        for member in members {
            member.span.record("db.operation.batch.size", members.len());
        }
    }

    /// Takes those who wait, in the order in which they came.
    fn take(&self, most: usize) -> Vec<Member<K, V>> {
        let mut numbers = Vec::new();
        let mut members = Vec::new();
        let mut gathering = self.gathering();
        while members.len() < most
            && let Some((number, member)) = gathering.waiting.pop_first()
        {
            numbers.push(number);
            // Who has gone needs no answer.
            if !member.reply.is_closed() {
                members.push(member);
            }
        }
        drop(gathering);
        self.core.admission.leave(numbers);
        members
    }

    /// Takes one back that has waited in vain; whether it was still there.
    fn withdraw(&self, number: u64) -> bool {
        let is_there = self.gathering().waiting.remove(&number).is_some();
        if is_there {
            self.core.admission.leave([number]);
        }
        is_there
    }

    fn refuse_all(&self, reason: &Refusal) {
        for member in self.take(usize::MAX) {
            let refusal = self.core.refusal(self.terms.operation, reason.clone());
            // Who has gone needs no answer.
            let _ = member.reply.send(Reply::Failed(refusal));
        }
    }

    fn deal(&self, parties: Vec<Party<K, V>>, outcome: Result<Vec<V>, Error>) {
        let count: usize = parties.iter().map(|party| 1 + party.others.len()).sum();
        let error = match outcome {
            Ok(answers) => {
                self.core.record.ended(count, true);
                for (party, answer) in parties.into_iter().zip(answers) {
                    for other in party.others {
                        // `None` for writes only, and those have no others.
                        let _ = (self.terms.copy)(&answer).map(|copy| other.reply.send(Reply::Answer(copy)));
                    }
                    let _ = party.first.reply.send(Reply::Answer(answer));
                }
                return;
            }
            Err(error) => error,
        };
        let is_apart = count > 1 && may_be_one_members(&error);
        if !is_apart {
            self.core.record.ended(count, false);
        }
        for member in parties.into_iter().flat_map(|party| std::iter::once(party.first).chain(party.others)) {
            let reply = if is_apart { Reply::Apart } else { Reply::Failed(error.clone()) };
            let _ = member.reply.send(reply);
        }
    }
}

/// A body that does not keep its promise.
pub(super) fn wrong_count(operation: &str) -> Error {
    Error::Database(DbErr::Custom(format!("{operation} gave more or fewer answers than were asked for")))
}

/// Whether it may be for the sake of one that all have failed.
fn may_be_one_members(error: &Error) -> bool {
    match error {
        Error::Database(error) => !Fault::of(error).passes(),
        Error::Panicked { .. } => true,
        _ => false,
    }
}

/// One statement for many, from the connection to the answers.
async fn serve<K: Key, V: Answer>(
    mut under_way: UnderWay<K, V>,
    ticket: Arc<Ticket>,
    ready: Option<(Lease, Member<K, V>)>,
) {
    let shared = Arc::clone(&under_way.shared);
    let core = &shared.core;
    let (mut lease, members) = match ready {
        Some((lease, member)) => (lease, vec![member]),
        None => match shared.enter(&ticket).await {
            Some(lot) => lot,
            None => return,
        },
    };
    let Some(first) = members.first() else {
        // They have all gone.
        if let Some(slot) = lease.take() {
            lease.end_unlike_others(slot);
        }
        return;
    };
    let span = first.span.clone();
    lease.waited(first.ticket.arrived.elapsed());
    shared.record(&members);
    let kind = if members.len() > 1 { shared.terms.several } else { shared.terms.one };
    let parties = (shared.terms.join)(members);
    let keys: Arc<[K]> = parties.iter().map(|party| party.first.key.clone()).collect();
    let body = |db| shared.ask(db, Arc::clone(&keys));
    let mut work = std::pin::pin!(run(core, &ticket, kind, lease, body).instrument(span));
    let outcome = if let Ok(outcome) = timeout(PATIENCE, &mut work).await {
        outcome
    } else {
        under_way.counts_no_more();
        work.await
    };
    shared.deal(parties, outcome);
}

/// A statement under way. When it ends, however that happens, the next one sets off if anybody waits.
struct UnderWay<K: Key, V: Answer> {
    shared: Arc<Shared<K, V>>,
    counts: bool,
}

impl<K: Key, V: Answer> UnderWay<K, V> {
    fn counts_no_more(&mut self) {
        if !std::mem::replace(&mut self.counts, false) {
            return;
        }
        let next = {
            let mut gathering = self.shared.gathering();
            let next = gathering.waiting.first_key_value().map(|(_, member)| member.ticket.for_others());
            if next.is_none() {
                gathering.lanes -= 1;
            }
            next
        };
        match next {
            Some(_) if self.shared.core.admission.is_closed() => {
                self.shared.gathering().lanes -= 1;
                self.shared.refuse_all(&Refusal::Closing);
            }
            Some(ticket) => self.shared.set_off(&ticket, None),
            None => {}
        }
    }
}

impl<K: Key, V: Answer> Drop for UnderWay<K, V> {
    fn drop(&mut self) {
        self.counts_no_more();
    }
}

/// Where somebody waits for an answer; left when dropped.
pub(super) struct Place<K: Key, V: Answer> {
    shared: Arc<Shared<K, V>>,
    receiver: oneshot::Receiver<Reply<V>>,
    /// The number in the queue, until when, and since when; `None` once it is served.
    waits: Option<(u64, Instant, Instant)>,
}

impl<K: Key, V: Answer> Place<K, V> {
    pub(super) async fn reply(mut self) -> Result<Reply<V>, Error> {
        if let Some((number, limit, since)) = self.waits {
            match timeout_at(limit, &mut self.receiver).await {
                Ok(reply) => {
                    self.waits = None;
                    return self.replied(reply);
                }
                Err(_) if self.shared.withdraw(number) => {
                    self.waits = None;
                    let reason = Refusal::TimedOut { waited: since.elapsed() };
                    return Err(self.shared.core.refusal(self.shared.terms.operation, reason));
                }
                Err(_) => self.waits = None,
            }
        }
        let reply = (&mut self.receiver).await;
        self.replied(reply)
    }

    fn replied(&self, reply: Result<Reply<V>, oneshot::error::RecvError>) -> Result<Reply<V>, Error> {
        reply.map_err(|_| {
            // The statement was given up with everybody who shared it.
            if self.shared.core.admission.is_closed() {
                Error::Closed
            } else {
                Error::Abandoned { operation: self.shared.terms.operation }
            }
        })
    }
}

impl<K: Key, V: Answer> Drop for Place<K, V> {
    fn drop(&mut self) {
        if let Some((number, ..)) = self.waits {
            self.shared.withdraw(number);
        }
    }
}
