//! A stress test: operations fail, panic and are dropped while connections are killed and limits change.
//!
//! `ORM_POOL_STORM_SECONDS` sets its duration. `ORM_POOL_STORM_SEED` repeats the random choices of a run, but not their
//! interleaving; each run prints its seed.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use orm_pool::{AcquireError, Batch, Connection, DatabaseUrl, Error, Pool, PoolOptions, RequestContext};
use sea_orm::{ConnectionTrait, DbErr, Statement, TransactionSession, TransactionTrait};
use test_support::{
    Engine,
    bare::{end, pool, run},
    cases, connect, env_or, eventually, kill_all,
};
use tokio::{sync::Barrier, task::JoinSet};

use crate::Context;

cases![failures_lose_no_writes_and_no_permits];

const TASKS: usize = 80;
const MAX: u32 = 12;

/// The expected rows of one task.
#[derive(Default)]
struct Ledger {
    /// Rows whose write was acknowledged.
    stored: BTreeSet<i64>,
    /// Rows that were rolled back or never written.
    absent: BTreeSet<i64>,
    /// The first row of each transaction of two rows.
    pairs: Vec<i64>,
}

/// Whether an error guarantees that nothing was written.
fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Refused { .. } | Error::Panicked { .. })
}

struct Client {
    pool: Pool,
    batch: Batch<i64, ()>,
    rng: Rng,
    /// The last row number, from a range of this task.
    last_row: i64,
    ledger: Ledger,
}

impl Client {
    fn next_row(&mut self) -> i64 {
        self.last_row += 1;
        self.last_row
    }

    async fn step(&mut self) {
        match self.rng.u32(..100) {
            0..25 => {
                let read = |db: Connection| async move {
                    db.query_one_raw(Statement::from_string(db.get_database_backend(), "SELECT 1")).await?;
                    Ok::<_, Error>(())
                };
                let _ = self.pool.read("storm.read", read).await;
            }
            25..45 => {
                let row = self.next_row();
                let outcome = self.pool.write("storm.write", move |db| insert(db, row)).await;
                self.record(&[row], &outcome);
            }
            45..65 => {
                let row = self.next_row();
                let outcome = self.batch.load(row).await;
                self.record(&[row], &outcome);
            }
            65..80 => self.pair().await,
            80..85 => self.rolled_back().await,
            85..88 => self.panicked().await,
            88..90 => self.unmanaged_transaction().await,
            90..94 => self.guarded().await,
            _ => self.dropped().await,
        }
    }

    fn record(&mut self, rows: &[i64], outcome: &Result<(), Error>) {
        match outcome {
            Ok(()) => self.ledger.stored.extend(rows),
            Err(error) if is_refusal(error) => self.ledger.absent.extend(rows),
            Err(_) => {}
        }
    }

    /// Writes two rows in a transaction, the second one inside a savepoint.
    async fn pair(&mut self) {
        let (one, two) = (self.next_row(), self.next_row());
        self.ledger.pairs.push(one);
        let body = move |tx: Connection| async move {
            insert(tx.clone(), one).await?;
            let inner = tx.begin().await?;
            inner.execute_unprepared(&format!("INSERT INTO ledger VALUES ({two})")).await?;
            inner.commit().await?;
            Ok(())
        };
        let outcome = self.pool.transaction("storm.pair", body).await;
        self.record(&[one, two], &outcome);
    }

    async fn rolled_back(&mut self) {
        let row = self.next_row();
        let body = move |tx: Connection| async move {
            insert(tx, row).await?;
            Err::<(), _>(Error::Database(DbErr::Custom("rolled back".to_owned())))
        };
        let outcome = self.pool.transaction("storm.rollback", body).await;
        assert!(outcome.is_err());
        self.ledger.absent.insert(row);
    }

    async fn panicked(&mut self) {
        let row = self.next_row();
        let body = move |tx: Connection| async move {
            insert(tx, row).await?;
            // Without the panic hook, which would print thousands of messages.
            std::panic::resume_unwind(Box::new("a bug of the storm"));
            #[expect(unreachable_code, reason = "sets the type")]
            Ok::<(), Error>(())
        };
        let outcome = self.pool.transaction("storm.panic", body).await;
        assert!(outcome.is_err());
        self.ledger.absent.insert(row);
    }

