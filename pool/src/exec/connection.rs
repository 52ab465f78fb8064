//! The connection that an operation works with: SeaORM's traits, on one connection of the pool.

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
    error_kind::{exec_error, is_interrupted, query_error},
    inner::{PoolInner, probe::PING_TIMEOUT},
    set::PoolEntry,
};

/// A connection for the time of one operation.
///
/// It implements SeaORM's [`ConnectionTrait`](sea_orm::ConnectionTrait), [`StreamTrait`](sea_orm::StreamTrait) and
/// [`TransactionTrait`](sea_orm::TransactionTrait), so every query takes it as it takes a `DatabaseConnection`. All statements of an operation run on the same connection, one after the other; clones share
/// it. Once the operation has ended, statements on a clone that was kept fail.
///
/// Begin transactions by [`TransactionTrait`](sea_orm::TransactionTrait), not by a statement: after a `BEGIN`, `COMMIT` or `SET
/// autocommit`, or after a statement with which MySQL commits implicitly, an operation is not repeated and its
/// connection is closed at its end.
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
    /// Whether the operation is over, though a clone may have been kept.
    ended: AtomicBool,
}

/// A connection after its operation.
pub(crate) enum Reclaimed {
    Works(PoolEntry<DriverConnection>),
    /// It works, but the operation has changed its session.
    SessionChanged(PoolEntry<DriverConnection>),
    Broken,
}

/// Sends a statement and waits for the answer, unless the operation is ended before.
macro_rules! answer_to {
    ($turn:ident.$statement:ident($($argument:expr),*)) => {{
        let context = &$turn.connection.held.context;
        let answer = pin!($turn.driver()?.$statement($($argument),*));
        context.interruptible(answer).await
    }};
}

impl Connection {
    pub(crate) fn new(
        inner: &Arc<PoolInner>,
        context: &Arc<OperationContext>,
        entry: PoolEntry<DriverConnection>,
    ) -> Self {
        context.runs_in(entry.connection.session());
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

    /// Takes the connection away from all clones. An open transaction is rolled back.
    pub(crate) async fn reclaim(&self) -> Reclaimed {
        self.held.ended.store(true, Ordering::Release);
        let is_in_memory = self.held.inner.is_in_memory();
        let mut place = match self.held.entry.try_lock() {
            Ok(place) => place,
            Err(_) if is_in_memory => self.held.entry.lock().await,
            // A clone that was kept is in the middle of a statement; it drops the connection when that ends.
            Err(_) => return Reclaimed::Broken,
        };
        let Some(mut entry) = place.take() else { return Reclaimed::Broken };
        let cleanup = self.progress().cleanup(self.held.backend, is_in_memory);
        match cleanup {
            Cleanup::Nothing => {}
            Cleanup::Discard => return Reclaimed::Broken,
            Cleanup::Close => return Reclaimed::SessionChanged(entry),
            Cleanup::RollBack => {
                self.held.context.asks(self.held.inner.clock);
                // Boxed, so that operations without a transaction do not carry it around.
                let undone = Box::pin(entry.connection.rollback(1)).await;
                // In memory there may be nothing to roll back.
                if self.held.context.answered() || undone.is_err() && !is_in_memory {
                    return Reclaimed::Broken;
                }
            }
        }
        if entry.connection.has_other_lock_timeout() {
            self.held.context.asks(self.held.inner.clock);
            let restored = Box::pin(entry.connection.restore_lock_timeout()).await;
            if self.held.context.answered() || restored.is_err() {
                return Reclaimed::Broken;
            }
        }
        Reclaimed::Works(entry)
    }

    /// Waits until the connection is free: statements of one operation run one after the other. What a transaction did that
    /// was dropped is undone first, so that it does not become part of what follows.
    async fn lock(&self) -> Result<Turn<'_>, DbErr> {
        let entry = self.held.entry.lock().await;
        if self.held.ended.load(Ordering::Acquire) || entry.is_none() {
            return Err(closed());
        }
        let mut turn = Turn { connection: self, entry };
        let dropped = {
            let mut progress = self.progress();
            progress.check_connection()?;
            progress.take_dropped()
        };
        if let Some(index) = dropped {
            turn.send()?;
            let undone = answer_to!(turn.rollback(depth(index)));
            turn.note(undone).await.map_err(exec_error)?;
            self.progress().undo(index);
        }
        Ok(turn)
    }

