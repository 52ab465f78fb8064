//! Everything at once: operations that fail, panic and are dropped, connections that are killed, limits that change.
//!
//! Short as a rule; `ORM_POOL_STORM_SECONDS` makes it longer, and `ORM_POOL_STORM_SEED` repeats the choices of a run, which
//! prints its own (not the order in which the machine runs them).

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
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
    cases, connect, eventually, kill_all, wanted,
};
use tokio::{sync::Barrier, task::JoinSet};

use crate::Context;

cases![a_storm_loses_nothing];

const TASKS: usize = 80;
const MAX: u32 = 12;

/// What is known of the rows of one task.
#[derive(Default)]
struct Ledger {
    /// Rows whose writing was acknowledged.
    stored: BTreeSet<i64>,
    /// Rows that were rolled back, or never begun.
    absent: BTreeSet<i64>,
    /// The first of two rows of one transaction.
    pairs: Vec<i64>,
}

/// Whether an error says for certain that nothing was written.
fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Refused { .. } | Error::Panicked { .. })
}

struct Sailor {
    pool: Pool,
    batch: Batch<i64, ()>,
    rng: Rng,
    /// Numbers of rows: of this task alone.
    next: i64,
    ledger: Ledger,
}

impl Sailor {
    fn row(&mut self) -> i64 {
        self.next += 1;
        self.next
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
                let row = self.row();
                let outcome = self.pool.write("storm.write", move |db| insert(db, row)).await;
                self.note(&[row], &outcome);
            }
            45..65 => {
                let row = self.row();
                let outcome = self.batch.load(row).await;
                self.note(&[row], &outcome);
            }
            65..80 => self.pair().await,
            80..85 => self.rolled_back().await,
            85..88 => self.panicked().await,
            88..90 => self.begun_past_the_pool().await,
            90..94 => self.guarded().await,
            _ => self.dropped().await,
        }
    }

    fn note(&mut self, rows: &[i64], outcome: &Result<(), Error>) {
        match outcome {
            Ok(()) => self.ledger.stored.extend(rows),
            Err(error) if is_refusal(error) => self.ledger.absent.extend(rows),
            Err(_) => {}
        }
    }

    /// Two rows, the second one inside a savepoint.
    async fn pair(&mut self) {
        let (one, two) = (self.row(), self.row());
        self.ledger.pairs.push(one);
        let body = move |tx: Connection| async move {
            insert(tx.clone(), one).await?;
            let inner = tx.begin().await?;
            inner.execute_unprepared(&format!("INSERT INTO ledger VALUES ({two})")).await?;
            inner.commit().await?;
            Ok(())
        };
        let outcome = self.pool.transaction("storm.pair", body).await;
        self.note(&[one, two], &outcome);
    }

    async fn rolled_back(&mut self) {
        let row = self.row();
        let body = move |tx: Connection| async move {
            insert(tx, row).await?;
            Err::<(), _>(Error::Database(DbErr::Custom("enough".to_owned())))
        };
        let outcome = self.pool.transaction("storm.rollback", body).await;
        assert!(outcome.is_err());
        self.ledger.absent.insert(row);
    }

    async fn panicked(&mut self) {
        let row = self.row();
        let body = move |tx: Connection| async move {
            insert(tx, row).await?;
            // Without a word, as there are thousands of them.
            std::panic::resume_unwind(Box::new("a bug of the storm"));
            #[expect(unreachable_code, reason = "it has a type")]
            Ok::<(), Error>(())
        };
        let outcome = self.pool.transaction("storm.panic", body).await;
        assert!(outcome.is_err());
        self.ledger.absent.insert(row);
    }

    async fn begun_past_the_pool(&mut self) {
        let row = self.row();
        let body = move |db: Connection| async move {
            db.execute_unprepared("BEGIN").await?;
            insert(db, row).await
        };
        let _ = self.pool.write("storm.careless", body).await;
        self.ledger.absent.insert(row);
    }

    /// Two rows in a transaction of a guard, which is dropped half-way one time in two.
    async fn guarded(&mut self) {
        let (one, two) = (self.row(), self.row());
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
            self.note(&[one, two], &outcome);
        } else {
            self.ledger.absent.extend([one, two]);
        }
    }

    /// The caller goes away; what has begun runs to its end.
    async fn dropped(&mut self) {
        let (one, two) = (self.row(), self.row());
        self.ledger.pairs.push(one);
        let body = move |tx: Connection| async move {
            insert(tx.clone(), one).await?;
            insert(tx, two).await
        };
        let patience = Duration::from_micros(self.rng.u64(..5000));
        let work = self.pool.transaction("storm.dropped", body);
        if let Ok(outcome) = tokio::time::timeout(patience, work).await {
            self.note(&[one, two], &outcome);
        }
    }
}