    async fn unmanaged_transaction(&mut self) {
        let row = self.next_row();
        let body = move |db: Connection| async move {
            db.execute_unprepared("BEGIN").await?;
            insert(db, row).await
        };
        let _ = self.pool.write("storm.careless", body).await;
        self.ledger.absent.insert(row);
    }

    /// Writes two rows in a transaction of a guard, which is dropped before the commit half of the time.
    async fn guarded(&mut self) {
        let (one, two) = (self.next_row(), self.next_row());
        let commits = self.rng.bool();
        let guarded = async {
            let connection = self.pool.acquire("storm.guard").await?;
            let transaction = connection.begin().await?;
            for row in [one, two] {
                transaction.execute_unprepared(&format!("INSERT INTO ledger VALUES ({row})")).await?;
            }
            if commits {
                transaction.commit().await?;
            }
            Ok::<_, Error>(())
        };
        let outcome = guarded.await;
        if commits {
            self.ledger.pairs.push(one);
            self.record(&[one, two], &outcome);
        } else {
            self.ledger.absent.extend([one, two]);
        }
    }

    /// Drops a transaction after a random time. If it has begun, it runs to its end.
    async fn dropped(&mut self) {
        let (one, two) = (self.next_row(), self.next_row());
        self.ledger.pairs.push(one);
        let body = move |tx: Connection| async move {
            insert(tx.clone(), one).await?;
            insert(tx, two).await
        };
        let limit = Duration::from_micros(self.rng.u64(..5000));
        let transaction = self.pool.transaction("storm.dropped", body);
        if let Ok(outcome) = tokio::time::timeout(limit, transaction).await {
            self.record(&[one, two], &outcome);
        }
    }
}

async fn insert(db: Connection, row: i64) -> Result<(), Error> {
    Ok(db.execute_unprepared(&format!("INSERT INTO ledger VALUES ({row})")).await.map(drop)?)
}

async fn failures_lose_no_writes_and_no_permits(context: Context) {
    let seconds: u64 = env_or("ORM_POOL_STORM_SECONDS", 5);
    let seed: u64 = env_or("ORM_POOL_STORM_SEED", fastrand::u64(..));
    println!("{}: ORM_POOL_STORM_SEED={seed}", context.engine().name());
    let options =
        PoolOptions::default().max(MAX).min(2).acquire(Duration::from_secs(20)).outage_wait(Duration::from_secs(2));
    let pool = pool(&context, options.clone()).await;
    run(&pool, "CREATE TABLE ledger (id BIGINT PRIMARY KEY)").await;
    let is_over = Arc::new(AtomicBool::new(false));
    let clients = start_clients(&pool, seed, &is_over);
    disturb(&context, &pool, &options, &mut Rng::with_seed(seed), Duration::from_secs(seconds)).await;
    is_over.store(true, Ordering::Relaxed);
    let ledgers = clients.join_all().await;
    check_permits(&context, &pool, &options).await;
    let (acknowledged, pairs) = check_ledgers(&ledgers, &stored(&context).await);
    println!(
        "{}: {acknowledged} rows acknowledged, {pairs} pairs, {:?}",
        context.engine().name(),
        pool.snapshot().counters
    );
    assert!(acknowledged > 100, "too few rows were acknowledged");
    end(pool).await;
}

/// Starts clients that return their ledgers when the storm is over.
fn start_clients(pool: &Pool, seed: u64, is_over: &Arc<AtomicBool>) -> JoinSet<Ledger> {
    let batch = pool.batch_writes("storm.batch", |db: Connection, keys: Arc<[i64]>| async move {
        for key in keys.iter() {
            db.execute_unprepared(&format!("INSERT INTO ledger VALUES ({key})")).await?;
        }
        Ok(vec![(); keys.len()])
    });
    let mut clients = JoinSet::new();
    for task in 0..TASKS {
        let mut client = Client {
            pool: pool.clone(),
            batch: batch.clone(),
            rng: Rng::with_seed(seed.wrapping_add(task as u64)),
            last_row: i64::try_from(task).unwrap() * 10_000_000,
            ledger: Ledger::default(),
        };
        let is_over = Arc::clone(is_over);
        clients.spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                let request = RequestContext::new("storm").timeout(Duration::from_secs(20));
                request.scope(client.step()).await;
            }
            client.ledger
        });
    }
    clients
}

