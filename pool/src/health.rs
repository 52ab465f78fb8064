//! Health of the database: up, down or recovering, since when, and why.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::{clock::Clock, connect::connector::ConnectFailure, error_kind::DbErrorKind};

/// How long a shortage or an impairment is reported after it was last seen.
const REPORT_PERIOD: Duration = Duration::from_secs(10);
/// Tolerance for the clock, which counts whole milliseconds.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(2);

/// Health of the database, as far as the pool can tell.
#[derive(Clone, Debug)]
pub(crate) enum State {
    Up,
    Down {
        incident: Incident,
    },
    /// The database responds again; connections are opened gradually until `min` is restored.
    Recovering,
}

/// A problem of the database: its kind, the original message, and its start.
#[derive(Clone, Debug)]
pub(crate) struct Incident {
    pub(crate) kind: DbErrorKind,
    pub(crate) detail: Arc<str>,
    pub(crate) since: Instant,
    last_seen: Instant,
}

impl Incident {
    fn new(kind: DbErrorKind, detail: &str) -> Self {
        let now = Instant::now();
        Self { kind, detail: detail.into(), since: now, last_seen: now }
    }

    /// Continues a recent incident of the same kind.
    fn after(self, before: Option<&Self>) -> Self {
        match before.filter(|before| before.kind == self.kind && before.is_recent()) {
            Some(before) => Self { since: before.since, ..self },
            None => self,
        }
    }

    fn is_new(&self) -> bool {
        self.since == self.last_seen
    }

    fn is_recent(&self) -> bool {
        self.last_seen.elapsed() < REPORT_PERIOD
    }
}

/// Tracks the health of the database.
#[derive(Debug)]
pub(crate) struct Health {
    clock: Clock,
    state: watch::Sender<State>,
    // A copy of `state` for the hot path.
    is_down: AtomicBool,
    // The next three are times on the clock, plus one; 0 if never.
    /// When the database last responded.
    responded: AtomicU64,
    /// When a connection was last lost.
    suspected: AtomicU64,
    /// When a ping or a connection attempt last timed out.
    silent: AtomicU64,
    /// Why no more connections can be opened while the open ones work.
    shortage: Mutex<Option<Incident>>,
    /// Why writes fail while reads work.
    impairment: Mutex<Option<Incident>>,
}

impl Health {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            state: watch::Sender::new(State::Up),
            is_down: AtomicBool::new(false),
            responded: AtomicU64::new(0),
            suspected: AtomicU64::new(0),
            silent: AtomicU64::new(0),
            shortage: Mutex::default(),
            impairment: Mutex::default(),
        }
    }

    pub(crate) fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Acquire)
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    fn now(&self) -> u64 {
        self.clock.millis() + 1
    }

    /// Records a response of the database.
    pub(crate) fn on_response(&self) {
        self.responded.store(self.now(), Ordering::Release);
    }

    /// Returns the time since the last response of the database.
    pub(crate) fn since_response(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.responded.load(Ordering::Acquire)))
    }

    /// Records that a ping or a connection attempt has timed out.
    pub(crate) fn on_silence(&self) {
        self.silent.store(self.now(), Ordering::Release);
    }

    /// Whether the database is down and silent: a ping or a connection attempt has timed out, with no response since.
    pub(crate) fn is_silent(&self) -> bool {
        self.is_down() && self.silent.load(Ordering::Acquire) > self.responded.load(Ordering::Acquire)
    }

    /// Records that a connection was lost: those that last responded earlier are suspect.
    pub(crate) fn mark_suspect(&self) {
        self.suspected.store(self.now(), Ordering::Release);
    }

    /// Whether a connection that last responded this long ago may have been lost along with another one.
    pub(crate) fn is_suspect(&self, since_response: Duration) -> bool {
        let suspected = self.suspected.load(Ordering::Acquire);
        suspected != 0
            && Duration::from_millis((self.now() + 1).saturating_sub(suspected)) <= since_response + CLOCK_TOLERANCE
    }

    pub(crate) fn mark_down(&self, failure: &ConnectFailure) {
        let incident = Incident::new(failure.kind, &failure.detail());
        self.state.send_if_modified(|state| {
            // Set inside the closure, so that flag and state cannot diverge.
            self.is_down.store(true, Ordering::Release);
            match state {
                State::Down { incident: before } if before.kind == incident.kind => {
                    before.last_seen = incident.last_seen;
                    false
                }
                State::Down { incident: before } => {
                    let Incident { kind, detail, .. } = &incident;
                    tracing::error!(cause = %kind, %detail, "the database is still down, for another reason");
                    let since = before.since;
                    *before = Incident { since, ..incident };
                    true
                }
                state => {
                    tracing::error!(cause = %incident.kind, detail = %incident.detail, "the database is down");
                    *state = State::Down { incident };
                    true
                }
            }
        });
    }

    /// Marks the database as recovering, if it is down.
    pub(crate) fn mark_recovering(&self) {
        self.state.send_if_modified(|state| {
            self.is_down.store(false, Ordering::Release);
            let State::Down { incident } = state else { return false };
            tracing::info!(after = ?incident.since.elapsed(), "the database is available again; restoring connections");
            *state = State::Recovering;
            true
        });
    }

    pub(crate) fn mark_up(&self) {
        self.state.send_if_modified(|state| {
            if !matches!(state, State::Recovering) {
                return false;
            }
            tracing::info!("the pool has recovered");
            *state = State::Up;
            true
        });
    }

    /// Records that no more connections can be opened while the open ones work.
    pub(crate) fn note_shortage(&self, failure: &ConnectFailure) {
        let mut shortage = self.shortage.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Incident::new(failure.kind, &failure.detail()).after(shortage.as_ref());
        if next.is_new() {
            tracing::warn!(cause = %next.kind, detail = %next.detail, "no more connections can be opened");
        }
        *shortage = Some(next);
    }

    pub(crate) fn clear_shortage(&self) {
        *self.shortage.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Records that a statement was rejected because of the database's state.
    pub(crate) fn note_impairment(&self, kind: DbErrorKind, operation: &'static str, detail: &str) {
        let mut impairment = self.impairment.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Incident::new(kind, detail).after(impairment.as_ref());
        // The limit of prepared statements is logged where it is handled.
        if next.is_new() && kind != DbErrorKind::TooManyStatements {
            tracing::error!(cause = %next.kind, detail = %next.detail, operation, "the database rejects writes");
        }
        *impairment = Some(next);
    }

    pub(crate) fn shortage(&self) -> Option<Incident> {
        self.shortage.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(Incident::is_recent)
    }

    pub(crate) fn impairment(&self) -> Option<Incident> {
        self.impairment.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(Incident::is_recent)
    }
}
