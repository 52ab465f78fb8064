//! The connection that an operation uses.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex as StdMutex, MutexGuard as StdMutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use sea_orm::{AccessMode, DbBackend, DbErr, ExecResult, QueryResult, Statement, TransactionOptions, sqlx};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::{Instant, timeout},
};

use super::{
    progress::{Attempt, Cleanup, Level, Progress, closed},
    session_effect::SessionEffect,
};
use crate::{
    connect::driver::DriverConnection,
    context::OperationContext,
    error_kind::{DbErrorKind, exec_error, is_interrupted, query_error, root_cause},
    inner::{PoolInner, probe::PING_TIMEOUT},
    set::PoolEntry,
};

/// The connection of one operation.
///
/// It implements SeaORM's [`ConnectionTrait`](sea_orm::ConnectionTrait), [`StreamTrait`](sea_orm::StreamTrait) and
/// [`TransactionTrait`](sea_orm::TransactionTrait), so every query accepts it in place of a `DatabaseConnection`.
/// Clones share the connection, and its statements run one after the other. Statements on a clone that outlives its
/// operation fail.
///
/// Begin transactions with [`TransactionTrait`](sea_orm::TransactionTrait), not with a raw statement. After a raw
/// `BEGIN`, `COMMIT` or `SET autocommit`, or a statement that commits implicitly on MySQL, the operation is not retried
/// and its connection is closed afterwards.
#[derive(Clone, Debug)]
pub struct Connection {
    held: Arc<Held>,
}

/// A connection in use, and its operation's progress.
#[derive(Debug)]
struct Held {
    inner: Arc<PoolInner>,
    context: Arc<OperationContext>,
    backend: DbBackend,
    entry: Mutex<Option<PoolEntry<DriverConnection>>>,
    progress: StdMutex<Progress>,
    /// Whether the operation has ended; clones may outlive it.
    ended: AtomicBool,
}

/// The outcome of [`Connection::reclaim`].
pub(crate) enum ReclaimOutcome {
    Reusable(PoolEntry<DriverConnection>),
    /// It works, but the operation has changed the state of its session.
    SessionChanged(PoolEntry<DriverConnection>),
    Broken,
}

/// Sends a statement and waits for the response, unless the operation is aborted first.
macro_rules! response_to {
    ($guard:ident.$statement:ident($($argument:expr),*)) => {{
        let context = &$guard.connection.held.context;
        let response = pin!($guard.driver()?.$statement($($argument),*));
        context.interruptible(response).await
    }};
}

impl Connection {
    pub(crate) fn new(
        inner: &Arc<PoolInner>,
        context: &Arc<OperationContext>,
        entry: PoolEntry<DriverConnection>,
    ) -> Self {
        context.set_session(entry.connection.session());
        context.set_host(entry.connection.host());
        let held = Held {
            inner: Arc::clone(inner),
            context: Arc::clone(context),
            backend: entry.connection.backend(),
            entry: Mutex::new(Some(entry)),
            progress: StdMutex::default(),
            ended: AtomicBool::new(false),
        };
        Self { held: Arc::new(held) }
    }

    fn progress(&self) -> StdMutexGuard<'_, Progress> {
        self.held.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn attempt(&self) -> Attempt {
        self.progress().attempt()
    }

    /// Takes the connection from all clones and rolls back an open transaction.
    pub(crate) async fn reclaim(&self) -> ReclaimOutcome {
        self.held.ended.store(true, Ordering::Release);
        let is_in_memory = self.held.inner.is_in_memory();
        let mut slot = match self.held.entry.try_lock() {
            Ok(slot) => slot,
            Err(_) if is_in_memory => self.held.entry.lock().await,
            // A clone is still executing a statement; it drops the connection afterwards.
            Err(_) => return ReclaimOutcome::Broken,
        };
        let Some(mut entry) = slot.take() else { return ReclaimOutcome::Broken };
        let cleanup = self.progress().cleanup(self.held.backend, is_in_memory);
        match cleanup {
            Cleanup::Nothing => {}
            Cleanup::Discard => return ReclaimOutcome::Broken,
            Cleanup::Close => return ReclaimOutcome::SessionChanged(entry),
            Cleanup::RollBack => {
                self.held.context.statement_sent(self.held.inner.clock);
                // Boxed to keep the future small for operations without a transaction.
                let rolled_back = Box::pin(entry.connection.rollback(1)).await;
                // An in-memory database may have no transaction to roll back.
                if self.held.context.statement_ended() || rolled_back.is_err() && !is_in_memory {
                    return ReclaimOutcome::Broken;
                }
            }
        }
        if entry.connection.has_other_lock_timeout() {
            self.held.context.statement_sent(self.held.inner.clock);
            let restored = Box::pin(entry.connection.restore_lock_timeout()).await;
            if self.held.context.statement_ended() || restored.is_err() {
                return ReclaimOutcome::Broken;
            }
        }
        ReclaimOutcome::Reusable(entry)
    }

