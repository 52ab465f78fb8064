//! The queue under random events, against what is known of everybody who ever arrived.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What may happen to a pool, in any order.
#[derive(Clone, Debug)]
enum Event {
    Arrive(Access),
    /// A waiter, counted from the oldest, goes away.
    Vanish(usize),
    /// A holder gives its connection back.
    Leave(usize),
    /// A holder's connection dies.
    Die(usize),
    /// A connection is opened, if there may be one more.
    Open,
    /// A resting connection is closed.
    Retire,
    Resize(u32),
    /// Time passes, in milliseconds.
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => prop_oneof![Just(Access::Read), Just(Access::Write)].prop_map(Event::Arrive),
        2 => (0..8_usize).prop_map(Event::Vanish),
        5 => (0..8_usize).prop_map(Event::Leave),
        1 => (0..8_usize).prop_map(Event::Die),
        4 => Just(Event::Open),
        1 => Just(Event::Retire),
        1 => (1..6_u32).prop_map(Event::Resize),
        1 => (1..80_u64).prop_map(Event::Pass),
    ]
}

type Outcome = (usize, Result<Admitted<u64>, AcquireError>);

/// The pool, and what is known of everybody who ever arrived.
struct Model {
    rig: Arc<Rig>,
    next: usize,
    waiting: BTreeMap<usize, (Access, JoinHandle<()>)>,
    // What became of those who waited, in the order in which it did.
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

    async fn happens(&mut self, event: Event) {
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
            Event::Vanish(index) => {
                if let Some(number) = self.waiting.keys().nth(index).copied() {
                    let (_, waiting) = self.waiting.remove(&number).unwrap();
                    waiting.abort();
                    let _ = waiting.await;
                }
            }
            Event::Leave(index) => {
                if let Some(number) = self.holding.keys().nth(index).copied() {
                    let (_, taken) = self.holding.remove(&number).unwrap();
                    self.rig.leave(taken);
                }
            }
            Event::Die(index) => {
                if let Some(number) = self.holding.keys().nth(index).copied() {
                    let (_, taken) = self.holding.remove(&number).unwrap();
                    self.loses(&taken);
                }
            }
            Event::Open => {
                self.rig.open();
            }
            Event::Retire => {
                // Not every one that rests is wanted.
                if self.rig.admission.take_idle_if(|entry| entry.id.is_multiple_of(2)).is_some() {
                    self.rig.admission.connections().discard();
                }
            }
            Event::Resize(max) => self.rig.admission.connections().set_max(max),
            Event::Pass(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
        }
        self.settle().await;
    }

    fn loses(&self, taken: &Admitted<u64>) {
        let connections = self.rig.admission.connections();
        connections.release(taken.entry.id);
        connections.discard();
    }

    /// Lets everybody go as far as they can, and sees what became of them.
    async fn settle(&mut self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let outcomes = std::mem::take(&mut *self.outcomes.lock().unwrap());
        for (number, outcome) in outcomes {
            let (access, _) = self.waiting.remove(&number).unwrap();
            if let Ok(taken) = outcome {
                // Whoever asks for the same and came earlier was served earlier.
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
        assert_eq!(admission.ready.available_permits(), counts.idle as usize, "a permit was lost or made up");
        assert!(admission.pending() == 0 || counts.idle == 0, "somebody waits while a connection rests");
        assert_eq!(admission.waiting() as usize, self.waiting.len(), "the queue is miscounted");
        let bound = options.queue_limit + 5;
        assert!(self.waiting.len() <= bound, "the queue is longer than it may be");
        if admission.writer.is_some() {
            let writers = self.holding.values().filter(|(access, _)| *access == Access::Write).count();
            assert!(writers <= 1, "{writers} write at the same time");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happens, in whatever order: no connection and no permit is lost or made up, nobody has to wait while one
    /// rests, nobody is overtaken, and the queue keeps its bound.
    #[test]
    fn whatever_happens_nothing_is_lost(
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
                model.happens(event).await;
            }
            // Everybody gets what is left of the pool, one after the other.
            model.happens(Event::Resize(1)).await;
            while !model.holding.is_empty() || !model.waiting.is_empty() {
                model.happens(Event::Leave(0)).await;
                model.happens(Event::Open).await;
            }
            let counts = model.rig.admission.connections().counts();
            assert_eq!((counts.in_use, counts.open), (0, counts.idle));
        });
    }
}
