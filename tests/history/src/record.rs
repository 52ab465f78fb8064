//! Operations, their outcomes, and the history that concurrent clients write.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A change that a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `POST /users`, or a row of an import.
    Create {
        /// The name.
        name: String,
        /// The email.
        email: String,
        /// The idempotency key.
        key: Option<String>,
    },
    /// `PUT` or `PATCH`.
    Update {
        /// The id of the user.
        id: String,
        /// The version in `If-Match`; `None` without it, or for `*`.
        expected: Option<i64>,
        /// The new name; `None` leaves it unchanged.
        name: Option<String>,
        /// The new email; `None` leaves it unchanged.
        email: Option<String>,
    },
    /// `DELETE`.
    Delete {
        /// The id of the user.
        id: String,
        /// The version in `If-Match`; `None` without it, or for `*`.
        expected: Option<i64>,
    },
}

/// How an operation ended, as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The response was a success.
    Acknowledged {
        /// The status of the response.
        status: u16,
        /// The id of the user.
        id: String,
        /// The version in the response. An update without it counts as one that may have changed nothing.
        version: Option<i64>,
    },
    /// The response promises that nothing was changed.
    Refused {
        /// The status of the response.
        status: u16,
    },
    /// The operation may have taken effect: the connection was lost, the client stopped waiting, or the response makes
    /// no promise.
    Unknown,
}

impl Outcome {
    /// Returns the outcome of a response that is not a success, with the `code` of its problem.
    ///
    /// Every 4xx status promises that nothing was changed, except 408, which is taken for unknown. Of the 5xx
    /// responses, only 503 `pool-exhausted` does.
    #[must_use]
    pub fn of_failure(status: u16, code: &str) -> Self {
        match (status, code) {
            (408, _) => Self::Unknown,
            (400..=499, _) | (503, "pool-exhausted") => Self::Refused { status },
            _ => Self::Unknown,
        }
    }
}

/// An operation, its outcome, and when it was in flight.
///
/// Times are counts of the beginnings and ends in a history, so an operation that ended before another one began has
/// the smaller number, regardless of clocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the client asked for.
    pub operation: Operation,
    /// How it ended.
    pub outcome: Outcome,
    /// When the request was sent.
    pub start: u64,
    /// When the response was received; `None` if the operation has not ended.
    pub end: Option<u64>,
}

impl Record {
    /// Returns when the operation ended, or the end of all times.
    pub(crate) fn end(&self) -> u64 {
        self.end.unwrap_or(u64::MAX)
    }
}

#[derive(Debug, Default)]
struct Log {
    records: Vec<Record>,
    now: u64,
}

impl Log {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }
}

/// What all clients did and saw. Clones share their records.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<Mutex<Log>>);

impl History {
    /// Creates an empty history.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Records that a request is about to be sent. Until [`Pending::end`] is called, its outcome is unknown.
    #[must_use = "an operation that is never ended has an unknown outcome"]
    pub fn begin(&self, operation: Operation) -> Pending {
        let mut log = self.lock();
        let start = log.tick();
        log.records.push(Record { operation, outcome: Outcome::Unknown, start, end: None });
        Pending { history: self.clone(), index: log.records.len() - 1 }
    }

    /// Returns the time now, for the window of an [`Allowance`](crate::Allowance).
    #[must_use]
    pub fn now(&self) -> u64 {
        self.lock().tick()
    }

    /// Returns a copy of the records, in the order of their beginnings.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.lock().records.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        // No code that can panic runs while the log is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FromIterator<Record> for History {
    fn from_iter<I: IntoIterator<Item = Record>>(records: I) -> Self {
        let records: Vec<Record> = records.into_iter().collect();
        let now = records.iter().map(|record| record.end.unwrap_or(record.start).max(record.start)).max().unwrap_or(0);
        Self(Arc::new(Mutex::new(Log { records, now })))
    }
}

/// An operation in flight. Dropping it leaves the outcome unknown, as an aborted client does.
#[derive(Debug)]
pub struct Pending {
    history: History,
    index: usize,
}

impl Pending {
    /// Records the outcome.
    pub fn end(self, outcome: Outcome) {
        let mut log = self.history.lock();
        let end = log.tick();
        if let Some(record) = log.records.get_mut(self.index) {
            record.outcome = outcome;
            record.end = Some(end);
        }
    }
}
