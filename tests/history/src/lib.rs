//! A history records what clients asked users-api for and which responses they got. After the run, [`check`] compares
//! it with the users and the events that exist, and reports every contradiction.
//!
//! ```
//! use history::{Event, EventKind, FinalState, History, Operation, Outcome, User, check};
//!
//! let history = History::new();
//! let (name, email) = ("Ann".to_owned(), "ann@example.com".to_owned());
//! let pending = history.begin(Operation::Create { name: name.clone(), email: email.clone(), key: None });
//! // Here the client sends the request and waits for its response.
//! pending.end(Outcome::Acknowledged { status: 201, id: "7".to_owned(), version: Some(1) });
//!
//! let user = User { id: "7".to_owned(), name, email, version: 1 };
//! let event = Event::of(1, EventKind::Created, &user);
//! assert!(check(&history, &FinalState(vec![user]), &[event]).is_clean());
//! let report = check(&history, &FinalState::default(), &[]);
//! assert!(report.to_string().starts_with("lost write: "));
//! ```
//!
//! # What the caller must do
//!
//! * The history begins with an empty database, and contains every change. A row of an import is a creation.
//! * Each attempt is an operation, also a retry with the same idempotency key. A key is not used for two requests.
//! * The final state and the feed are read when no change is in flight, and the feed from its first event on.
//! * Names are recorded as the service stores them (trimmed, NFC), and emails as they were sent.
//!
//! # What is not checked
//!
//! An operation with an unknown outcome may have taken effect at any time after its start, at most once, or never, so
//! it explains whatever it could have done. The order of the events of different users is not compared with the order
//! of the requests: `docs/FEED.md` does not promise it. Emails are compared in lower case, and Unicode domains are not
//! converted to ASCII.

mod index;
mod record;
mod report;
mod rules;
mod state;
mod violation;

pub use self::{
    record::{History, Operation, Outcome, Pending, Record},
    report::{Allowance, Report},
    state::{Event, EventKind, FinalState, Reader, User},
    violation::Violation,
};

/// Checks a history against the users and the events that exist at the end.
#[must_use]
pub fn check(history: &History, state: &FinalState, events: &[Event]) -> Report {
    check_with(history, state, events, &Allowance::default())
}

/// As [`check`], and reports apart what the engine may lose by design.
#[must_use]
pub fn check_with(history: &History, state: &FinalState, events: &[Event], allowance: &Allowance) -> Report {
    let records = history.records();
    let index = index::Index::new(&records, state, events);
    let mut violations = Vec::new();
    rules::apply(&index, &mut violations);
    Report::new(violations, allowance)
}

/// Checks what several clients read against the whole feed: each must have read every event after its beginning once, in
/// the order of the feed. They must have had the time to read the last one.
#[must_use]
pub fn check_readers(events: &[Event], readers: &[Reader]) -> Report {
    let mut violations = Vec::new();
    rules::readers::apply(events, readers, &mut violations);
    Report::new(violations, &Allowance::default())
}
