//! Batches: one statement for many operations that ask alike.
//!
//! While a statement is in flight, operations of the same kind wait in a queue, and the next statement serves all of them.
//! There is no timer and no minimum batch size: an operation that finds no statement in flight runs immediately.

mod queue;

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use sea_orm::{DbErr, TransactionOptions};
use tracing::Instrument;

use self::queue::{BatchConfig, BatchQueue, Group, PendingRequest, Reply};
use crate::{
    error::Error,
    exec::{
        connection::Connection,
        operation::{Kind, operate, refuse_nested, span},
    },
    pool::Pool,
};

/// Statements for reads that ask alike that are in flight at the same time. One would leave the database without work
/// while answers are handed out; more would make each serve fewer.
const READS_IN_FLIGHT: u32 = 2;
/// The same for writes: what one commit can serve, two should not.
const WRITES_IN_FLIGHT: u32 = 1;
/// Above this number of keys, queues without requests are removed.
const KEYS: usize = 1024;

/// Operations that ask alike, and share a statement while they would have to wait for each other.
///
/// Made by [`Pool::batch_reads`], [`Pool::coalesce_reads`], [`Pool::batch_writes`] and [`Pool::batch_transactions`]; clones share
/// it.
pub struct Batch<K, V> {
    pool: Pool,
    config: Arc<BatchConfig<K, V>>,
    /// The queue of a key.
    queue_of: Arc<QueueOf<K, V>>,
}

type QueueOf<K, V> = dyn Fn(&K) -> Arc<BatchQueue<K, V>> + Send + Sync;

