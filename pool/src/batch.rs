//! One statement for many operations that ask alike.
//!
//! While the database works on one statement, operations of the same kind gather; as soon as it is done, the next one
//! serves all that have come meanwhile. Nobody ever waits for a batch to fill: there is no timer, and whoever finds
//! nothing in the way goes at once, alone.

mod gathering;

use std::{collections::HashMap, hash::Hash, sync::Arc};

use sea_orm::{DbErr, TransactionOptions};
use tracing::Instrument;

use self::gathering::{Gathering, Member, Party, Reply, Shared, Terms};
use crate::{Connection, Error, Pool, operation::Kind, ticket};

/// Statements for reads that ask alike that are under way at the same time. One would leave the database without work
/// while answers are dealt out; more would make each serve fewer.
const READ_LANES: u32 = 2;
/// The same for writes: what one commit can serve, two should not.
const WRITE_LANES: u32 = 1;

/// Operations that ask alike, and share a statement while they would have to wait for each other.
///
/// Made by [`Pool::batch_reads`] and [`Pool::batch_writes`]; clones share it.
pub struct Batch<K, V> {
    pool: Pool,
    shared: Arc<Shared<K, V>>,
}

impl Pool {
    /// Reads that ask alike, by key. `operation` names them in traces, logs and refusals (`users.find`).
    ///
    /// The body gets keys, each but once, and gives as many answers, in the same order. An answer that several asked
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
    /// let name: Option<String> = names.ask(7).await?;
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
        let terms = Terms {
            operation,
            one: Kind::Read,
            several: Kind::Read,
            lanes: READ_LANES,
            join: together,
            copy: |answer: &V| Some(answer.clone()),
        };
        self.batch(terms, body)
    }

    /// Writes that ask alike.
    ///
    /// The body gets what each one asks for and gives as many answers, in the same order. Several are one transaction,
    /// and nobody is answered before it is committed; a lone one is a single statement, as with [`write`](Self::write).
    /// If the body gives an error that is not the database's own trouble, every member is tried again by itself, so
    /// that one cannot spoil it for the others.
    pub fn batch_writes<K, V, F, Fut>(&self, operation: &'static str, body: F) -> Batch<K, V>
    where
        K: Clone + Send + Sync + 'static,
        V: Send + 'static,
        F: Fn(Connection, Arc<[K]>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<V>, DbErr>> + Send + 'static,
    {
        self.batch_changes(operation, Kind::Write, body)
    }

    /// Writes that ask alike and take several statements: even a lone one is a transaction. Otherwise as
    /// [`batch_writes`](Self::batch_writes).
    pub fn batch_transactions<K, V, F, Fut>(&self, operation: &'static str, body: F) -> Batch<K, V>
    where
        K: Clone + Send + Sync + 'static,
        V: Send + 'static,
        F: Fn(Connection, Arc<[K]>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<V>, DbErr>> + Send + 'static,
    {
        self.batch_changes(operation, Kind::Transaction(TransactionOptions::default()), body)
    }

    fn batch_changes<K, V, F, Fut>(&self, operation: &'static str, one: Kind, body: F) -> Batch<K, V>
    where
        F: Fn(Connection, Arc<[K]>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<V>, DbErr>> + Send + 'static,
    {
        let terms = Terms {
            operation,
            one,
            several: Kind::Transaction(TransactionOptions::default()),
            lanes: WRITE_LANES,
            join: |members| members.into_iter().map(Party::of_one).collect(),
            copy: |_| None,
        };
        self.batch(terms, body)
    }

    fn batch<K, V, F, Fut>(&self, terms: Terms<K, V>, body: F) -> Batch<K, V>
    where
        F: Fn(Connection, Arc<[K]>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<V>, DbErr>> + Send + 'static,
    {
        let core = Arc::clone(&self.inner.core);
        let shared = Shared {
            sizes: core.record.batch_sizes(terms.operation),
            core,
            terms,
            body: Box::new(move |db, keys| Box::pin(body(db, keys))),
            gathering: Gathering::new(),
        };
        Batch { pool: self.clone(), shared: Arc::new(shared) }
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
    /// What the body gives, or why the operation was refused.
    pub async fn ask(&self, key: K) -> Result<V, Error> {
        let shared = &self.shared;
        let options = shared.core.options();
        // Who must not wait cannot wait for others, and an outage is told to each one by itself.
        if !options.batch || !options.wait || shared.core.health.is_down() {
            return self.ask_alone(key).await;
        }
        if let Some(within) = ticket::within() {
            return Err(Error::Nested { operation: shared.terms.operation, within });
        }
        let span = self.pool.span(shared.terms.operation);
        let waiting = tracing::info_span!(parent: &span, "wait", otel.name = "pool.wait");
        let reply = shared.arrive(key.clone(), span, &options)?.reply().instrument(waiting).await;
        match reply? {
            Reply::Answer(answer) => Ok(answer),
            Reply::Failed(error) => Err(error),
            Reply::Apart => self.ask_alone(key).await,
        }
    }

    async fn ask_alone(&self, key: K) -> Result<V, Error> {
        let shared = Arc::clone(&self.shared);
        let keys: Arc<[K]> = Arc::new([key]);
        let (operation, kind) = (shared.terms.operation, shared.terms.one);
        let body = move |db| {
            let (shared, keys) = (Arc::clone(&shared), Arc::clone(&keys));
            async move { shared.ask(db, keys).await }
        };
        let answers: Vec<V> = self.pool.operate(operation, kind, body).await?;
        answers.into_iter().next().ok_or_else(|| gathering::wrong_count(operation))
    }
}

/// Puts those together who ask the very same thing.
fn together<K: Clone + Eq + Hash, V>(members: Vec<Member<K, V>>) -> Vec<Party<K, V>> {
    let mut places = HashMap::with_capacity(members.len());
    let mut parties: Vec<Party<K, V>> = Vec::with_capacity(members.len());
    for member in members {
        let place = *places.entry(member.key.clone()).or_insert(parties.len());
        match parties.get_mut(place) {
            Some(party) => party.others.push(member),
            None => parties.push(Party::of_one(member)),
        }
    }
    parties
}

impl<K, V> Clone for Batch<K, V> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<K, V> std::fmt::Debug for Batch<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("operation", &self.shared.terms.operation).finish_non_exhaustive()
    }
}
