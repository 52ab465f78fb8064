//! What an operation has done on its connection: open transactions, errors, and what may follow.

use sea_orm::{ConnAcquireErr, DbBackend, DbErr, sqlx};

use super::session_effect::SessionEffect;
use crate::error_kind::{DbErrorKind, ends_transaction};

/// A transaction or a savepoint, by a number that is not used again on the same connection.
pub(super) type Level = u64;

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact that holds beside the others")]
pub(super) struct Progress {
    /// The open transaction and the savepoints inside it, outermost first.
    levels: Vec<Level>,
    last_level: Level,
    /// The outermost level that was dropped without commit or rollback.
    dropped: Option<Level>,
    /// Whether the server has undone the whole transaction: nothing but its rollback may follow.
    is_rolled_back: bool,
    /// Whether the transaction was opened to take no writes.
    is_read_only: bool,
    commit_sent: bool,
    /// Statements that succeeded.
    succeeded: u32,
    /// Whether a statement was sent and has no answer. If its future was dropped, it stays so.
    is_in_flight: bool,
    /// Whether the pool has killed a statement: the kill may still be on its way to the server, and must not meet another
    /// statement.
    is_killed: bool,
    /// The error of the database that weighs most and has not been undone by going back to a savepoint.
    error: Option<DbErrorKind>,
    /// Whether a conflict occurred at any time, undone or not.
    had_conflict: bool,
    effect: SessionEffect,
}

/// The state of an attempt to run an operation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attempt {
    pub(crate) error: Option<DbErrorKind>,
    /// Statements that succeeded.
    pub(crate) succeeded: u32,
    /// Whether the server was asked to commit and has not refused: what took effect is not known.
    pub(crate) commit_sent: bool,
    /// Whether the operation has begun or ended transactions past the pool.
    pub(crate) is_opaque: bool,
}

impl Attempt {
    /// Whether an attempt that failed may have left something behind.
    pub(crate) fn may_be_kept(self) -> bool {
        self.commit_sent || self.is_opaque
    }
}

/// What has to be done before the next operation can use a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cleanup {
    Nothing,
    RollBack,
    /// Its session is not what the next operation expects.
    Close,
    /// It can no longer be used.
    Discard,
}

impl Progress {
    pub(super) fn attempt(&self) -> Attempt {
        // A conflict decides even if a savepoint undid it: the transaction may have lost its savepoints to it.
        let met = self.had_conflict.then_some(DbErrorKind::Conflict);
        Attempt {
            error: self.error.filter(|kind| kind.breaks_connection()).or(met).or(self.error),
            succeeded: self.succeeded,
            commit_sent: self.commit_sent,
            is_opaque: self.effect == SessionEffect::Transaction,
        }
    }

    pub(super) fn cleanup(&self, backend: DbBackend, is_in_memory: bool) -> Cleanup {
        // SQLite's statements end on the driver's thread.
        let is_torn = self.is_in_flight && backend != DbBackend::Sqlite;
        // Without its connection a database in memory would be lost.
        let is_broken =
            |kind: DbErrorKind| if is_in_memory { kind == DbErrorKind::Lost } else { kind.breaks_connection() };
        if is_torn || self.is_killed || self.error.is_some_and(is_broken) {
            return Cleanup::Discard;
        }
        match self.effect {
            // Closing it would lose the database.
            SessionEffect::Transaction if is_in_memory => Cleanup::RollBack,
            SessionEffect::Settings | SessionEffect::Transaction if !is_in_memory => Cleanup::Close,
            _ if self.levels.is_empty() => Cleanup::Nothing,
            _ => Cleanup::RollBack,
        }
    }

    /// Whether statements can still be sent.
    pub(super) fn check_connection(&mut self) -> Result<(), DbErr> {
        if self.is_killed {
            // The statement that was killed had its answer first; what follows has not begun.
            self.error = Some(DbErrorKind::Terminated);
            return Err(closed());
        }
        // Otherwise what comes next on the wire is the answer to another statement.
        if self.is_in_flight { Err(closed()) } else { Ok(()) }
    }

    /// Takes the level that has to be rolled back because it was dropped.
    pub(super) fn take_dropped(&mut self) -> Option<usize> {
        let index = self.dropped.take().and_then(|level| self.index_of(level))?;
        if index > 0 && self.is_rolled_back {
            // The server has undone it with the transaction.
            self.levels.truncate(index);
            return None;
        }
        Some(index)
    }

    /// A transaction was dropped with neither commit nor rollback.
    pub(super) fn drop_level(&mut self, level: Level) {
        let Some(index) = self.index_of(level) else { return };
        let before = self.dropped.and_then(|dropped| self.index_of(dropped));
        if before.is_none_or(|before| index < before) {
            self.dropped = Some(level);
        }
    }

    /// Whether a statement may be sent, as one of this level or of the operation itself.
    pub(super) fn check_statement(&mut self, level: Option<Level>, effect: SessionEffect) -> Result<(), DbErr> {
        if level.is_some_and(|level| self.index_of(level).is_none()) {
            return Err(transaction_ended());
        }
        if self.is_rolled_back {
            return Err(rolled_back());
        }
        self.effect = self.effect.max(match effect {
            // Inside a transaction a procedure cannot commit.
            SessionEffect::Procedure if self.levels.is_empty() => SessionEffect::Transaction,
            SessionEffect::Procedure => SessionEffect::None,
            effect => effect,
        });
        Ok(())
    }

