//! What callers experience during an outage of the database and after connections have gone silent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use uuid::Uuid;

use crate::{load::RandomIds, pools::Pool, proxy::Proxy};

/// The timeout of each read at its caller, like the request timeout of an HTTP server.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause of a caller after an error.
const RETRY_PAUSE: Duration = Duration::from_millis(5);
/// Load before the failure.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long the database is unreachable.
const OUTAGE: Duration = Duration::from_secs(5);
/// How long a pool has to recover after the outage.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(15);
/// The number of successes after an outage that count as recovery.
const SUCCESSES: usize = 64;
/// How long the load continues after connections have gone silent.
const SILENCE: Duration = Duration::from_secs(15);
/// The time in which one-second statements, one per connection, have to finish. They can only if they run concurrently.
const SLEEP_TIMEOUT: Duration = Duration::from_millis(2500);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

#[derive(Serialize)]
pub struct Outage {
    /// From the end of the outage to the first success.
    first_success_s: Option<f64>,
    /// From the end of the outage to the 64th success.
    steady_success_s: Option<f64>,
    /// Reads that began during the outage and failed.
    errors: usize,
    /// How long the callers of these reads waited.
    error_p50_ms: Option<f64>,
}

#[derive(Serialize)]
pub struct Silence {
    /// From the start of the silence to the first success of a read that began after it.
    first_success_s: Option<f64>,
    /// Connections that are usable at the same time after the load.
    connections_left: usize,
}

/// Measures an outage: the proxy resets all connections and refuses new ones for five seconds.
pub async fn outage<P: Pool>(pool: Arc<P>, proxy: &Proxy, ids: Arc<[Uuid]>, tasks: usize) -> Result<Outage> {
    let readers = Readers::start(&pool, &ids, tasks).await?;
    let closed = Instant::now();
    proxy.close().await?;
    sleep(OUTAGE).await;
    let opened = Instant::now();
    proxy.open().await?;
    let enough = readers.successes() + SUCCESSES;
    while readers.successes() < enough && opened.elapsed() < RECOVERY_TIMEOUT {
        sleep(POLL_INTERVAL).await;
    }
    let reads = readers.stop().await?;
    let mut successes: Vec<Duration> = reads
        .iter()
        .filter(|read| read.is_success)
        .filter_map(|read| read.ended.checked_duration_since(opened))
        .collect();
    successes.sort_unstable();
    let failed = reads.iter().filter(|read| !read.is_success && (closed..opened).contains(&read.began));
    let mut waits: Vec<Duration> = failed.map(|read| read.ended - read.began).collect();
    waits.sort_unstable();
    Ok(Outage {
        first_success_s: successes.first().map(Duration::as_secs_f64),
        steady_success_s: successes.get(SUCCESSES - 1).map(Duration::as_secs_f64),
        errors: waits.len(),
        error_p50_ms: waits.get(waits.len() / 2).map(|wait| wait.as_secs_f64() * 1e3),
    })
}

/// Measures silent connections: the proxy discards all data on the open connections and forwards new ones.
pub async fn silence<P: Pool>(
    pool: Arc<P>,
    proxy: &Proxy,
    ids: Arc<[Uuid]>,
    tasks: usize,
    connections: u32,
) -> Result<Silence> {
    let readers = Readers::start(&pool, &ids, tasks).await?;
    proxy.silence().await?;
    let silent = Instant::now();
    sleep(SILENCE).await;
    let reads = readers.stop().await?;
    let successes = reads.iter().filter(|read| read.is_success && read.began >= silent);
    let first = successes.map(|read| read.ended - silent).min();
    Ok(Silence {
        first_success_s: first.as_ref().map(Duration::as_secs_f64),
        connections_left: connections_left(&pool, connections).await,
    })
}

/// The number of connections that are usable at the same time.
async fn connections_left<P: Pool>(pool: &Arc<P>, connections: u32) -> usize {
    let mut sleeps = JoinSet::new();
    for _ in 0..connections {
        let pool = Arc::clone(pool);
        sleeps.spawn(async move { timeout(SLEEP_TIMEOUT, pool.sleep()).await });
    }
    let mut left = 0;
    while let Some(ended) = sleeps.join_next().await {
        left += usize::from(matches!(ended, Ok(Ok(Ok(())))));
    }
    left
}

/// Tasks that read in a loop and continue after errors.
struct Readers {
    tasks: JoinSet<Vec<Read>>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    is_over: AtomicBool,
    successes: AtomicUsize,
}

struct Read {
    began: Instant,
    ended: Instant,
    is_success: bool,
}

impl Readers {
    /// Starts the tasks and waits for [`WARM_UP`].
    async fn start<P: Pool>(pool: &Arc<P>, ids: &Arc<[Uuid]>, tasks: usize) -> Result<Self> {
        let mut readers = Self { tasks: JoinSet::new(), state: Arc::default() };
        for number in 0..tasks {
            let ids = RandomIds::of_task(number, Arc::clone(ids));
            readers.tasks.spawn(read(Arc::clone(pool), ids, Arc::clone(&readers.state)));
        }
        sleep(WARM_UP).await;
        ensure!(readers.successes() > 0, "no read succeeded");
        Ok(readers)
    }

    fn successes(&self) -> usize {
        self.state.successes.load(Ordering::Relaxed)
    }

    /// Waits until each task has finished its read, and returns all reads.
    async fn stop(mut self) -> Result<Vec<Read>> {
        self.state.is_over.store(true, Ordering::Relaxed);
        let mut reads = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            reads.extend(ended?);
        }
        Ok(reads)
    }
}

async fn read<P: Pool>(pool: Arc<P>, mut ids: RandomIds, state: Arc<State>) -> Vec<Read> {
    let mut reads = Vec::new();
    while !state.is_over.load(Ordering::Relaxed) {
        let began = Instant::now();
        let found = timeout(READ_TIMEOUT, pool.find(ids.next())).await;
        let ended = Instant::now();
        let is_success = matches!(found, Ok(Ok(Some(_))));
        reads.push(Read { began, ended, is_success });
        if is_success {
            state.successes.fetch_add(1, Ordering::Relaxed);
        } else {
            sleep(RETRY_PAUSE).await;
        }
    }
    reads
}
