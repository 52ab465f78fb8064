//! Random histories of concurrent clients that use a correct service.

use history::{Event, FinalState, History, Operation, Outcome, Pending, Record, Report, check};

use crate::{database::Database, random::Random};

/// A history, and what exists after it.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) records: Vec<Record>,
    pub(crate) state: FinalState,
    pub(crate) events: Vec<Event>,
}

impl World {
    pub(crate) fn check(&self) -> Report {
        check(&self.records.iter().cloned().collect::<History>(), &self.state, &self.events)
    }

    /// Returns a time after everything that was recorded.
    pub(crate) fn now(&self) -> u64 {
        self.records.iter().map(|record| record.start.max(record.end.unwrap_or(0))).max().unwrap_or(0) + 1
    }

    /// Adds an operation that began after all others had ended.
    pub(crate) fn push(&mut self, operation: Operation, outcome: Outcome) {
        let start = self.now();
        self.records.push(Record { operation, outcome, start, end: Some(start + 1) });
    }
}

/// What a client is doing.
#[derive(Debug)]
enum Stage {
    Idle,
    /// It will try an operation again, whose outcome it does not know.
    Again(Operation),
    Sent(Operation, Pending),
    Executed(Operation, Pending, Outcome),
}

#[derive(Debug)]
struct Simulation {
    random: Random,
    history: History,
    database: Database,
    /// Operations without a client, which the service may still execute.
    abandoned: Vec<Operation>,
    keys: usize,
}

/// Returns the history of a seed.
pub(crate) fn simulate(seed: u64) -> World {
    let mut random = Random::new(seed);
    let steps = 30 + random.below(270);
    simulate_steps(random, steps)
}

pub(crate) fn simulate_steps(mut random: Random, steps: usize) -> World {
    let mut clients: Vec<Stage> = (0..=random.below(6)).map(|_| Stage::Idle).collect();
    let (history, database, abandoned, keys) = Default::default();
    let mut run = Simulation { random, history, database, abandoned, keys };
    for _ in 0..steps {
        let client = run.random.below(clients.len());
        clients[client] = run.advance(std::mem::replace(&mut clients[client], Stage::Idle));
        if run.random.percent(8) {
            run.execute_abandoned();
        }
    }
    for client in clients {
        // Some operations are still in flight at the end; the rest are executed.
        if run.random.percent(50) {
            run.advance(client);
        }
    }
    while run.random.percent(60) {
        run.execute_abandoned();
    }
    let state = FinalState(run.database.users.into_values().collect());
    World { records: run.history.records(), state, events: run.database.events }
}

impl Simulation {
    fn advance(&mut self, stage: Stage) -> Stage {
        match stage {
            Stage::Idle => {
                let operation = self.operation();
                self.send(operation)
            }
            Stage::Again(operation) => self.send(operation),
            Stage::Sent(operation, pending) => self.execute(operation, pending),
            Stage::Executed(operation, pending, outcome) => {
                if self.random.percent(12) {
                    return self.abandon(operation, pending);
                }
                pending.end(outcome);
                // A client that repeats a request although it has the response.
                let is_keyed = matches!(operation, Operation::Create { key: Some(_), .. });
                if is_keyed && self.random.percent(20) { Stage::Again(operation) } else { Stage::Idle }
            }
        }
    }

    fn send(&mut self, operation: Operation) -> Stage {
        let pending = self.history.begin(operation.clone());
        Stage::Sent(operation, pending)
    }

    fn execute(&mut self, operation: Operation, pending: Pending) -> Stage {
        if self.random.percent(5) {
            let status = self.random.pick([429, 503]).unwrap();
            pending.end(Outcome::Refused { status });
            return Stage::Idle;
        }
        if self.random.percent(10) {
            self.abandoned.push(operation.clone());
            return self.abandon(operation, pending);
        }
        let outcome = self.database.execute(&operation);
        Stage::Executed(operation, pending, outcome)
    }

    /// The client stops waiting, and may try again.
    fn abandon(&mut self, operation: Operation, pending: Pending) -> Stage {
        if self.random.percent(50) {
            pending.end(Outcome::Unknown);
        }
        if self.random.percent(60) { Stage::Again(operation) } else { Stage::Idle }
    }

    fn execute_abandoned(&mut self) {
        if !self.abandoned.is_empty() {
            let chosen = self.random.below(self.abandoned.len());
            let operation = self.abandoned.swap_remove(chosen);
            self.database.execute(&operation);
        }
        self.database.skip_position();
    }

    fn operation(&mut self) -> Operation {
        if self.random.percent(30) || self.database.users.is_empty() {
            self.keys += 1;
            let key = self.random.percent(40).then(|| format!("key-{}", self.keys));
            return Operation::Create { name: self.name(), email: self.email(), key };
        }
        let ids = self.database.users.keys().chain(self.database.deleted.iter().rev().take(2));
        let id = self.random.pick(ids.cloned().collect::<Vec<_>>()).unwrap();
        let current = self.database.users.get(&id).map_or(1, |user| user.version);
        let expected = match self.random.below(10) {
            0..4 => None,
            4 => Some(current - 1),
            5 => Some(current + 1),
            _ => Some(current),
        };
        match self.random.below(10) {
            0 | 1 => Operation::Delete { id, expected },
            2..5 => Operation::Update { id, expected, name: Some(self.name()), email: Some(self.email()) },
            5..8 => Operation::Update { id, expected, name: Some(self.name()), email: None },
            8 => Operation::Update { id, expected, name: None, email: Some(self.email()) },
            _ => Operation::Update { id, expected, name: None, email: None },
        }
    }

    /// Returns one of few names, so that some updates change nothing.
    fn name(&mut self) -> String {
        self.random.pick(["Ann", "Bob", "Carl"]).unwrap().to_owned()
    }

    /// Returns one of few emails, so that many are taken.
    fn email(&mut self) -> String {
        let name = self.random.pick(["ann", "ANN", "bob", "carl", "dora", "eve", "Eve", "finn"]).unwrap();
        format!("{name}@example.com")
    }
}