    /// Starts a statement, of a transaction or of the operation itself.
    async fn start(&self, level: Option<Level>, effect: SessionEffect) -> Result<Turn<'_>, DbErr> {
        let turn = self.lock().await?;
        self.progress().check_statement(level, effect)?;
        turn.send()?;
        Ok(turn)
    }

    /// Begins a transaction, or sets a savepoint inside the open one.
    pub(super) async fn begin_at(
        &self,
        within: Option<Level>,
        options: TransactionOptions,
        lock_timeout: Option<Duration>,
    ) -> Result<Level, DbErr> {
        let mut turn = self.start(within, SessionEffect::None).await?;
        // Noted before it is sent: if this future is dropped, the server still begins it.
        let (index, level) = self.progress().begin(options.access_mode == Some(AccessMode::ReadOnly));
        let began = answer_to!(turn.begin(depth(index) - 1, &options, lock_timeout));
        if let Err(error) = turn.end(began).await {
            self.progress().cancel(level);
            return Err(exec_error(error));
        }
        Ok(level)
    }

    /// Commits a transaction, or releases a savepoint.
    pub(super) async fn commit_at(&self, level: Level) -> Result<(), DbErr> {
        let mut turn = self.lock().await?;
        let index = self.progress().check_commit(level, self.held.backend)?;
        turn.send()?;
        let committed = answer_to!(turn.commit(depth(index)));
        let committed = turn.note(committed).await;
        self.progress().end_commit(index, &committed, self.held.backend);
        committed.map_err(exec_error)
    }

    /// Rolls a transaction back, or goes back to a savepoint.
    pub(super) async fn rollback_at(&self, level: Level) -> Result<(), DbErr> {
        let mut turn = self.lock().await?;
        let Some(index) = self.progress().check_rollback(level)? else { return Ok(()) };
        turn.send()?;
        let undone = answer_to!(turn.rollback(depth(index)));
        turn.note(undone).await.map_err(exec_error)?;
        self.progress().undo(index);
        Ok(())
    }

    /// A transaction was dropped with neither commit nor rollback: it is undone before the next statement.
    pub(super) fn drop_level(&self, level: Level) {
        self.progress().drop_level(level);
    }

    pub(super) async fn execute_at(&self, level: Option<Level>, statement: Statement) -> Result<ExecResult, DbErr> {
        let mut turn = self.start(level, self.effect_of(&statement.sql)).await?;
        let outcome = answer_to!(turn.execute(statement));
        turn.end(outcome).await.map_err(exec_error)
    }

    pub(super) async fn execute_unprepared_at(&self, level: Option<Level>, sql: &str) -> Result<ExecResult, DbErr> {
        let mut turn = self.start(level, self.effect_of(sql)).await?;
        let outcome = answer_to!(turn.execute_unprepared(sql));
        turn.end(outcome).await.map_err(exec_error)
    }

    pub(super) async fn query_one_at(
        &self,
        level: Option<Level>,
        statement: Statement,
    ) -> Result<Option<QueryResult>, DbErr> {
        let mut turn = self.start(level, self.effect_of(&statement.sql)).await?;
        let outcome = answer_to!(turn.query_one(statement));
        turn.end(outcome).await.map_err(query_error)
    }

    pub(super) async fn query_all_at(
        &self,
        level: Option<Level>,
        statement: Statement,
    ) -> Result<Vec<QueryResult>, DbErr> {
        let mut turn = self.start(level, self.effect_of(&statement.sql)).await?;
        let outcome = answer_to!(turn.query_all(statement));
        turn.end(outcome).await.map_err(query_error)
    }

    /// The rows of a query as they come. The connection is busy until the stream has ended; a stream that is dropped before
    /// costs the connection.
    pub(super) async fn stream_at(
        &self,
        level: Option<Level>,
        statement: Statement,
    ) -> Result<impl Stream<Item = Result<QueryResult, DbErr>> + Send + use<'_>, DbErr> {
        let mut turn = self.start(level, self.effect_of(&statement.sql)).await?;
        Ok(async_stream::try_stream! {
            let outcome = {
                let mut rows = turn.entry.as_mut().map(|entry| entry.connection.stream(statement)).ok_or_else(closed)?;
                loop {
                    match self.held.context.interruptible(pin!(async { Ok(rows.next().await) })).await {
                        Ok(Some(Ok(row))) => {
                            // The time that the caller takes for a row does not count as the server's.
                            if self.held.context.answered() {
                                self.progress().note_killed();
                            }
                            yield row;
                            self.held.context.asks(self.held.inner.clock);
                        }
                        Ok(Some(Err(error))) | Err(error) => break Err(error),
                        Ok(None) => break Ok(()),
                    }
                }
            };
            turn.end(outcome).await.map_err(query_error)?;
        })
    }

    pub(super) fn backend(&self) -> DbBackend {
        self.held.backend
    }

    fn effect_of(&self, sql: &str) -> SessionEffect {
        SessionEffect::of(sql, self.held.backend)
    }
}

/// Drivers count levels from one: one is the transaction.
fn depth(index: usize) -> u32 {
    u32::try_from(index + 1).unwrap_or(u32::MAX)
}

/// The connection while one statement runs on it.
struct Turn<'a> {
    connection: &'a Connection,
    entry: MutexGuard<'a, Option<PoolEntry<DriverConnection>>>,
}

impl Turn<'_> {
    fn driver(&mut self) -> Result<&mut DriverConnection, DbErr> {
        self.entry.as_mut().map(|entry| &mut entry.connection).ok_or_else(closed)
    }

    /// A statement is about to be sent.
    fn send(&self) -> Result<(), DbErr> {
        let held = &self.connection.held;
        let was_killed = held.context.asks(held.inner.clock);
        self.connection.progress().send(was_killed)
    }

    /// Notes the answer. If the turn is dropped instead, the statement stays in flight.
    async fn end<T>(mut self, outcome: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        self.note(outcome).await
    }

    /// Whether the server interrupted the statement because it ends the whole session. It says the same when only the
    /// statement was to end, so the connection itself has to show which it was.
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
            // An error message is a response, too.
            held.inner.health.on_response();
        }
        let generation = self.entry.as_ref().map_or(0, |entry| entry.generation);
        held.inner.on_error(kind, held.context.operation, generation, error);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let held = &self.connection.held;
        // Answered, or the answer is not awaited any more.
        if held.context.answered() {
            self.connection.progress().note_killed();
        }
        if held.ended.load(Ordering::Acquire) && !held.inner.is_in_memory() {
            drop(self.entry.take());
        }
    }
}
