//! The connection that an operation works with: SeaORM's own traits, on one connection of the pool.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use sea_orm::{
    AccessMode, ConnAcquireErr, ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, Statement,
    TransactionOptions, sqlx,
};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::{Instant, timeout},
};

use crate::{
    Fault,
    core::{Core, SIGN_OF_LIFE},
    fault::{exec_error, is_interrupted, query_error},
    raw::Raw,
    store::Slot,
    ticket::Ticket,
};

/// A connection for the time of one operation.
///
/// It implements SeaORM's [`ConnectionTrait`] and [`TransactionTrait`](sea_orm::TransactionTrait), so every query takes it as it takes a
/// `DatabaseConnection`. All statements of an operation run on the same connection, one after the other; clones share
/// it. Once the operation has ended, statements on a clone that was kept fail.
#[derive(Clone, Debug)]
pub struct Connection {
    held: Arc<Held>,
}

/// A connection in use, and what was learned while it was.
#[derive(Debug)]
pub(crate) struct Held {
    core: Arc<Core>,
    ticket: Arc<Ticket>,
    backend: DbBackend,
    slot: Mutex<Option<Slot<Raw>>>,
    /// 0: no transaction; 1: a transaction; more: savepoints inside it.
    depth: AtomicU32,
    /// Whether the transaction was asked to take no writes.
    read_only: AtomicBool,
    commit_sent: AtomicBool,
    /// Statements that succeeded.
    done: AtomicU32,
    /// The outermost level that was left without commit or rollback; 0 if there is none.
    left: AtomicU32,
    /// Whether a statement was begun and never ended: its future was dropped.
    torn: AtomicBool,
    /// Whether the pool has killed a statement: the kill may still be on its way to the server, so the connection must not
    /// be used for another one.
    condemned: AtomicBool,
    /// The error of the database that weighs most and has not been undone by going back to a savepoint.
    fault: std::sync::Mutex<Option<Fault>>,
    /// Whether somebody else was in the way at any time, undone or not.
    conflict: AtomicBool,
    /// Whether the operation is over, though a clone may have been kept.
    ended: AtomicBool,
}

impl Held {
    fn asks(&self) {
        if self.ticket.asks(self.core.clock) {
            self.condemned.store(true, Ordering::Relaxed);
        }
    }

    fn answered(&self) {
        if self.ticket.answered() {
            self.condemned.store(true, Ordering::Relaxed);
        }
    }
}

impl Connection {
    pub(crate) fn new(core: &Arc<Core>, ticket: &Arc<Ticket>, slot: Slot<Raw>) -> Self {
        ticket.runs_in(slot.raw.session());
        let held = Held {
            core: Arc::clone(core),
            ticket: Arc::clone(ticket),
            backend: slot.raw.backend(),
            slot: Mutex::new(Some(slot)),
            depth: AtomicU32::new(0),
            read_only: AtomicBool::new(false),
            commit_sent: AtomicBool::new(false),
            done: AtomicU32::new(0),
            left: AtomicU32::new(0),
            torn: AtomicBool::new(false),
            condemned: AtomicBool::new(false),
            fault: std::sync::Mutex::default(),
            conflict: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        };
        Self { held: Arc::new(held) }
    }

