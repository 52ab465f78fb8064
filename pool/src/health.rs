//! Up, Down, Recovering, and the true cause.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::{Fault, clock::Clock, target::DialError};

/// For how long a trouble is told after it was last met.
const MEMORY: Duration = Duration::from_secs(10);

/// How the database is, as far as the pool can tell.
#[derive(Clone, Debug)]
pub(crate) enum State {
    Up,
    Down {
        trouble: Trouble,
    },
    /// It answers again; connections are opened one after the other, and `min` is restored.
    Recovering,
}

/// Something that is the matter, since when, and in whose words.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) fault: Fault,
    pub(crate) detail: Arc<str>,
    pub(crate) since: Instant,
    last: Instant,
}

impl Trouble {
    fn new(fault: Fault, detail: &str) -> Self {
        let now = Instant::now();
        Self { fault, detail: detail.into(), since: now, last: now }
    }

    fn again(self, before: Option<&Self>) -> Self {
        match before.filter(|before| before.fault == self.fault && before.is_recent()) {
            Some(before) => Self { since: before.since, ..self },
            None => self,
        }
    }

    fn is_recent(&self) -> bool {
        self.last.elapsed() < MEMORY
    }
}

/// What an error says at its source, without the wrappings.
pub(crate) fn words(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[derive(Debug)]
pub(crate) struct Health {
    clock: Clock,
    state: watch::Sender<State>,
    down: AtomicBool,
    // When the database last answered, on the clock, plus one; 0 if never.
    heard: AtomicU64,
    // When a connection last died underneath, likewise.
    suspected: AtomicU64,
    // Why no further connection can be opened while those that are open work.
    shortage: Mutex<Option<Trouble>>,
    // What keeps writes from working while reads do.
    impairment: Mutex<Option<Trouble>>,
}

impl Health {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            state: watch::Sender::new(State::Up),
            down: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            suspected: AtomicU64::new(0),
            shortage: Mutex::default(),
            impairment: Mutex::default(),
        }
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down.load(Ordering::Acquire)
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// The database answered.
    pub(crate) fn hears(&self) {
        self.heard.store(self.clock.millis() + 1, Ordering::Relaxed);
    }

    /// How long the database has said nothing.
    pub(crate) fn silence(&self) -> Duration {
        Duration::from_millis((self.clock.millis() + 1).saturating_sub(self.heard.load(Ordering::Relaxed)))
    }

    /// A connection died underneath: others that rested meanwhile may have died as well.
    pub(crate) fn suspects(&self) {
        self.suspected.store(self.clock.millis() + 1, Ordering::Release);
    }

    /// Whether a connection that has rested for `rested` was already there when another died.
    pub(crate) fn is_suspect(&self, rested: Duration) -> bool {
        let suspected = self.suspected.load(Ordering::Acquire);
        // One millisecond more than needed, as the clock counts whole ones.
        suspected != 0 && Duration::from_millis((self.clock.millis() + 2).saturating_sub(suspected)) <= rested + GRAIN
    }

    pub(crate) fn goes_down(&self, error: &DialError) {
        let trouble = Trouble::new(error.fault, &words(&error.source));
        self.state.send_if_modified(|state| {
            // Inside, so that flag and state cannot come to differ.
            self.down.store(true, Ordering::Release);
            match state {
                State::Down { trouble: before } if before.fault == trouble.fault => {
                    before.last = trouble.last;
                    false
                }
                State::Down { trouble: before } => {
                    tracing::error!(cause = %trouble.fault, detail = %trouble.detail, "the database is still down");
                    let since = before.since;
                    *before = Trouble { since, ..trouble };
                    true
                }
                state => {
                    tracing::error!(cause = %trouble.fault, detail = %trouble.detail, "the database is down");
                    *state = State::Down { trouble };
                    true
                }
            }
        });
    }

    /// The database takes connections again.
    pub(crate) fn recovers(&self) {
        self.state.send_if_modified(|state| {
            self.down.store(false, Ordering::Release);
            let State::Down { trouble } = state else { return false };
            tracing::info!(after = ?trouble.since.elapsed(), "the database is back; connections are being restored");
            *state = State::Recovering;
            true
        });
    }

    pub(crate) fn restore(&self) {
        self.state.send_if_modified(|state| {
            if !matches!(state, State::Recovering) {
                return false;
            }
            tracing::info!("the pool is restored");
            *state = State::Up;
            true
        });
    }

    /// No further connection is to be had, while those that are open work.
    pub(crate) fn note_shortage(&self, error: &DialError) {
        let trouble = Trouble::new(error.fault, &words(&error.source));
        let mut shortage = self.shortage.lock().unwrap_or_else(PoisonError::into_inner);
        let next = trouble.again(shortage.as_ref());
        if next.since == next.last {
            tracing::warn!(cause = %next.fault, detail = %next.detail, "no further connection can be opened");
        }
        *shortage = Some(next);
    }

    pub(crate) fn clear_shortage(&self) {
        *self.shortage.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A write was refused for a reason that is the database's.
    pub(crate) fn note_impairment(&self, fault: Fault, operation: &'static str, detail: &str) {
        let mut impairment = self.impairment.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Trouble::new(fault, detail).again(impairment.as_ref());
        if next.since == next.last {
            tracing::error!(cause = %next.fault, detail = %next.detail, operation, "the database takes no writes");
        }
        *impairment = Some(next);
    }

    pub(crate) fn shortage(&self) -> Option<Trouble> {
        self.shortage.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(Trouble::is_recent)
    }

    pub(crate) fn impairment(&self) -> Option<Trouble> {
        self.impairment.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(Trouble::is_recent)
    }
}

const GRAIN: Duration = Duration::from_millis(2);