async fn insert(db: Connection, row: i64) -> Result<(), Error> {
    Ok(db.execute_unprepared(&format!("INSERT INTO ledger VALUES ({row})")).await.map(drop)?)
}

async fn a_storm_loses_nothing(context: Context) {
    let seconds: u64 = wanted("ORM_POOL_STORM_SECONDS", 5);
    let seed: u64 = wanted("ORM_POOL_STORM_SEED", fastrand::u64(..));
    println!("{}: ORM_POOL_STORM_SEED={seed}", context.engine().name());
    let options =
        PoolOptions::default().max(MAX).min(2).acquire(Duration::from_secs(20)).outage_wait(Duration::from_secs(2));
    let pool = pool(&context, options.clone()).await;
    run(&pool, "CREATE TABLE ledger (id BIGINT PRIMARY KEY)").await;
    let batch = pool.batch_writes("storm.batch", |db: Connection, keys: Arc<[i64]>| async move {
        for key in keys.iter() {
            db.execute_unprepared(&format!("INSERT INTO ledger VALUES ({key})")).await?;
        }
        Ok(vec![(); keys.len()])
    });
    let is_over = Arc::new(AtomicBool::new(false));
    let ledgers: Arc<Mutex<Vec<Ledger>>> = Arc::default();
    let mut sailors = JoinSet::new();
    for task in 0..TASKS {
        let mut sailor = Sailor {
            pool: pool.clone(),
            batch: batch.clone(),
            rng: Rng::with_seed(seed.wrapping_add(task as u64)),
            next: i64::try_from(task).unwrap() * 10_000_000,
            ledger: Ledger::default(),
        };
        let (is_over, ledgers) = (Arc::clone(&is_over), Arc::clone(&ledgers));
        sailors.spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                let request = RequestContext::new("storm").timeout(Duration::from_secs(20));
                request.scope(sailor.step()).await;
            }
            ledgers.lock().unwrap().push(sailor.ledger);
        });
    }
    disturb(&context, &pool, &options, &mut Rng::with_seed(seed), Duration::from_secs(seconds)).await;
    is_over.store(true, Ordering::Relaxed);
    while let Some(ended) = sailors.join_next().await {
        ended.unwrap();
    }
    check_permits(&context, &pool, &options).await;
    let stored = stored(&context).await;
    let (mut acknowledged, mut written) = (0, 0);
    for ledger in ledgers.lock().unwrap().iter() {
        acknowledged += ledger.stored.len();
        let lost: Vec<_> = ledger.stored.difference(&stored).collect();
        assert!(lost.is_empty(), "acknowledged and not stored: {lost:?}");
        let kept: Vec<_> = ledger.absent.intersection(&stored).collect();
        assert!(kept.is_empty(), "rolled back and stored: {kept:?}");
        for one in &ledger.pairs {
            let both = (stored.contains(one), stored.contains(&(one + 1)));
            assert_eq!(both.0, both.1, "half of a transaction: {one}");
            written += usize::from(both.0);
        }
    }
    println!(
        "{}: {acknowledged} rows acknowledged, {written} pairs, {:?}",
        context.engine().name(),
        pool.snapshot().counters
    );
    assert!(acknowledged > 100, "hardly anything was done");
    end(pool).await;
}

/// Kills connections and changes limits.
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

/// No permit is lost or made up: as many operations as `max` run at the same time, and no more.
async fn check_permits(context: &Context, pool: &Pool, options: &PoolOptions) {
    let url = DatabaseUrl::parse(&context.last_database()).unwrap();
    pool.reconfigure(&url, options).await.unwrap();
    // What was dropped still runs to its end.
    let idle = || async {
        let status = pool.status();
        (status.in_use == 0 && status.waiting == 0).then_some(())
    };
    eventually("nothing runs and nothing waits", idle).await;
    let met = Arc::new(Barrier::new(MAX as usize));
    let mut all = JoinSet::new();
    for _ in 0..MAX {
        let (pool, met) = (pool.clone(), Arc::clone(&met));
        all.spawn(async move {
            let body = move |_| {
                let met = Arc::clone(&met);
                async move {
                    met.wait().await;
                    Ok::<_, Error>(())
                }
            };
            pool.read("storm.meet", body).await
        });
    }
    while let Some(one) = all.join_next().await {
        let outcome = one.unwrap();
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