    /// The error that weighs most of those that the database gave and nobody undid.
    pub(crate) fn fault(&self) -> Option<Fault> {
        *self.held.fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The fault that decides whether the operation is repeated. A conflict counts even if a savepoint undid it: the
    /// transaction may have lost its savepoints to it, or would not have met what followed.
    pub(crate) fn failure(&self) -> Option<Fault> {
        let met = self.held.conflict.load(Ordering::Relaxed).then_some(Fault::Conflict);
        self.fault().filter(|fault| fault.ends_connection()).or(met).or_else(|| self.fault())
    }

    /// Whether the transaction can only be rolled back. After an error PostgreSQL answers COMMIT with a polite ROLLBACK;
    /// MySQL has undone all of it after a deadlock, and what came later was not part of it.
    fn is_failed(&self) -> bool {
        match self.held.backend {
            DbBackend::Postgres => self.fault().is_some(),
            DbBackend::MySql => self.held.conflict.load(Ordering::Relaxed),
            _ => false,
        }
    }

    fn is_condemned(&self) -> bool {
        self.held.condemned.load(Ordering::Relaxed)
    }

    fn set_fault(&self, fault: Option<Fault>) {
        *self.held.fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = fault;
    }

    /// Whether the server was asked to commit: from then on nobody knows what took effect until it has answered.
    pub(crate) fn is_commit_sent(&self) -> bool {
        self.held.commit_sent.load(Ordering::Relaxed)
    }

    pub(crate) fn done(&self) -> u32 {
        self.held.done.load(Ordering::Relaxed)
    }

    /// Takes the connection out from under all clones, if it can be used again. An open transaction is rolled back.
    pub(crate) async fn reclaim(&self) -> Option<Slot<Raw>> {
        self.held.ended.store(true, Ordering::Release);
        // A clone that was kept may be in the middle of a statement; it drops the connection when that ends.
        let mut place = self.held.slot.try_lock().ok()?;
        let slot = place.as_mut()?;
        // SQLite's statements end by themselves on a thread of their own.
        let is_torn = self.held.torn.load(Ordering::Relaxed) && self.held.backend != DbBackend::Sqlite;
        if is_torn || self.is_condemned() || self.fault().is_some_and(Fault::ends_connection) {
            // Whoever still has a clone cannot keep its socket open.
            drop(place.take());
            return None;
        }
        if self.held.depth.load(Ordering::Relaxed) > 0 {
            self.held.asks();
            let undone = slot.raw.rollback(1).await;
            self.held.answered();
            if undone.is_err() || self.is_condemned() {
                drop(place.take());
                return None;
            }
        }
        place.take()
    }

    /// Waits for the connection's turn: statements of one operation run one after the other.
    async fn turn(&self) -> Result<Turn<'_>, DbErr> {
        let mut slot = self.held.slot.lock().await;
        if self.held.ended.load(Ordering::Acquire) {
            drop(slot.take());
        }
        if slot.is_none() {
            return Err(DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed));
        }
        if self.is_condemned() {
            // The statement that was killed had its answer first; what follows has not begun.
            self.set_fault(Some(Fault::Terminated));
            return Err(DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed));
        }
        if self.held.torn.swap(true, Ordering::Relaxed) {
            // What comes next on the wire is the answer to another question.
            return Err(DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed));
        }
        self.held.asks();
        let mut turn = Turn { connection: self, slot };
        let left = self.held.left.swap(0, Ordering::Relaxed);
        if left > 0 {
            // What a transaction did that was dropped must not become part of what comes next.
            let undone = turn.raw()?.rollback(left).await;
            turn.note(undone).await.map_err(exec_error)?;
            self.undone(left);
            self.held.asks();
            if self.is_condemned() {
                self.set_fault(Some(Fault::Terminated));
                return Err(DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed));
            }
            self.held.torn.store(true, Ordering::Relaxed);
        }
        Ok(turn)
    }

    fn undone(&self, depth: u32) {
        self.held.depth.store(depth - 1, Ordering::Relaxed);
        if !self.fault().is_some_and(Fault::ends_connection) {
            self.set_fault(None);
        }
    }

    pub(crate) async fn begin_at(&self, options: TransactionOptions) -> Result<u32, DbErr> {
        let mut turn = self.turn().await?;
        let depth = self.held.depth.load(Ordering::Relaxed);
        // Before it is asked for: if nobody waits for the answer, it is begun all the same.
        self.held.depth.store(depth + 1, Ordering::Relaxed);
        let began = turn.raw()?.begin(depth, &options).await;
        if let Err(error) = turn.note(began).await {
            self.held.depth.store(depth, Ordering::Relaxed);
            return Err(exec_error(error));
        }
        if depth == 0 {
            self.held.read_only.store(options.access_mode == Some(AccessMode::ReadOnly), Ordering::Relaxed);
            // What failed before it is no part of it.
            self.set_fault(None);
            self.held.conflict.store(false, Ordering::Relaxed);
        }
        Ok(depth + 1)
    }

    pub(crate) async fn commit_at(&self, depth: u32) -> Result<(), DbErr> {
        let mut turn = self.turn().await?;
        if self.is_failed() {
            // Nothing was asked after all.
            self.held.torn.store(false, Ordering::Relaxed);
            return Err(DbErr::Custom("a statement of the transaction failed, so it cannot be committed".to_owned()));
        }
        if depth == 1 {
            self.held.commit_sent.store(true, Ordering::Relaxed);
        }
        let committed = turn.raw()?.commit(depth).await;
        turn.note(committed).await.map_err(exec_error)?;
        self.held.depth.store(depth - 1, Ordering::Relaxed);
        Ok(())
    }

    /// A transaction of this depth was dropped with neither commit nor rollback: it is undone before the next statement.
    pub(crate) fn leaves_at(&self, depth: u32) {
        let outermost = |left| if left == 0 { depth } else { depth.min(left) };
        // Never refused: there is always a new value.
        let _ = self.held.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(outermost(left)));
    }

    pub(crate) async fn rollback_at(&self, depth: u32) -> Result<(), DbErr> {
        let mut turn = self.turn().await?;
        let undone = turn.raw()?.rollback(depth).await;
        turn.note(undone).await.map_err(exec_error)?;
        self.undone(depth);
        Ok(())
    }
}

