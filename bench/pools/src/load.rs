//! Throughput: tasks that read in a loop, and how long each read takes.

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
/// The longest time that is recorded exactly, in microseconds.
const LONGEST: u64 = 60_000_000;

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
    let mut times = histogram()?;
    while let Some(ended) = readers.join_next().await {
        times.add(ended??)?;
    }
    ensure!(!times.is_empty(), "nothing was answered");
    let quantile = |share| times.value_at_quantile(share) as f64 / 1e3;
    Ok(Throughput {
        per_second: times.len() as f64 / length.as_secs_f64(),
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
    })
}

/// The times, in microseconds, of the answers within the window.
async fn read<P: Pool>(
    pool: Arc<P>,
    ids: Arc<[Uuid]>,
    number: usize,
    window: Range<Instant>,
) -> Result<Histogram<u64>> {
    let mut times = histogram()?;
    let mut choice = Choice::of_task(number, ids);
    loop {
        let id = choice.next();
        let began = Instant::now();
        let user = pool.find(id).await?.with_context(|| format!("row {id} not found"))?;
        let ended = Instant::now();
        ensure!(user.id == id, "asked for {id}, it answers {}", user.id);
        if ended >= window.end {
            return Ok(times);
        }
        if ended >= window.start {
            times.saturating_record(u64::try_from((ended - began).as_micros())?);
        }
    }
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LONGEST, 3)?)
}

/// Random ids. The same task asks for the same ones with each pool.
pub struct Choice {
    ids: Arc<[Uuid]>,
    random: Rng,
}

impl Choice {
    pub fn of_task(number: usize, ids: Arc<[Uuid]>) -> Self {
        Self { ids, random: Rng::with_seed(number as u64) }
    }

    pub fn next(&mut self) -> Uuid {
        self.ids[self.random.usize(..self.ids.len())]
    }
}
