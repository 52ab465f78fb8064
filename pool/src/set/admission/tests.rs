//! Tests the queue without a database: a connection is a number.

mod model;

use std::sync::atomic::{AtomicBool, AtomicUsize};

use tokio::task::JoinHandle;

use super::*;
use crate::{clock::Clock, context::RequestContext};

/// An admission with everything that it needs.
struct Rig {
    admission: Admission<u64>,
    health: Health,
    options: PoolOptions,
    mean_hold: Duration,
}

impl Rig {
    fn new(engine: Engine, options: PoolOptions) -> Arc<Self> {
        Self::with_hold(engine, options, Duration::ZERO)
    }

    fn with_hold(engine: Engine, options: PoolOptions, mean_hold: Duration) -> Arc<Self> {
        let admission = Admission::new(options.max, engine);
        Arc::new(Self { admission, health: Health::new(Clock::start()), options, mean_hold })
    }

    /// Like [`Rig::new`], with all connections open.
    fn full(engine: Engine, options: PoolOptions) -> Arc<Self> {
        let rig = Self::new(engine, options);
        while rig.open() {}
        rig
    }

    fn open(&self) -> bool {
        let connections = self.admission.connections();
        if connections.reserve(|counts| counts.room().min(1)) == 0 {
            return false;
        }
        self.check_in(connections.add(0, 0));
        true
    }

    fn check_in(&self, entry: PoolEntry<u64>) {
        if self.admission.check_in(entry, Duration::ZERO, 0).is_err() {
            self.admission.connections().closed();
        }
    }

    async fn acquire(&self, access: Access) -> Result<Admitted<u64>, AcquireError> {
        let params =
            AdmissionParams { options: &self.options, health: &self.health, mean_hold: self.mean_hold, demand: &|| {} };
        self.admission.acquire(&OperationContext::new("test"), access, &params).await
    }

    fn leave(&self, admitted: Admitted<u64>) {
        self.admission.connections().release(admitted.entry.id);
        self.check_in(admitted.entry);
    }

    fn arrive(self: &Arc<Self>, access: Access) -> JoinHandle<Result<(), AcquireError>> {
        let rig = Arc::clone(self);
        tokio::spawn(async move { rig.acquire(access).await.map(|admitted| rig.leave(admitted)) })
    }
}

fn small() -> PoolOptions {
    PoolOptions { max: 1, min: 0, queue_limit: 1, acquire: Duration::from_secs(5), ..PoolOptions::default() }
}