/// The connection while one statement runs on it.
struct Turn<'a> {
    connection: &'a Connection,
    slot: MutexGuard<'a, Option<Slot<Raw>>>,
}

impl Turn<'_> {
    fn raw(&mut self) -> Result<&mut Raw, DbErr> {
        match self.slot.as_mut() {
            Some(slot) => Ok(&mut slot.raw),
            None => Err(DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed)),
        }
    }

    /// The statement has its answer. A turn that is dropped without leaves the connection torn.
    async fn ends<T>(mut self, outcome: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        self.note(outcome).await
    }

    /// Whether the server interrupted the statement because it ends the whole session. It says the same when only the
    /// statement was to end, so the connection itself has to show which it was.
    async fn is_session_killed(&mut self, error: &sqlx::Error) -> bool {
        if !is_interrupted(error) || self.connection.held.ticket.is_killed() {
            return false;
        }
        match self.slot.as_mut() {
            Some(slot) => !matches!(timeout(SIGN_OF_LIFE, slot.raw.ping()).await, Ok(Ok(()))),
            None => true,
        }
    }

    async fn note<T>(&mut self, outcome: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        let is_session_killed = match &outcome {
            Ok(_) => false,
            Err(error) => self.is_session_killed(error).await,
        };
        let held = &self.connection.held;
        held.torn.store(false, Ordering::Relaxed);
        match &outcome {
            Ok(_) => {
                held.done.fetch_add(1, Ordering::Relaxed);
                held.core.health.hears();
                if let Some(slot) = self.slot.as_mut() {
                    slot.proven = Instant::now();
                }
            }
            Err(error) => {
                let fault = match Fault::of_driver(error) {
                    // That is what was asked for, and says nothing of the database.
                    Fault::ReadOnly if held.read_only.load(Ordering::Relaxed) => Fault::Other,
                    _ if is_session_killed => Fault::Terminated,
                    fault => fault,
                };
                if matches!(error, sqlx::Error::Database(_)) && !fault.ends_connection() {
                    // It refused, so it is alive.
                    held.core.health.hears();
                }
                if fault == Fault::Conflict {
                    held.conflict.store(true, Ordering::Relaxed);
                }
                // What only follows from an earlier error does not hide it.
                let before = self.connection.fault();
                let weighs = |fault: Fault| (fault.ends_connection(), fault == Fault::Conflict);
                if before.is_none_or(|before| weighs(fault) >= weighs(before)) {
                    self.connection.set_fault(Some(fault));
                }
                let generation = self.slot.as_ref().map_or(0, |slot| slot.generation);
                held.core.learns(fault, held.ticket.operation, generation, error);
            }
        }
        outcome
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let held = &self.connection.held;
        // Answered, or nobody waits for the answer any more.
        held.answered();
        if held.ended.load(Ordering::Acquire) {
            drop(self.slot.take());
        }
    }
}

#[async_trait::async_trait]
impl ConnectionTrait for Connection {
    fn get_database_backend(&self) -> DbBackend {
        self.held.backend
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        let mut turn = self.turn().await?;
        let outcome = turn.raw()?.execute(statement).await;
        turn.ends(outcome).await.map_err(exec_error)
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        let mut turn = self.turn().await?;
        let outcome = turn.raw()?.execute_unprepared(sql).await;
        turn.ends(outcome).await.map_err(exec_error)
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let mut turn = self.turn().await?;
        let outcome = turn.raw()?.query_one(statement).await;
        turn.ends(outcome).await.map_err(query_error)
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let mut turn = self.turn().await?;
        let outcome = turn.raw()?.query_all(statement).await;
        turn.ends(outcome).await.map_err(query_error)
    }
}
