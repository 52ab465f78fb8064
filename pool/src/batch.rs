//! Batches: one statement serves many concurrent operations of the same kind.
//!
//! At most two read statements, or one write statement, of a batch are in flight; one that takes longer than 10 ms no longer
//! counts. Below this limit an operation with an idle connection runs immediately. Otherwise operations wait in a queue, and
//! the next statement serves all of them. A statement is never delayed to fill a batch.

mod config;
mod queue;
mod request;

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use sea_orm::{DbErr, TransactionOptions};
use tracing::Instrument;

use self::{
    config::{BatchConfig, wrong_count},
    queue::BatchQueue,
    request::{Group, PendingRequest, Reply},
};
use crate::{
    error::Error,
    exec::{
        connection::Connection,
        operation::{Kind, operate, refuse_nested, span},
    },
    pool::Pool,
};

/// Maximum number of concurrent statements per batch of reads. With one, the database would be idle while results are
/// dispatched; with more, each would serve fewer operations.
const READS_IN_FLIGHT: u32 = 2;
/// The same for writes. One, because each statement costs a commit.
const WRITES_IN_FLIGHT: u32 = 1;
/// Number of keys above which empty queues are removed.
const KEYS: usize = 1024;

/// Loads values by key. Concurrent loads share a statement.
///
/// Created by [`Pool::batch_reads`], [`Pool::coalesce_reads`], [`Pool::batch_writes`] and [`Pool::batch_transactions`].
/// Clones share its queue.
pub struct Batch<K, V> {
    pool: Pool,
    config: Arc<BatchConfig<K, V>>,
    /// Returns the queue of a key.
    queue_of: Arc<QueueOf<K, V>>,
}

type QueueOf<K, V> = dyn Fn(&K) -> Arc<BatchQueue<K, V>> + Send + Sync;

impl Pool {
    /// Creates a batch of reads by key. `operation` names them in traces, logs and errors (`users.find`).
    ///
    /// The body gets distinct keys and returns one value per key, in the same order. A value that was requested more
    /// than once is cloned. A read never joins a statement that started before it, so it sees the state at its arrival
    /// or a later one.
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
        self.one_queue(self.read_config(operation, body))
    }

    /// Creates a batch of reads that share a statement only if their keys are equal. Use it if one statement cannot
    /// serve several keys: [`batch_reads`](Self::batch_reads) would run one statement per key in sequence, and return
    /// all values after the last.
    ///
    /// The body gets a single key and returns a single value.
    pub fn coalesce_reads<K, V, F, Fut>(&self, operation: &'static str, body: F) -> Batch<K, V>
    where
        K: Clone + Eq + Hash + Send + Sync + 'static,
        V: Clone + Send + 'static,
        F: Fn(Connection, Arc<[K]>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<V>, DbErr>> + Send + 'static,
    {
        let config = Arc::new(self.read_config(operation, body));
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

    /// Creates a batch of writes.
    ///
    /// The body gets the keys of all operations and returns one value per key, in the same order. Several operations
    /// run in one transaction, and none returns before the commit. A single one runs as with [`write`](Self::write).
    ///
    /// If the shared transaction fails before its commit is sent, or the server refuses the commit, each operation is
    /// retried individually, so that one failing operation does not fail the others. For the same reason the
    /// transaction waits for locks only briefly. If the outcome of a commit is unknown, all operations get the error.
    pub fn batch_writes<K, V, F, Fut>(&self, operation: &'static str, body: F) -> Batch<K, V>
    where
        K: Clone + Send + Sync + 'static,
        V: Send + 'static,
        F: Fn(Connection, Arc<[K]>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<V>, DbErr>> + Send + 'static,
    {
        self.one_queue(self.write_config(operation, Kind::Write, body))
    }

    /// Like [`batch_writes`](Self::batch_writes), for writes with several statements: even a single operation runs in a
    /// transaction.
    pub fn batch_transactions<K, V, F, Fut>(&self, operation: &'static str, body: F) -> Batch<K, V>
    where
        K: Clone + Send + Sync + 'static,
        V: Send + 'static,
        F: Fn(Connection, Arc<[K]>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<V>, DbErr>> + Send + 'static,
    {
        self.one_queue(self.write_config(operation, Kind::Transaction(TransactionOptions::default()), body))
    }

    fn read_config<K, V, F, Fut>(&self, operation: &'static str, body: F) -> BatchConfig<K, V>
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
            copy: |value: &V| Some(value.clone()),
            body: Box::new(move |db, keys| Box::pin(body(db, keys))),
            sizes: self.inner().metrics.batch_sizes(operation),
        }
    }

    fn write_config<K, V, F, Fut>(&self, operation: &'static str, single: Kind, body: F) -> BatchConfig<K, V>
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
    /// Loads the value of a key. Dropping the future leaves the queue.
    ///
    /// # Errors
    ///
    /// Returns the body's error, or an [`Error`] if the operation was refused, aborted or panicked.
    pub async fn load(&self, key: K) -> Result<V, Error> {
        let inner = self.pool.inner();
        let options = inner.options();
        // Without waiting there is nothing to share, and an outage is reported to each operation individually.
        if !options.batch || !options.wait || inner.health.is_down() {
            return Box::pin(self.load_alone(key)).await;
        }
        refuse_nested(self.pool.runtime(), self.config.operation)?;
        let span = span(inner, self.config.operation);
        let wait_span = tracing::info_span!(parent: &span, "wait", otel.name = "pool.wait");
        let waiter = (self.queue_of)(&key).enter(key.clone(), span, &options)?;
        match waiter.reply().instrument(wait_span).await? {
            Reply::Value(value) => Ok(value),
            Reply::Failed(error) => Err(error),
            // Boxed, here and above: otherwise this rare path would add 3 KiB to the future of every caller.
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
        let values: Vec<V> = operate(self.pool.inner(), self.pool.runtime(), operation, single, body, || ()).await?;
        values.into_iter().next().ok_or_else(|| wrong_count(operation))
    }
}

/// Groups requests with the same key.
fn by_key<K: Clone + Eq + Hash, V>(requests: Vec<PendingRequest<K, V>>) -> Vec<Group<K, V>> {
    let mut indexes = HashMap::with_capacity(requests.len());
    let mut groups: Vec<Group<K, V>> = Vec::with_capacity(requests.len());
    for request in requests {
        let index = *indexes.entry(request.key.clone()).or_insert(groups.len());
        match groups.get_mut(index) {
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
