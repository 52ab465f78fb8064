//! Tracks what an operation has done on its connection: open transactions, errors, and which statements are allowed.

use sea_orm::{ConnAcquireErr, DbBackend, DbErr, sqlx};

use super::session_effect::SessionEffect;
use crate::error_kind::{DbErrorKind, ends_transaction};

/// Identifies a transaction or a savepoint. Numbers are not reused within an operation.
pub(super) type Level = u64;

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "the flags are independent")]
pub(super) struct Progress {
    /// The open transaction and the savepoints inside it, outermost first.
    levels: Vec<Level>,
    last_level: Level,
    /// The outermost level that was dropped without a commit or rollback.
    dropped: Option<Level>,
    /// Whether the server has rolled back the whole transaction: only a rollback is allowed.
    is_rolled_back: bool,
    /// Whether the transaction was opened as read-only.
    is_read_only: bool,
    commit_sent: bool,
    /// Statements that succeeded.
    succeeded: u32,
    /// Whether a statement was sent and has no response. Stays set if its future was dropped.
    is_in_flight: bool,
    /// Whether the pool has killed a statement: the kill may still be in flight, and must not reach another statement.
    is_killed: bool,
    /// The most severe error that no rollback has undone.
    error: Option<DbErrorKind>,
    /// Whether a conflict has occurred, even if it was rolled back to a savepoint.
    had_conflict: bool,
    effect: SessionEffect,
}

/// The outcome of an attempt, as seen on its connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attempt {
    pub(crate) error: Option<DbErrorKind>,
    /// Statements that succeeded.
    pub(crate) succeeded: u32,
    /// Whether a commit was sent and not refused: the transaction may have taken effect.
    pub(crate) commit_sent: bool,
    /// Whether raw statements may have begun or ended a transaction.
    pub(crate) has_raw_transaction: bool,
}

impl Attempt {
    /// Whether a failed attempt may have taken effect.
    pub(crate) fn may_have_taken_effect(self) -> bool {
        self.commit_sent || self.has_raw_transaction
    }
}

/// The cleanup of a connection before the next operation can use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cleanup {
    Nothing,
    RollBack,
    /// The state of its session has changed.
    Close,
    /// It is broken.
    Discard,
}

impl Progress {
    pub(super) fn attempt(&self) -> Attempt {
        // A conflict counts even if it was rolled back to a savepoint: the transaction may have lost its savepoints.
        let conflict = self.had_conflict.then_some(DbErrorKind::Conflict);
        Attempt {
            error: self.error.filter(|kind| kind.breaks_connection()).or(conflict).or(self.error),
            succeeded: self.succeeded,
            commit_sent: self.commit_sent,
            has_raw_transaction: self.effect == SessionEffect::Transaction,
        }
    }

    pub(super) fn cleanup(&self, backend: DbBackend, is_in_memory: bool) -> Cleanup {
        // Statements of SQLite complete on the driver's thread.
        let is_mid_statement = self.is_in_flight && backend != DbBackend::Sqlite;
        // Closing the connection would delete an in-memory database.
        let is_broken =
            |kind: DbErrorKind| if is_in_memory { kind == DbErrorKind::Lost } else { kind.breaks_connection() };
        if is_mid_statement || self.is_killed || self.error.is_some_and(is_broken) {
            return Cleanup::Discard;
        }
        match self.effect {
            SessionEffect::Transaction if is_in_memory => Cleanup::RollBack,
            SessionEffect::Settings | SessionEffect::Transaction if !is_in_memory => Cleanup::Close,
            _ if self.levels.is_empty() => Cleanup::Nothing,
            _ => Cleanup::RollBack,
        }
    }

    /// Checks that statements can still be sent.
    pub(super) fn check_connection(&mut self) -> Result<(), DbErr> {
        if self.is_killed {
            // The kill may still hit the next statement, so it is not sent. The killed one has completed.
            self.error = Some(DbErrorKind::Terminated);
            return Err(closed());
        }
        // Otherwise the next response on the wire would belong to another statement.
        if self.is_in_flight { Err(closed()) } else { Ok(()) }
    }

    /// Takes the index of the dropped level that must be rolled back.
    pub(super) fn take_dropped(&mut self) -> Option<usize> {
        let index = self.dropped.take().and_then(|level| self.index_of(level))?;
        if index > 0 && self.is_rolled_back {
            // The server has rolled it back with the transaction.
            self.levels.truncate(index);
            return None;
        }
        Some(index)
    }

