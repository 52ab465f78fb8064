//! What engines may lose by design is reported apart.

use history::{Allowance, Event, EventKind, FinalState, History, Operation, Outcome, User, Violation, check_with};

use crate::fault::{acknowledged, rename};

fn create(history: &History, id: &str) -> User {
    let (name, email) = (format!("User {id}"), format!("{id}@example.com"));
    let operation = Operation::Create { name: name.clone(), email: email.clone(), key: None };
    history.begin(operation).end(acknowledged(id, 1));
    User { id: id.to_owned(), name, email, version: 1 }
}

#[test]
fn a_change_may_be_lost_in_the_window_only() {
    let history = History::new();
    let first = create(&history, "first");
    let from = history.now();
    create(&history, "second");
    history.begin(rename("first", None, "Lost")).end(acknowledged("first", 2));
    let until = history.now();
    create(&history, "third");
    // The replica has neither the second user nor the new name, and then gets another update.
    history.begin(rename("first", Some(1), "Kept")).end(acknowledged("first", 2));
    let kept = User { name: "Kept".to_owned(), version: 2, ..first.clone() };
    let events = [Event::of(1, EventKind::Created, &first), Event::of(2, EventKind::Updated, &kept)];
    let allowance = Allowance { lost: Some(from..until), ..Allowance::default() };
    let report = check_with(&history, &FinalState(vec![kept]), &events, &allowance);
    let is_of = |violation: &Violation, user: &str| violation.to_string().contains(&format!("user {user}"));
    assert!(report.allowed.iter().any(|violation| matches!(violation, Violation::LostUpdate { .. })), "{report}");
    assert!(report.allowed.iter().any(|violation| is_of(violation, "second")), "{report}");
    assert!(!report.is_clean() && report.violations.iter().all(|violation| is_of(violation, "third")), "{report}");
}

#[test]
fn a_stale_read_may_refuse_and_may_not_write() {
    let history = History::new();
    let mut user = create(&history, "first");
    history.begin(rename("first", Some(1), "Second")).end(acknowledged("first", 2));
    history.begin(rename("first", None, "Lost")).end(Outcome::Refused { status: 404 });
    history.begin(rename("first", None, "User first")).end(acknowledged("first", 1));
    let created = Event::of(1, EventKind::Created, &user);
    (user.version, user.name) = (2, "Second".to_owned());
    let events = [created, Event::of(2, EventKind::Updated, &user)];
    let state = FinalState(vec![user]);
    let report = |stale_reads| check_with(&history, &state, &events, &Allowance { stale_reads, lost: None });
    assert_eq!((report(false).violations.len(), report(false).allowed.len()), (2, 0), "{}", report(false));
    assert_eq!((report(true).violations.len(), report(true).allowed.len()), (0, 2), "{}", report(true));
    history.begin(rename("first", Some(0), "Written")).end(acknowledged("first", 1));
    let violations = report(true).violations;
    assert!(
        violations.iter().any(|violation| matches!(violation, Violation::VersionBackwards { .. })),
        "{violations:?}"
    );
}

#[test]
fn concurrent_clients_share_a_history() {
    let history = History::new();
    std::thread::scope(|scope| {
        for client in 0..4 {
            let history = history.clone();
            scope.spawn(move || (0..100).for_each(|number| drop(create(&history, &format!("{client}-{number}")))));
        }
        // Aborted before its response.
        drop(history.begin(rename("first", None, "Lost")));
    });
    let records = history.records();
    assert_eq!(records.len(), 401);
    assert!(records.windows(2).all(|pair| pair[0].start < pair[1].start));
    assert_eq!(records.iter().filter(|record| record.outcome == Outcome::Unknown && record.end.is_none()).count(), 1);
}