    /// Waits until the connection is free. A dropped transaction is rolled back first, so that later statements do not
    /// become part of it.
    async fn lock(&self) -> Result<StatementGuard<'_>, DbErr> {
        let entry = self.held.entry.lock().await;
        if self.held.ended.load(Ordering::Acquire) || entry.is_none() {
            return Err(closed());
        }
        let mut guard = StatementGuard { connection: self, entry };
        let dropped = {
            let mut progress = self.progress();
            progress.check_connection()?;
            progress.take_dropped()
        };
        if let Some(index) = dropped {
            guard.send()?;
            let rolled_back = response_to!(guard.rollback(depth(index)));
            guard.note(rolled_back).await.map_err(exec_error)?;
            self.progress().rolled_back(index);
        }
        Ok(guard)
    }

    /// Starts a statement, in a transaction or outside of one.
    async fn start(&self, level: Option<Level>, effect: SessionEffect) -> Result<StatementGuard<'_>, DbErr> {
        let guard = self.lock().await?;
        self.progress().check_statement(level, effect)?;
        guard.send()?;
        Ok(guard)
    }

    /// Begins a transaction, or sets a savepoint inside the open one.
    pub(super) async fn begin_at(
        &self,
        within: Option<Level>,
        options: TransactionOptions,
        lock_timeout: Option<Duration>,
    ) -> Result<Level, DbErr> {
        let mut guard = self.start(within, SessionEffect::None).await?;
        // Recorded before it is sent: even if this future is dropped, the server begins the transaction.
        let (index, level) = self.progress().begin(options.access_mode == Some(AccessMode::ReadOnly));
        let began = response_to!(guard.begin(depth(index) - 1, &options, lock_timeout));
        if let Err(error) = guard.end(began).await {
            self.progress().cancel(level);
            return Err(exec_error(error));
        }
        Ok(level)
    }

    /// Commits a transaction, or releases a savepoint.
    pub(super) async fn commit_at(&self, level: Level) -> Result<(), DbErr> {
        let mut guard = self.lock().await?;
        let index = self.progress().check_commit(level, self.held.backend)?;
        guard.send()?;
        let committed = response_to!(guard.commit(depth(index)));
        let committed = guard.note(committed).await;
        self.progress().end_commit(index, &committed, self.held.backend);
        committed.map_err(exec_error)
    }

    /// Rolls back a transaction, or to a savepoint.
    pub(super) async fn rollback_at(&self, level: Level) -> Result<(), DbErr> {
        let mut guard = self.lock().await?;
        let Some(index) = self.progress().check_rollback(level)? else { return Ok(()) };
        guard.send()?;
        let rolled_back = response_to!(guard.rollback(depth(index)));
        guard.note(rolled_back).await.map_err(exec_error)?;
        self.progress().rolled_back(index);
        Ok(())
    }

    /// Records that a transaction was dropped. It is rolled back before the next statement.
    pub(super) fn drop_level(&self, level: Level) {
        self.progress().drop_level(level);
    }

    pub(super) async fn execute_at(&self, level: Option<Level>, statement: Statement) -> Result<ExecResult, DbErr> {
        let mut guard = self.start(level, self.effect_of(&statement.sql)).await?;
        let outcome = response_to!(guard.execute(statement));
        guard.end(outcome).await.map_err(exec_error)
    }

    pub(super) async fn execute_unprepared_at(&self, level: Option<Level>, sql: &str) -> Result<ExecResult, DbErr> {
        let mut guard = self.start(level, self.effect_of(sql)).await?;
        let outcome = response_to!(guard.execute_unprepared(sql));
        guard.end(outcome).await.map_err(exec_error)
    }

    pub(super) async fn query_one_at(
        &self,
        level: Option<Level>,
        statement: Statement,
    ) -> Result<Option<QueryResult>, DbErr> {
        let mut guard = self.start(level, self.effect_of(&statement.sql)).await?;
        let outcome = response_to!(guard.query_one(statement));
        guard.end(outcome).await.map_err(query_error)
    }

    pub(super) async fn query_all_at(
        &self,
        level: Option<Level>,
        statement: Statement,
    ) -> Result<Vec<QueryResult>, DbErr> {
        let mut guard = self.start(level, self.effect_of(&statement.sql)).await?;
        let outcome = response_to!(guard.query_all(statement));
        guard.end(outcome).await.map_err(query_error)
    }

    /// Streams the rows of a query. The connection is busy until the stream ends. If it is dropped earlier, the
    /// connection is closed after the operation.
    pub(super) async fn stream_at(
        &self,
        level: Option<Level>,
        statement: Statement,
    ) -> Result<impl Stream<Item = Result<QueryResult, DbErr>> + Send + use<'_>, DbErr> {
        let mut guard = self.start(level, self.effect_of(&statement.sql)).await?;
        Ok(async_stream::try_stream! {
            let outcome = {
                let mut rows = guard.entry.as_mut().map(|entry| entry.connection.stream(statement)).ok_or_else(closed)?;
                loop {
                    match self.held.context.interruptible(pin!(async { Ok(rows.next().await) })).await {
                        Ok(Some(Ok(row))) => {
                            // The time that the caller needs for a row does not count as waiting for the server.
                            if self.held.context.statement_ended() {
                                self.progress().note_killed();
                            }
                            yield row;
                            self.held.context.statement_sent(self.held.inner.clock);
                        }
                        Ok(Some(Err(error))) | Err(error) => break Err(error),
                        Ok(None) => break Ok(()),
                    }
                }
            };
            guard.end(outcome).await.map_err(query_error)?;
        })
    }

    pub(super) fn backend(&self) -> DbBackend {
        self.held.backend
    }

    fn effect_of(&self, sql: &str) -> SessionEffect {
        SessionEffect::of(sql, self.held.backend)
    }
}