    /// Records that a transaction was dropped without a commit or rollback.
    pub(super) fn drop_level(&mut self, level: Level) {
        let Some(index) = self.index_of(level) else { return };
        let before = self.dropped.and_then(|dropped| self.index_of(dropped));
        if before.is_none_or(|before| index < before) {
            self.dropped = Some(level);
        }
    }

    /// Checks that a statement may be sent in this transaction, or outside of one, and records its effect.
    pub(super) fn check_statement(&mut self, level: Option<Level>, effect: SessionEffect) -> Result<(), DbErr> {
        if level.is_some_and(|level| self.index_of(level).is_none()) {
            return Err(transaction_ended());
        }
        if self.is_rolled_back {
            return Err(poisoned());
        }
        self.effect = self.effect.max(match effect {
            // A procedure cannot commit inside a transaction.
            SessionEffect::Procedure if self.levels.is_empty() => SessionEffect::Transaction,
            SessionEffect::Procedure => SessionEffect::None,
            effect => effect,
        });
        Ok(())
    }

    /// Opens a level. Returns its index and number.
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

    /// Removes a level that could not be begun.
    pub(super) fn cancel(&mut self, level: Level) {
        if let Some(index) = self.index_of(level) {
            self.levels.truncate(index);
            self.is_rolled_back &= index > 0;
        }
    }

    /// Checks that a level can be committed. Returns its index.
    pub(super) fn check_commit(&mut self, level: Level, backend: DbBackend) -> Result<usize, DbErr> {
        let index = self.index_of(level).ok_or_else(transaction_ended)?;
        if self.is_rolled_back {
            return Err(poisoned());
        }
        // PostgreSQL rolls a failed transaction back on COMMIT, without an error.
        if backend == DbBackend::Postgres && self.error.is_some() {
            return Err(DbErr::Custom("the transaction cannot be committed: one of its statements failed".to_owned()));
        }
        self.commit_sent |= index == 0;
        Ok(index)
    }

    /// Records the response to a commit.
    pub(super) fn end_commit(&mut self, index: usize, outcome: &Result<(), sqlx::Error>, backend: DbBackend) {
        let has_ended = match outcome {
            Ok(()) => true,
            Err(error @ sqlx::Error::Database(_)) if index == 0 => {
                let is_conflict = ends_transaction(error);
                let breaks = DbErrorKind::of_driver(error).breaks_connection();
                // On MySQL, only these errors guarantee that nothing was committed.
                self.commit_sent &= breaks || backend == DbBackend::MySql && !is_conflict;
                // A commit that PostgreSQL refuses ends the transaction, and so does a conflict.
                backend == DbBackend::Postgres || is_conflict
            }
            Err(_) => false,
        };
        if has_ended {
            self.levels.truncate(index);
            self.is_rolled_back &= index > 0;
        }
    }

    /// Returns the index of a level to roll back; `None` if the server has already rolled it back.
    pub(super) fn check_rollback(&mut self, level: Level) -> Result<Option<usize>, DbErr> {
        let index = self.index_of(level).ok_or_else(transaction_ended)?;
        if index > 0 && self.is_rolled_back {
            self.levels.truncate(index);
            return Ok(None);
        }
        Ok(Some(index))
    }

    /// Records that a level and those inside it were rolled back.
    pub(super) fn rolled_back(&mut self, index: usize) {
        self.levels.truncate(index);
        self.is_rolled_back &= index > 0;
        if !self.error.is_some_and(DbErrorKind::breaks_connection) {
            self.error = None;
        }
    }

    /// Records that a statement is about to be sent. `was_killed`: the pool has killed the previous one.
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

    /// Records the error of a statement. Returns its kind.
    pub(super) fn note_error(&mut self, error: &sqlx::Error, is_session_killed: bool) -> DbErrorKind {
        // A response that timed out may still arrive.
        self.is_in_flight = DbErrorKind::of_driver(error) == DbErrorKind::Silent;
        let kind = match DbErrorKind::of_driver(error) {
            // The caller requested a read-only transaction; the database is not read-only.
            DbErrorKind::ReadOnly if self.is_read_only => DbErrorKind::Other,
            _ if is_session_killed => DbErrorKind::Terminated,
            kind => kind,
        };
        self.had_conflict |= kind == DbErrorKind::Conflict;
        self.is_rolled_back |= !self.levels.is_empty() && ends_transaction(error);
        // A consequence does not replace its cause.
        let severity = |kind: DbErrorKind| (kind.breaks_connection(), kind == DbErrorKind::Conflict);
        if self.error.is_none_or(|before| severity(kind) >= severity(before)) {
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

fn poisoned() -> DbErr {
    DbErr::Custom("the database has rolled the transaction back; only a rollback is allowed".to_owned())
}