    /// A level is begun. Returns how many are open around it.
    pub(super) fn begin(&mut self, is_read_only: bool) -> (usize, Level) {
        let depth = self.levels.len();
        self.last_level += 1;
        self.levels.push(self.last_level);
        if depth == 0 {
            self.is_read_only = is_read_only;
            // Errors from before the transaction do not affect it.
            self.error = None;
            self.had_conflict = false;
        }
        (depth, self.last_level)
    }

    /// It could not be begun.
    pub(super) fn cancel(&mut self, level: Level) {
        if let Some(index) = self.index_of(level) {
            self.levels.truncate(index);
            self.is_rolled_back &= index > 0;
        }
    }

    /// A level is about to be committed. Returns how many are open around it.
    pub(super) fn check_commit(&mut self, level: Level, backend: DbBackend) -> Result<usize, DbErr> {
        let index = self.index_of(level).ok_or_else(transaction_ended)?;
        if self.is_rolled_back {
            return Err(rolled_back());
        }
        // PostgreSQL answers the COMMIT of a failed transaction with a polite ROLLBACK.
        if backend == DbBackend::Postgres && self.error.is_some() {
            return Err(DbErr::Custom("a statement of the transaction failed, so it cannot be committed".to_owned()));
        }
        self.commit_sent |= index == 0;
        Ok(index)
    }

    /// The answer to a commit has come.
    pub(super) fn end_commit(&mut self, index: usize, outcome: &Result<(), sqlx::Error>, backend: DbBackend) {
        let is_over = match outcome {
            Ok(()) => true,
            Err(error @ sqlx::Error::Database(_)) if index == 0 => {
                let is_conflict = ends_transaction(error);
                let breaks = DbErrorKind::of_driver(error).breaks_connection();
                // Of MySQL's errors only these say for certain that nothing was committed.
                self.commit_sent &= breaks || backend == DbBackend::MySql && !is_conflict;
                // A commit that PostgreSQL refuses ends the transaction, and so does one that met a conflict.
                backend == DbBackend::Postgres || is_conflict
            }
            Err(_) => false,
        };
        if is_over {
            self.levels.truncate(index);
            self.is_rolled_back &= index > 0;
        }
    }

    /// A level is about to be rolled back. `None` if the server has already done so.
    pub(super) fn check_rollback(&mut self, level: Level) -> Result<Option<usize>, DbErr> {
        let index = self.index_of(level).ok_or_else(transaction_ended)?;
        if index > 0 && self.is_rolled_back {
            self.levels.truncate(index);
            return Ok(None);
        }
        Ok(Some(index))
    }

    /// A level and those inside it are undone.
    pub(super) fn undo(&mut self, index: usize) {
        self.levels.truncate(index);
        self.is_rolled_back &= index > 0;
        if !self.error.is_some_and(DbErrorKind::breaks_connection) {
            self.error = None;
        }
    }

    /// A statement is about to be sent. `was_killed`: the one before it was killed.
    pub(super) fn send(&mut self, was_killed: bool) -> Result<(), DbErr> {
        self.is_killed |= was_killed;
        self.check_connection()?;
        self.is_in_flight = true;
        Ok(())
    }

    pub(super) fn note_killed(&mut self) {
        self.is_killed = true;
    }

    pub(super) fn note_success(&mut self) {
        self.is_in_flight = false;
        self.succeeded += 1;
    }

    /// Notes the error of a statement. Returns what it means.
    pub(super) fn note_error(&mut self, error: &sqlx::Error, is_session_killed: bool) -> DbErrorKind {
        // An answer that did not come in time may still come.
        self.is_in_flight = DbErrorKind::of_driver(error) == DbErrorKind::Silent;
        let kind = match DbErrorKind::of_driver(error) {
            // The caller asked for a read-only transaction; the database is fine.
            DbErrorKind::ReadOnly if self.is_read_only => DbErrorKind::Other,
            _ if is_session_killed => DbErrorKind::Terminated,
            kind => kind,
        };
        self.had_conflict |= kind == DbErrorKind::Conflict;
        self.is_rolled_back |= !self.levels.is_empty() && ends_transaction(error);
        // A consequence does not replace its cause.
        let weight = |kind: DbErrorKind| (kind.breaks_connection(), kind == DbErrorKind::Conflict);
        if self.error.is_none_or(|before| weight(kind) >= weight(before)) {
            self.error = Some(kind);
        }
        kind
    }

    fn index_of(&self, level: Level) -> Option<usize> {
        self.levels.iter().position(|open| *open == level)
    }
}

pub(super) fn closed() -> DbErr {
    DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed)
}

fn transaction_ended() -> DbErr {
    DbErr::Custom("the transaction has already ended".to_owned())
}

fn rolled_back() -> DbErr {
    DbErr::Custom("the database has rolled the transaction back, so nothing but its rollback may follow".to_owned())
}
