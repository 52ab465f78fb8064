//! Throughput and latency of tasks that read in a loop.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::pools::Pool;

/// Load before the measurement.
const WARM_UP: Duration = Duration::from_secs(1);
/// The longest latency that is recorded exactly, in microseconds.
const MAX_LATENCY: u64 = 60_000_000;

#[derive(Serialize)]
pub struct Throughput {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// Measures the throughput of concurrent tasks that read in a loop. An error fails the measurement.
pub async fn throughput<P: Pool>(pool: Arc<P>, ids: Arc<[Uuid]>, tasks: usize, length: Duration) -> Result<Throughput> {
    let from = Instant::now() + WARM_UP;
    let window = from..from + length;
    let mut readers = JoinSet::new();
    for number in 0..tasks {
        readers.spawn(read(Arc::clone(&pool), Arc::clone(&ids), number, window.clone()));
    }
    let mut latencies = histogram()?;
    while let Some(ended) = readers.join_next().await {
        latencies.add(ended??)?;
    }
    ensure!(!latencies.is_empty(), "no read succeeded");
    let quantile = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Throughput {
        per_second: latencies.len() as f64 / length.as_secs_f64(),
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
    })
}

/// Reads in a loop and returns the latencies, in microseconds, of the reads that end within the window.
async fn read<P: Pool>(
    pool: Arc<P>,
    ids: Arc<[Uuid]>,
    number: usize,
    window: Range<Instant>,
) -> Result<Histogram<u64>> {
    let mut latencies = histogram()?;
    let mut ids = RandomIds::of_task(number, ids);
    loop {
        let id = ids.next();
        let began = Instant::now();
        let user = pool.find(id).await?.with_context(|| format!("row {id} not found"))?;
        let ended = Instant::now();
        ensure!(user.id == id, "requested row {id}, got {}", user.id);
        if ended >= window.end {
            return Ok(latencies);
        }
        if ended >= window.start {
            latencies.saturating_record(u64::try_from((ended - began).as_micros())?);
        }
    }
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, MAX_LATENCY, 3)?)
}

/// Random ids. A task gets the same ids with every pool.
pub struct RandomIds {
    ids: Arc<[Uuid]>,
    random: Rng,
}

impl RandomIds {
    pub fn of_task(number: usize, ids: Arc<[Uuid]>) -> Self {
        Self { ids, random: Rng::with_seed(number as u64) }
    }

    pub fn next(&mut self) -> Uuid {
        self.ids[self.random.usize(..self.ids.len())]
    }
}