/// Converts an index to the depth that drivers use: 1 is the transaction, more are savepoints.
fn depth(index: usize) -> u32 {
    u32::try_from(index + 1).unwrap_or(u32::MAX)
}

/// Exclusive access to the connection for one statement.
struct StatementGuard<'a> {
    connection: &'a Connection,
    entry: MutexGuard<'a, Option<PoolEntry<DriverConnection>>>,
}

impl StatementGuard<'_> {
    fn driver(&mut self) -> Result<&mut DriverConnection, DbErr> {
        self.entry.as_mut().map(|entry| &mut entry.connection).ok_or_else(closed)
    }

    /// Records that a statement is about to be sent.
    fn send(&self) -> Result<(), DbErr> {
        let held = &self.connection.held;
        let was_killed = held.context.statement_sent(held.inner.clock);
        self.connection.progress().send(was_killed)
    }

    /// Records the response. If the guard is dropped instead, the statement counts as still in flight.
    async fn end<T>(mut self, outcome: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        self.note(outcome).await
    }

    /// Whether the server interrupted the statement because it ends the whole session. The error is the same if only
    /// the statement was killed, so the connection is pinged.
    async fn is_session_killed(&mut self, error: &sqlx::Error) -> bool {
        if !is_interrupted(error) || self.connection.held.context.is_killed() {
            return false;
        }
        match self.entry.as_mut() {
            Some(entry) => !matches!(timeout(PING_TIMEOUT, entry.connection.ping()).await, Ok(Ok(()))),
            None => true,
        }
    }

    async fn note<T>(&mut self, outcome: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        match &outcome {
            Ok(_) => {
                self.connection.progress().note_success();
                self.connection.held.inner.health.on_response();
                if let Some(entry) = self.entry.as_mut() {
                    entry.last_response = Instant::now();
                    entry.connection.host_responded();
                }
            }
            Err(error) => {
                let is_session_killed = self.is_session_killed(error).await;
                self.note_error(error, is_session_killed);
            }
        }
        outcome
    }

    fn note_error(&self, error: &sqlx::Error, is_session_killed: bool) {
        let held = &self.connection.held;
        let kind = self.connection.progress().note_error(error, is_session_killed);
        if matches!(error, sqlx::Error::Database(_)) && !kind.breaks_connection() {
            // An error message is a response too.
            held.inner.health.on_response();
        }
        if let Some(entry) = self.entry.as_ref()
            && (kind == DbErrorKind::NotAccepting
                || kind == DbErrorKind::ReadOnly && held.inner.needs_writable_server())
        {
            entry.connection.host_failed(kind, &root_cause(error));
        }
        let generation = self.entry.as_ref().map_or(0, |entry| entry.generation);
        held.inner.on_error(kind, held.context.operation, generation, error);
    }
}

impl Drop for StatementGuard<'_> {
    fn drop(&mut self) {
        let held = &self.connection.held;
        // The response has arrived or is no longer awaited.
        if held.context.statement_ended() {
            self.connection.progress().note_killed();
        }
        if held.ended.load(Ordering::Acquire) && !held.inner.is_in_memory() {
            drop(self.entry.take());
        }
    }
}
