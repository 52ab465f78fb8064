//! Property test: random events on the queue, checked against a model of every operation.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// Events in the life of a pool.
#[derive(Clone, Debug)]
enum Event {
    Arrive(Access),
    /// A waiter, counted from the oldest, is cancelled.
    Cancel(usize),
    /// A holder returns its connection.
    Return(usize),
    /// A holder's connection is lost.
    Lose(usize),
    /// A connection is opened, if the limit allows it.
    Open,
    /// An idle connection is closed.
    CloseIdle,
    Resize(u32),
    /// Time passes, in milliseconds.
    Sleep(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => prop_oneof![Just(Access::Read), Just(Access::Write)].prop_map(Event::Arrive),
        2 => (0..8_usize).prop_map(Event::Cancel),
        5 => (0..8_usize).prop_map(Event::Return),
        1 => (0..8_usize).prop_map(Event::Lose),
        4 => Just(Event::Open),
        1 => Just(Event::CloseIdle),
        1 => (1..6_u32).prop_map(Event::Resize),
        1 => (1..80_u64).prop_map(Event::Sleep),
    ]
}

type Outcome = (usize, Result<Admitted<u64>, AcquireError>);

/// The pool, and the known state of every operation.
struct Model {
    rig: Arc<Rig>,
    next: usize,
    waiting: BTreeMap<usize, (Access, JoinHandle<()>)>,
    // Results of waiting operations, in the order in which they arrived.
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    holding: BTreeMap<usize, (Access, Admitted<u64>)>,
}

impl Model {
    fn new(engine: Engine, options: PoolOptions) -> Self {
        Self {
            rig: Rig::new(engine, options),
            next: 0,
            waiting: BTreeMap::new(),
            outcomes: Arc::default(),
            holding: BTreeMap::new(),
        }
    }

    async fn apply(&mut self, event: Event) {
        match event {
            Event::Arrive(access) => {
                let (rig, outcomes, number) = (Arc::clone(&self.rig), Arc::clone(&self.outcomes), self.next);
                self.next += 1;
                let waiting = tokio::spawn(async move {
                    let outcome = rig.acquire(access).await;
                    outcomes.lock().unwrap().push((number, outcome));
                });
                self.waiting.insert(number, (access, waiting));
            }
            Event::Cancel(index) => {
                if let Some(number) = self.waiting.keys().nth(index).copied() {
                    let (_, waiting) = self.waiting.remove(&number).unwrap();
                    waiting.abort();
                    let _ = waiting.await;
                }
            }
            Event::Return(index) => {
                if let Some(number) = self.holding.keys().nth(index).copied() {
                    let (_, taken) = self.holding.remove(&number).unwrap();
                    self.rig.leave(taken);
                }
            }
            Event::Lose(index) => {
                if let Some(number) = self.holding.keys().nth(index).copied() {
                    let (_, taken) = self.holding.remove(&number).unwrap();
                    self.lose(&taken);
                }
            }
            Event::Open => {
                self.rig.open();
            }
            Event::CloseIdle => {
                // Not every idle connection is wanted.
                if self.rig.admission.take_idle_if(|entry| entry.id.is_multiple_of(2)).is_some() {
                    self.rig.admission.connections().discard();
                }
            }
            Event::Resize(max) => self.rig.admission.connections().set_max(max),
            Event::Sleep(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
        }
        self.settle().await;
    }

    fn lose(&self, taken: &Admitted<u64>) {
        let connections = self.rig.admission.connections();
        connections.release(taken.entry.id);
        connections.discard();
    }

    /// Lets all operations proceed as far as they can, and records their results.
    async fn settle(&mut self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let outcomes = std::mem::take(&mut *self.outcomes.lock().unwrap());
        for (number, outcome) in outcomes {
            let (access, _) = self.waiting.remove(&number).unwrap();
            if let Ok(taken) = outcome {
                // Operations of the same kind that arrived earlier were served earlier.
                let overtaken =
                    self.waiting.iter().find(|(earlier, (other, _))| **earlier < number && *other == access);
                assert!(overtaken.is_none(), "{number} overtook {overtaken:?}");
                self.holding.insert(number, (access, taken));
            }
        }
        self.check();
    }

    fn check(&self) {
        let options = &self.rig.options;
        let admission = &self.rig.admission;
        let counts = admission.connections().counts();
        let ids: BTreeSet<u64> = self.holding.values().map(|(_, taken)| taken.entry.id).collect();
        assert_eq!(ids.len(), self.holding.len(), "a connection has two holders");
        assert_eq!(counts.in_use as usize, self.holding.len(), "a holder was lost");
        assert_eq!(counts.open, counts.idle + counts.in_use, "a connection was lost");
        assert_eq!(admission.ready.available_permits(), counts.idle as usize, "a permit was lost or duplicated");
        assert!(admission.pending() == 0 || counts.idle == 0, "an operation waits while a connection is idle");
        assert_eq!(admission.waiting() as usize, self.waiting.len(), "the queue is miscounted");
        let bound = options.queue_limit + 5;
        assert!(self.waiting.len() <= bound, "the queue exceeds its limit");
        if admission.writer.is_some() {
            let writers = self.holding.values().filter(|(access, _)| *access == Access::Write).count();
            assert!(writers <= 1, "{writers} write at the same time");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// In any order of events: no connection and no permit is lost or duplicated, no operation waits while a connection
    /// is idle, none overtakes another, and the queue stays within its limit.
    #[test]
    fn no_order_of_events_loses_a_connection_or_a_permit(
        events in prop::collection::vec(event(), 1..120),
        max in 1..5_u32,
        queue_limit in 1..6_usize,
        is_sqlite in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let engine = if is_sqlite { Engine::Sqlite } else { Engine::Postgres };
            let acquire = Duration::from_millis(100);
            let mut model = Model::new(engine, PoolOptions { max, min: 0, queue_limit, acquire, ..PoolOptions::default() });
            for event in events {
                model.apply(event).await;
            }
            // The remaining operations are served one after the other.
            model.apply(Event::Resize(1)).await;
            while !model.holding.is_empty() || !model.waiting.is_empty() {
                model.apply(Event::Return(0)).await;
                model.apply(Event::Open).await;
            }
            let counts = model.rig.admission.connections().counts();
            assert_eq!((counts.in_use, counts.open), (0, counts.idle));
        });
    }
}