/// Compares the ledgers with the stored rows. Returns how many rows were acknowledged, and how many pairs are stored.
fn check_ledgers(ledgers: &[Ledger], stored: &BTreeSet<i64>) -> (usize, usize) {
    let (mut acknowledged, mut pairs) = (0, 0);
    for ledger in ledgers {
        acknowledged += ledger.stored.len();
        let lost: Vec<_> = ledger.stored.difference(stored).collect();
        assert!(lost.is_empty(), "acknowledged but not stored: {lost:?}");
        let kept: Vec<_> = ledger.absent.intersection(stored).collect();
        assert!(kept.is_empty(), "rolled back but stored: {kept:?}");
        for first in &ledger.pairs {
            let both = (stored.contains(first), stored.contains(&(first + 1)));
            assert_eq!(both.0, both.1, "only half of a transaction is stored: {first}");
            pairs += usize::from(both.0);
        }
    }
    (acknowledged, pairs)
}

/// Kills connections and changes limits until the time is over.
async fn disturb(context: &Context, pool: &Pool, options: &PoolOptions, rng: &mut Rng, time: Duration) {
    let url = DatabaseUrl::parse(&context.last_database()).unwrap();
    let admin = match context.engine() {
        Engine::Sqlite => None,
        engine => Some(connect(&engine.admin_url()).await),
    };
    let until = tokio::time::Instant::now() + time;
    while tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(rng.u64(20..200))).await;
        let max = rng.u32(1..=MAX);
        let changed = options
            .clone()
            .max(max)
            .min(rng.u32(..=max))
            .bulk_share(rng.u32(1..=100))
            .batch(rng.bool())
            .idle(Duration::from_millis(rng.u64(50..1000)))
            .lifetime(Duration::from_millis(rng.u64(50..2000)));
        pool.reconfigure(&url, &changed).await.unwrap();
        if let Some(admin) = &admin
            && rng.bool()
        {
            kill_all(context, admin, &context.last_database()).await;
        }
    }
    if let Some(admin) = admin {
        admin.close().await.unwrap();
    }
}

/// Checks that no permit was lost or duplicated: exactly `max` operations run at the same time.
async fn check_permits(context: &Context, pool: &Pool, options: &PoolOptions) {
    let url = DatabaseUrl::parse(&context.last_database()).unwrap();
    pool.reconfigure(&url, options).await.unwrap();
    // Dropped operations still run to their end.
    let is_idle = || async {
        let status = pool.status();
        (status.in_use == 0 && status.waiting == 0).then_some(())
    };
    eventually("nothing runs and nothing waits", is_idle).await;
    let barrier = Arc::new(Barrier::new(MAX as usize));
    let mut all = JoinSet::new();
    for _ in 0..MAX {
        let (pool, barrier) = (pool.clone(), Arc::clone(&barrier));
        all.spawn(async move {
            let body = move |_| {
                let barrier = Arc::clone(&barrier);
                async move {
                    barrier.wait().await;
                    Ok::<_, Error>(())
                }
            };
            pool.read("storm.meet", body).await
        });
    }
    while let Some(joined) = all.join_next().await {
        let outcome = joined.unwrap();
        assert!(!matches!(outcome, Err(Error::Refused { reason: AcquireError::TimedOut { .. }, .. })), "{outcome:?}");
        outcome.unwrap();
    }
    let status = pool.status();
    assert!(status.total <= MAX, "{status:?}");
}

async fn stored(context: &Context) -> BTreeSet<i64> {
    let outside = connect(&context.last_database()).await;
    let rows = Statement::from_string(outside.get_database_backend(), "SELECT id FROM ledger");
    let rows = outside.query_all_raw(rows).await.unwrap();
    outside.close().await.unwrap();
    rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
}
