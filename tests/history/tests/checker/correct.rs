//! Correct histories.

use history::{Event, EventKind, FinalState, History, Operation, Outcome, User, check};

use crate::{
    fault::{acknowledged, rename},
    simulation::simulate,
};

#[test]
fn correct_histories_have_no_violation() {
    let mut seen = [0; 8];
    for seed in 0..5_000 {
        let world = simulate(seed);
        let report = world.check();
        assert!(report.is_clean() && report.allowed.is_empty(), "seed {seed}:\n{report}{world:#?}");
        for record in &world.records {
            let kind = match (&record.outcome, &record.operation) {
                (Outcome::Acknowledged { .. }, Operation::Create { .. }) => 0,
                (Outcome::Acknowledged { .. }, Operation::Update { .. }) => 1,
                (Outcome::Acknowledged { .. }, Operation::Delete { .. }) => 2,
                (Outcome::Unknown, _) => 3,
                (Outcome::Refused { status: 404 }, _) => 4,
                (Outcome::Refused { status: 409 }, _) => 5,
                (Outcome::Refused { status: 412 }, _) => 6,
                (Outcome::Refused { .. }, _) => 7,
            };
            seen[kind] += 1;
        }
    }
    assert!(seen.iter().all(|count| *count > 1_000), "{seen:?}");
}

#[test]
fn an_empty_history_has_no_violation() {
    assert!(check(&History::new(), &FinalState::default(), &[]).is_clean());
}

#[test]
fn failures_promise_what_the_documentation_says() {
    for status in [400, 401, 403, 404, 409, 412, 422, 429] {
        assert_eq!(Outcome::of_failure(status, ""), Outcome::Refused { status });
    }
    assert_eq!(Outcome::of_failure(503, "pool-exhausted"), Outcome::Refused { status: 503 });
    for (status, code) in [(503, "database-unavailable"), (500, "internal"), (502, ""), (408, "body-timeout")] {
        assert_eq!(Outcome::of_failure(status, code), Outcome::Unknown);
    }
}

/// As the line of an import that updated a user.
#[test]
fn a_response_without_a_version_explains_one() {
    let history = History::new();
    let (name, email) = ("Ann".to_owned(), "ann@example.com".to_owned());
    let mut user = User { id: "1".to_owned(), name: name.clone(), email: email.clone(), version: 1 };
    let mut events = vec![Event::of(1, EventKind::Created, &user)];
    history.begin(Operation::Create { name, email, key: None }).end(acknowledged("1", 1));
    let updated = Outcome::Acknowledged { status: 200, id: "1".to_owned(), version: None };
    history.begin(rename("1", None, "Anna")).end(updated);
    (user.name, user.version) = ("Anna".to_owned(), 2);
    events.push(Event::of(2, EventKind::Updated, &user));
    let report = check(&history, &FinalState(vec![user]), &events);
    assert!(report.is_clean(), "{report}");
}
