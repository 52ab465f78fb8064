//! How the database is: Up, Down or Recovering, since when, and why.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::{clock::Clock, connect::connector::ConnectFailure, error_kind::DbErrorKind};

/// How long a shortage or an impairment is reported after it was last met.
const MEMORY: Duration = Duration::from_secs(10);
/// The clock counts whole milliseconds.
const CLOCK_GRAIN: Duration = Duration::from_millis(2);

/// How the database is, as far as the pool can tell.
#[derive(Clone, Debug)]
pub(crate) enum State {
    Up,
    Down {
        incident: Incident,
    },
    /// It answers again; connections are opened step by step, and `min` is restored.
    Recovering,
}

/// A problem of the database: its kind, the original message, and since when.
#[derive(Clone, Debug)]
pub(crate) struct Incident {
    pub(crate) kind: DbErrorKind,
    pub(crate) detail: Arc<str>,
    pub(crate) since: Instant,
    last_met: Instant,
}

impl Incident {
    fn new(kind: DbErrorKind, detail: &str) -> Self {
        let now = Instant::now();
        Self { kind, detail: detail.into(), since: now, last_met: now }
    }

    /// Continues an earlier incident of the same kind.
    fn after(self, before: Option<&Self>) -> Self {
        match before.filter(|before| before.kind == self.kind && before.is_recent()) {
            Some(before) => Self { since: before.since, ..self },
            None => self,
        }
    }

    fn is_new(&self) -> bool {
        self.since == self.last_met
    }

    fn is_recent(&self) -> bool {
        self.last_met.elapsed() < MEMORY
    }
}

#[derive(Debug)]
pub(crate) struct Health {
    clock: Clock,
    state: watch::Sender<State>,
    // A copy of `state` for the hot path.
    is_down: AtomicBool,
    // These three are times on the clock, plus one; 0 if never.
    /// When the database last answered.
    responded: AtomicU64,
    /// When a connection last died.
    suspected: AtomicU64,
    /// When a ping or a connection attempt last timed out.
    silent: AtomicU64,
    /// Why no further connection can be opened while those that are open work.
    shortage: Mutex<Option<Incident>>,
    /// What keeps writes from working while reads do.
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

    /// The database answered.
    pub(crate) fn on_response(&self) {
        self.responded.store(self.now(), Ordering::Release);
    }

    /// How long the database has not answered.
    pub(crate) fn since_response(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.responded.load(Ordering::Acquire)))
    }

    /// A ping or a connection attempt has timed out.
    pub(crate) fn on_silence(&self) {
        self.silent.store(self.now(), Ordering::Release);
    }

    /// Whether the database is down and silent: a ping or a connection attempt has timed out, with no response since.
    pub(crate) fn is_silent(&self) -> bool {
        self.is_down() && self.silent.load(Ordering::Acquire) > self.responded.load(Ordering::Acquire)
    }

    /// A connection died: those that last answered before this are not to be trusted.
    pub(crate) fn mark_suspect(&self) {
        self.suspected.store(self.now(), Ordering::Release);
    }

    /// Whether a connection that last answered so long ago may have died with another one.
    pub(crate) fn is_suspect(&self, since_response: Duration) -> bool {
        let suspected = self.suspected.load(Ordering::Acquire);
        // One millisecond more than needed, as the clock counts whole ones.
        suspected != 0
            && Duration::from_millis((self.now() + 1).saturating_sub(suspected)) <= since_response + CLOCK_GRAIN
    }

    pub(crate) fn mark_down(&self, failure: &ConnectFailure) {
        let incident = Incident::new(failure.kind, &failure.detail());
        self.state.send_if_modified(|state| {
            // Inside, so that flag and state cannot come to differ.
            self.is_down.store(true, Ordering::Release);
            match state {
                State::Down { incident: before } if before.kind == incident.kind => {
                    before.last_met = incident.last_met;
                    false
                }
                State::Down { incident: before } => {
                    tracing::error!(cause = %incident.kind, detail = %incident.detail, "the database is still down");
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

    /// The database answers again.
    pub(crate) fn mark_recovering(&self) {
        self.state.send_if_modified(|state| {
            self.is_down.store(false, Ordering::Release);
            let State::Down { incident } = state else { return false };
            tracing::info!(after = ?incident.since.elapsed(), "the database is back; connections are being restored");
            *state = State::Recovering;
            true
        });
    }

    pub(crate) fn mark_up(&self) {
        self.state.send_if_modified(|state| {
            if !matches!(state, State::Recovering) {
                return false;
            }
            tracing::info!("the pool is restored");
            *state = State::Up;
            true
        });
    }

    /// No further connection can be opened, while those that are open work.
    pub(crate) fn note_shortage(&self, failure: &ConnectFailure) {
        let mut shortage = self.shortage.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Incident::new(failure.kind, &failure.detail()).after(shortage.as_ref());
        if next.is_new() {
            tracing::warn!(cause = %next.kind, detail = %next.detail, "no further connection can be opened");
        }
        *shortage = Some(next);
    }

    pub(crate) fn clear_shortage(&self) {
        *self.shortage.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A statement was refused because of the database's state.
    pub(crate) fn note_impairment(&self, kind: DbErrorKind, operation: &'static str, detail: &str) {
        let mut impairment = self.impairment.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Incident::new(kind, detail).after(impairment.as_ref());
        // Statements that cannot be prepared are logged with what is done about them.
        if next.is_new() && kind != DbErrorKind::TooManyStatements {
            tracing::error!(cause = %next.kind, detail = %next.detail, operation, "the database takes no writes");
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
