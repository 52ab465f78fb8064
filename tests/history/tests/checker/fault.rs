//! Plants faults into random histories, and queries of those histories that the faults use.

use history::{Event, EventKind, Operation, Outcome, Record, User, Violation};

use crate::{
    random::Random,
    simulation::{World, simulate},
};

/// How many histories get each fault.
const HISTORIES: usize = 100;

/// Plants a fault into 100 histories that have a place for it. Each must then have an expected violation; `plant`
/// returns the id of the user in question.
#[track_caller]
pub(crate) fn must_find(
    plant: impl Fn(&mut World, &mut Random) -> Option<String>,
    is_expected: impl Fn(&Violation, &str) -> bool,
) {
    let mut planted = 0;
    for seed in 100_000..150_000 {
        let mut world = simulate(seed);
        let mut random = Random::new(seed + 1);
        let Some(id) = plant(&mut world, &mut random) else { continue };
        let report = world.check();
        let is_found = report.violations.iter().any(|violation| is_expected(violation, &id));
        assert!(is_found, "seed {seed}, user {id}:\n{report}{world:#?}");
        assert!(report.violations.iter().all(|violation| !violation.to_string().is_empty()), "{report:?}");
        planted += 1;
        if planted == HISTORIES {
            return;
        }
    }
    assert_eq!(planted, HISTORIES, "too few histories have a place for the fault");
}

impl World {
    /// Returns the place of a random record that fits.
    pub(crate) fn pick(&self, random: &mut Random, fits: impl Fn(&Record) -> bool) -> Option<usize> {
        random.pick((0..self.records.len()).filter(|at| fits(&self.records[*at])))
    }

    /// Returns the place of a random user at the end that fits.
    pub(crate) fn pick_user(&self, random: &mut Random, fits: impl Fn(&User) -> bool) -> Option<usize> {
        random.pick((0..self.state.0.len()).filter(|at| fits(&self.state.0[*at])))
    }

    /// Returns whether a change of the user that fits was acknowledged.
    pub(crate) fn has_acknowledged(&self, id: &str, fits: impl Fn(&Operation, Option<i64>) -> bool) -> bool {
        self.records.iter().any(|record| match &record.outcome {
            Outcome::Acknowledged { id: user, version, .. } => user == id && fits(&record.operation, *version),
            _ => false,
        })
    }

    /// Returns whether there is an operation on the user with an unknown outcome.
    pub(crate) fn has_unknown(&self, id: &str) -> bool {
        self.has(id, &Outcome::Unknown)
    }

    /// Returns whether there is a refused operation on the user.
    pub(crate) fn has_refused(&self, id: &str) -> bool {
        [404, 409, 412, 429, 503].into_iter().any(|status| self.has(id, &Outcome::Refused { status }))
    }

    fn has(&self, id: &str, outcome: &Outcome) -> bool {
        self.records.iter().any(|record| record.outcome == *outcome && target(record) == Some(id))
    }

    /// Returns whether the creation of the user was acknowledged.
    pub(crate) fn is_creation_acknowledged(&self, id: &str) -> bool {
        self.has_acknowledged(id, |operation, _| matches!(operation, Operation::Create { .. }))
    }

    /// Returns whether this version of the user was acknowledged.
    pub(crate) fn is_version_acknowledged(&self, id: &str, version: i64) -> bool {
        self.has_acknowledged(id, |_, found| found == Some(version))
    }

    /// Removes a user and all its events.
    pub(crate) fn remove(&mut self, id: &str) {
        self.state.0.retain(|user| user.id != id);
        self.events.retain(|event| event.id != id);
    }

    /// Changes a user and adds the event, as a change does.
    pub(crate) fn change(&mut self, at: usize, name: &str) {
        let user = &mut self.state.0[at];
        user.version += 1;
        name.clone_into(&mut user.name);
        let event = Event::of(0, EventKind::Updated, &self.state.0[at]);
        self.add_event(event);
    }

    /// Deletes a user and adds the event.
    pub(crate) fn delete(&mut self, at: usize) {
        let mut user = self.state.0.remove(at);
        user.version += 1;
        self.events.iter_mut().filter(|event| event.id == user.id).for_each(erase);
        let mut event = Event::of(0, EventKind::Deleted, &user);
        erase(&mut event);
        self.add_event(event);
    }

    /// Adds a user with its event.
    pub(crate) fn create(&mut self, id: &str, email: &str) {
        let user = User { id: id.to_owned(), name: "Ann".to_owned(), email: email.to_owned(), version: 1 };
        self.add_event(Event::of(0, EventKind::Created, &user));
        self.state.0.push(user);
    }

    /// Adds an event at the end of the feed.
    pub(crate) fn add_event(&mut self, event: Event) {
        let position = self.events.last().map_or(0, |event| event.position) + 1;
        self.events.push(Event { position, ..event });
    }

    /// Returns the places of the events of a user.
    pub(crate) fn events_of(&self, id: &str) -> Vec<usize> {
        (0..self.events.len()).filter(|at| self.events[*at].id == id).collect()
    }
}

/// Returns the user that an operation is to change.
pub(crate) fn target(record: &Record) -> Option<&str> {
    match &record.operation {
        Operation::Create { .. } => None,
        Operation::Update { id, .. } | Operation::Delete { id, .. } => Some(id),
    }
}

pub(crate) fn is_acknowledged(record: &Record) -> bool {
    matches!(record.outcome, Outcome::Acknowledged { .. })
}

/// Returns the version that an acknowledged update surely made.
pub(crate) fn made_version(record: &Record) -> Option<i64> {
    match (&record.operation, &record.outcome) {
        (Operation::Update { expected: Some(expected), .. }, Outcome::Acknowledged { version: Some(version), .. }) => {
            (*version == expected + 1).then_some(*version)
        }
        _ => None,
    }
}

fn erase(event: &mut Event) {
    (event.name, event.email) = (None, None);
}

/// Returns an update of the name.
pub(crate) fn rename(id: &str, expected: Option<i64>, name: &str) -> Operation {
    Operation::Update { id: id.to_owned(), expected, name: Some(name.to_owned()), email: None }
}

pub(crate) fn acknowledged(id: &str, version: i64) -> Outcome {
    Outcome::Acknowledged { status: 200, id: id.to_owned(), version: Some(version) }
}