async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_beyond_the_queue_limit_is_refused() {
    let rig = Rig::full(Engine::Postgres, small());
    let held = rig.acquire(Access::Read).await.unwrap();
    let queued = rig.arrive(Access::Read);
    until(|| rig.admission.waiting() == 1).await;
    assert_eq!(rig.acquire(Access::Read).await.err(), Some(AcquireError::QueueFull { limit: 1 }));
    assert_eq!(rig.admission.waiting(), 1, "a refused operation is not in the queue");
    rig.leave(held);
    assert_eq!(queued.await.unwrap(), Ok(()));
    assert_eq!((rig.admission.connections().counts().in_use, rig.admission.waiting()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn operations_with_a_connection_being_opened_do_not_count_against_the_queue() {
    let rig = Rig::new(Engine::Postgres, PoolOptions { max: 2, wait: false, ..small() });
    let (first, second) = (rig.arrive(Access::Read), rig.arrive(Access::Read));
    until(|| rig.admission.pending() == 2).await;
    assert_eq!(rig.acquire(Access::Read).await.err(), Some(AcquireError::AllInUse));
    while rig.open() {}
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (Ok(()), Ok(())));
}

#[tokio::test(start_paused = true)]
async fn a_queue_limit_of_zero_is_no_limit() {
    let rig = Rig::full(Engine::Postgres, PoolOptions { queue_limit: 0, ..small() });
    let held = rig.acquire(Access::Read).await.unwrap();
    let queued: Vec<_> = (0..50).map(|_| rig.arrive(Access::Read)).collect();
    until(|| rig.admission.waiting() == 50).await;
    rig.leave(held);
    for waiter in queued {
        assert_eq!(waiter.await.unwrap(), Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_at_the_acquire_timeout_or_the_deadline_of_the_request() {
    let rig = Rig::full(Engine::Postgres, small());
    let _held = rig.acquire(Access::Read).await.unwrap();
    let began = Instant::now();
    let refused = rig.acquire(Access::Read).await.err();
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    assert!(matches!(refused, Some(AcquireError::TimedOut { .. })), "{refused:?}");
    let with_deadline = RequestContext::new("test").timeout(Duration::from_secs(1));
    let refused = with_deadline.scope(rig.acquire(Access::Read)).await.err();
    assert_eq!(began.elapsed(), Duration::from_secs(6));
    assert!(matches!(refused, Some(AcquireError::TimedOut { .. })), "{refused:?}");
    assert_eq!(rig.admission.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn operations_that_cannot_be_served_in_time_are_refused_on_arrival() {
    let options = PoolOptions { queue_limit: 0, ..small() };
    let rig = Rig::with_hold(Engine::Postgres, options, Duration::from_secs(2));
    rig.open();
    let _held = rig.acquire(Access::Read).await.unwrap();
    // Two seconds for each operation ahead, and an acquire timeout of five.
    let queued = [rig.arrive(Access::Read), rig.arrive(Access::Read)];
    until(|| rig.admission.waiting() == 2).await;
    let began = Instant::now();
    let refused = rig.acquire(Access::Read).await.err();
    assert_eq!(
        (began.elapsed(), refused),
        (Duration::ZERO, Some(AcquireError::TooLate { predicted: Duration::from_secs(6) }))
    );
    drop(queued);
}

#[tokio::test]
async fn without_waiting_a_full_pool_refuses_immediately() {
    let rig = Rig::full(Engine::Postgres, PoolOptions { wait: false, ..small() });
    let _held = rig.acquire(Access::Read).await.unwrap();
    assert_eq!(rig.acquire(Access::Read).await.err(), Some(AcquireError::AllInUse));
}

#[tokio::test(start_paused = true)]
async fn on_sqlite_writers_wait_for_each_other_and_readers_do_not() {
    let rig = Rig::full(Engine::Sqlite, PoolOptions { max: 2, queue_limit: 8, ..small() });
    let writing = rig.acquire(Access::Write).await.unwrap();
    let second = rig.arrive(Access::Write);
    until(|| rig.admission.waiting() == 1).await;
    assert!(rig.acquire(Access::Read).await.is_ok(), "a waiting writer holds no connection");
    rig.leave(writing);
    assert_eq!(second.await.unwrap(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn closing_refuses_waiting_operations() {
    let rig = Rig::full(Engine::Postgres, small());
    let held = rig.acquire(Access::Read).await.unwrap();
    let queued = rig.arrive(Access::Read);
    until(|| rig.admission.waiting() == 1).await;
    drop(rig.admission.close());
    assert_eq!(queued.await.unwrap(), Err(AcquireError::Closing));
    assert_eq!(rig.acquire(Access::Read).await.err(), Some(AcquireError::Closing));
    rig.leave(held);
    assert_eq!(rig.admission.connections().counts().open, 0, "a connection that is returned after close is closed");
}

/// On several threads, with real interleavings.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_operations_never_exceed_max() {
    const MAX: u32 = 3;
    let rig = Rig::full(Engine::Postgres, PoolOptions { max: MAX, min: 0, queue_limit: 0, ..PoolOptions::default() });
    let (current, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let ended = Arc::new(AtomicBool::new(false));
    let housekeeper = tokio::spawn({
        let (rig, ended) = (Arc::clone(&rig), Arc::clone(&ended));
        async move {
            while !ended.load(Ordering::Relaxed) {
                if let Some(entry) = rig.admission.take_idle_if(|_| true) {
                    tokio::task::yield_now().await;
                    rig.check_in(entry);
                }
                tokio::task::yield_now().await;
            }
        }
    });
    let users = (0..32).map(|user| {
        let (rig, current, peak) = (Arc::clone(&rig), Arc::clone(&current), Arc::clone(&peak));
        tokio::spawn(async move {
            for round in 0..500 {
                if (user + round) % 7 == 0 {
                    // Cancelled immediately, whether it has been served or not.
                    let outcome = tokio::time::timeout(Duration::ZERO, rig.acquire(Access::Read)).await;
                    if let Ok(taken) = outcome {
                        rig.leave(taken.unwrap());
                    }
                    continue;
                }
                let taken = rig.acquire(Access::Read).await.unwrap();
                peak.fetch_max(current.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                current.fetch_sub(1, Ordering::SeqCst);
                rig.leave(taken);
            }
        })
    });
    for user in users.collect::<Vec<_>>() {
        user.await.unwrap();
    }
    ended.store(true, Ordering::Relaxed);
    housekeeper.await.unwrap();
    assert!(peak.load(Ordering::SeqCst) <= MAX as usize);
    let counts = rig.admission.connections().counts();
    assert_eq!((counts.idle, counts.open, counts.in_use), (MAX, MAX, 0));
    assert_eq!(rig.admission.ready.available_permits(), MAX as usize);
}

#[tokio::test(start_paused = true)]
async fn batched_operations_are_served_together() {
    let options = PoolOptions { queue_limit: 0, batch_max: 8, ..small() };
    let rig = Rig::with_hold(Engine::Postgres, options.clone(), Duration::from_secs(1));
    rig.open();
    let _held = rig.acquire(Access::Read).await.unwrap();
    let limit = Instant::now() + options.acquire;
    let params =
        AdmissionParams { options: &rig.options, health: &rig.health, mean_hold: rig.mean_hold, demand: &|| {} };
    let join = |kind| rig.admission.join(&OperationContext::new("test"), Access::Read, kind, &params, limit);
    // Five seconds are four rounds of eight, and one more.
    let batched: Vec<_> = (0..33).map(|_| join(WaiterKind::Batched).unwrap()).collect();
    assert_eq!(join(WaiterKind::Single), Err(AcquireError::TooLate { predicted: Duration::from_secs(6) }));
    rig.admission.leave(batched);
    let single: Vec<_> = (0..5).map(|_| join(WaiterKind::Single).unwrap()).collect();
    assert!(
        matches!(join(WaiterKind::Batched), Err(AcquireError::TooLate { .. })),
        "a single waiter takes a whole round"
    );
    rig.admission.leave(single);
    assert_eq!(rig.admission.waiting(), 0);
}