impl Pool {
    /// Reads that ask alike, by key. `operation` names them in traces, logs and refusals (`users.find`).
    ///
    /// The body gets keys, each once, and returns as many answers, in the same order. An answer that several asked
    /// for is cloned. A read sees the state at its arrival, or a later one: it never shares a statement that was begun
    /// before it came.
    ///
    /// ```no_run
    /// # use std::{collections::HashMap, sync::Arc};
    /// # use orm_pool::{Connection, Pool};
    /// # use sea_orm::{ConnectionTrait, DbErr, Statement};
    /// # async fn names_of(_: Connection, _: &[i64]) -> Result<HashMap<i64, String>, DbErr> { Ok(HashMap::new()) }
    /// # async fn example(pool: Pool) -> Result<(), orm_pool::Error> {
    /// let names = pool.batch_reads("notes.name", |db: Connection, ids: Arc<[i64]>| async move {
    ///     let names = names_of(db, &ids).await?;
    ///     Ok(ids.iter().map(|id| names.get(id).cloned()).collect())
    /// });
    /// let name: Option<String> = names.load(7).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn batch_reads<K, V, F, Fut>(&self, operation: &'static str, body: F) -> Batch<K, V>
    where
        K: Clone + Eq + Hash + Send + Sync + 'static,
        V: Clone + Send + 'static,
        F: Fn(Connection, Arc<[K]>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<V>, DbErr>> + Send + 'static,
    {
        self.one_queue(self.reads(operation, body))
    }

    /// Reads that share a statement only if their keys are equal. Use it where one statement cannot answer several keys: a
    /// batch would run one statement per key in sequence, and answer all of them after the last.
    ///
    /// The body gets a slice with a single key and returns a single answer. Otherwise as [`batch_reads`](Self::batch_reads).
    pub fn coalesce_reads<K, V, F, Fut>(&self, operation: &'static str, body: F) -> Batch<K, V>
    where
        K: Clone + Eq + Hash + Send + Sync + 'static,
        V: Clone + Send + 'static,
        F: Fn(Connection, Arc<[K]>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<V>, DbErr>> + Send + 'static,
    {
        let config = Arc::new(self.reads(operation, body));
        let queues: Mutex<HashMap<K, Arc<BatchQueue<K, V>>>> = Mutex::default();
        let queue_of = {
            let (inner, config) = (Arc::clone(self.inner()), Arc::clone(&config));
            move |key: &K| {
                let mut queues = queues.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(queue) = queues.get(key) {
                    return Arc::clone(queue);
                }
                if queues.len() >= KEYS {
                    queues.retain(|_, queue| Arc::strong_count(queue) > 1);
                }
                let queue = Arc::new(BatchQueue::new(Arc::clone(&inner), Arc::clone(&config)));
                queues.insert(key.clone(), Arc::clone(&queue));
                queue
            }
        };
        Batch { pool: self.clone(), config, queue_of: Arc::new(queue_of) }
    }

    /// Writes that ask alike.
    ///
    /// The body gets what each one asks for and returns as many answers, in the same order. Several are one transaction,
    /// and none is answered before it is committed; a single one is a single statement, as with [`write`](Self::write).
    ///
    /// If the shared transaction fails before its commit is sent, or the server refuses the commit, each operation is retried
    /// individually, so that one failing member does not fail the others. For the same reason it waits for locks only briefly.
    /// If the outcome of a commit is unknown, all members get the error.
    pub fn batch_writes<K, V, F, Fut>(&self, operation: &'static str, body: F) -> Batch<K, V>
    where
        K: Clone + Send + Sync + 'static,
        V: Send + 'static,
        F: Fn(Connection, Arc<[K]>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<V>, DbErr>> + Send + 'static,
    {
        self.one_queue(self.changes(operation, Kind::Write, body))
    }

    /// Like the above for writes of several statements: even a single one is a transaction. Otherwise as
    /// [`batch_writes`](Self::batch_writes).
    pub fn batch_transactions<K, V, F, Fut>(&self, operation: &'static str, body: F) -> Batch<K, V>
    where
        K: Clone + Send + Sync + 'static,
        V: Send + 'static,
        F: Fn(Connection, Arc<[K]>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<V>, DbErr>> + Send + 'static,
    {
        self.one_queue(self.changes(operation, Kind::Transaction(TransactionOptions::default()), body))
    }

    fn reads<K, V, F, Fut>(&self, operation: &'static str, body: F) -> BatchConfig<K, V>
    where
        K: Clone + Eq + Hash,
        V: Clone,
        F: Fn(Connection, Arc<[K]>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<V>, DbErr>> + Send + 'static,
    {
        BatchConfig {
            operation,
            single: Kind::Read,
            several: Kind::Read,
            in_flight: READS_IN_FLIGHT,
            group: by_key,
            copy: |answer: &V| Some(answer.clone()),
            body: Box::new(move |db, keys| Box::pin(body(db, keys))),
            sizes: self.inner().metrics.batch_sizes(operation),
        }
    }

    fn changes<K, V, F, Fut>(&self, operation: &'static str, single: Kind, body: F) -> BatchConfig<K, V>
    where
        F: Fn(Connection, Arc<[K]>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<V>, DbErr>> + Send + 'static,
    {
        BatchConfig {
            operation,
            single,
            several: Kind::Transaction(TransactionOptions::default()),
            in_flight: WRITES_IN_FLIGHT,
            group: |requests| requests.into_iter().map(Group::of_one).collect(),
            copy: |_| None,
            body: Box::new(move |db, keys| Box::pin(body(db, keys))),
            sizes: self.inner().metrics.batch_sizes(operation),
        }
    }

    fn one_queue<K, V>(&self, config: BatchConfig<K, V>) -> Batch<K, V>
    where
        K: Clone + Send + Sync + 'static,
        V: Send + 'static,
    {
        let config = Arc::new(config);
        let queue = Arc::new(BatchQueue::new(Arc::clone(self.inner()), Arc::clone(&config)));
        Batch { pool: self.clone(), config, queue_of: Arc::new(move |_| Arc::clone(&queue)) }
    }
}

impl<K, V> Batch<K, V>
where
    K: Clone + Send + Sync + 'static,
    V: Send + 'static,
{
    /// Asks, and waits for the answer. Dropping the future leaves the queue.
    ///
    /// # Errors
    ///
    /// What the body returns, or why the operation was refused.
    pub async fn load(&self, key: K) -> Result<V, Error> {
        let inner = self.pool.inner();
        let options = inner.options();
        // An operation that must not wait cannot share, and an outage is reported to each operation individually.
        if !options.batch || !options.wait || inner.health.is_down() {
            return Box::pin(self.load_alone(key)).await;
        }
        refuse_nested(self.pool.runtime(), self.config.operation)?;
        let span = span(inner, self.config.operation);
        let waiting = tracing::info_span!(parent: &span, "wait", otel.name = "pool.wait");
        let place = (self.queue_of)(&key).enter(key.clone(), span, &options)?;
        match place.reply().instrument(waiting).await? {
            Reply::Answer(answer) => Ok(answer),
            Reply::Failed(error) => Err(error),
            // Boxed, here and above: otherwise every caller's future would be 3 KiB larger for this rare path.
            Reply::RetryIndividually => Box::pin(self.load_alone(key)).await,
        }
    }

    async fn load_alone(&self, key: K) -> Result<V, Error> {
        let config = Arc::clone(&self.config);
        let keys: Arc<[K]> = Arc::new([key]);
        let body = move |db| {
            let (config, keys) = (Arc::clone(&config), Arc::clone(&keys));
            async move { config.run_body(db, keys).await }
        };
        let (operation, single) = (self.config.operation, self.config.single);
        let answers: Vec<V> = operate(self.pool.inner(), self.pool.runtime(), operation, single, body, || ()).await?;
        answers.into_iter().next().ok_or_else(|| queue::wrong_count(operation))
    }
}

/// Groups requests with the same key.
fn by_key<K: Clone + Eq + Hash, V>(requests: Vec<PendingRequest<K, V>>) -> Vec<Group<K, V>> {
    let mut places = HashMap::with_capacity(requests.len());
    let mut groups: Vec<Group<K, V>> = Vec::with_capacity(requests.len());
    for request in requests {
        let place = *places.entry(request.key.clone()).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.others.push(request),
            None => groups.push(Group::of_one(request)),
        }
    }
    groups
}

impl<K, V> Clone for Batch<K, V> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), config: Arc::clone(&self.config), queue_of: Arc::clone(&self.queue_of) }
    }
}

impl<K, V> std::fmt::Debug for Batch<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("operation", &self.config.operation).finish_non_exhaustive()
    }
}
