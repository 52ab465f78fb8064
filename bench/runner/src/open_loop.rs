//! A load that does not wait for its answers: requests fall due at a fixed rate, whatever becomes of those before.
//! A time is counted from when the request was due, so it holds the wait for a free connection as well. Clients have
//! limits, as real ones do: a request that finds no free connection for a while is given up, and so is one without an
//! answer, with its connection.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{http::Client, results::quantile};

const FIRST_CONNECTIONS: usize = 64;
pub const MOST_CONNECTIONS: usize = 512;
/// How many are opened at a time while requests wait.
const MORE_CONNECTIONS: usize = 16;
/// A client waits no longer for a free connection.
const PATIENCE: Duration = Duration::from_millis(100);
/// An answer that takes longer is of no use to anybody, and nobody waits for it.
const USEFUL: Duration = Duration::from_secs(1);
/// How often the clock looks for requests that fell due.
const TICK: Duration = Duration::from_micros(200);

/// What became of the requests.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub good_per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub failed: usize,
    pub given_up: usize,
    pub connections: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Useful,
    Failed,
    GivenUp,
}

struct Sample {
    took: Duration,
    /// When it ended, since the beginning.
    at: Duration,
    end: End,
}

struct Shared {
    requests: Arc<[Vec<u8>]>,
    began: Instant,
    /// Seconds between two requests; 0 if each is due when it can be sent.
    apart: f64,
    next: AtomicUsize,
    /// A permit is a request that is due and not yet sent.
    due: Semaphore,
    samples: Mutex<Vec<Sample>>,
    is_over: AtomicBool,
}

impl Shared {
    fn due_at(&self, number: usize) -> Instant {
        if self.apart == 0.0 {
            return Instant::now();
        }
        self.began + Duration::from_secs_f64(number as f64 * self.apart)
    }

    fn ended(&self, due: Instant, end: End) {
        self.samples().push(Sample { took: due.elapsed(), at: self.began.elapsed(), end });
    }

    fn samples(&self) -> std::sync::MutexGuard<'_, Vec<Sample>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the clock with the measurement, also when that is broken off.
struct Clock(Arc<Shared>);

impl Drop for Clock {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

/// Offers requests at a rate, or, without one, as fast as they are answered.
pub async fn offer(port: u16, requests: Arc<[Vec<u8>]>, per_second: Option<f64>, window: Duration) -> Result<Outcome> {
    let total = per_second.map(|rate| (rate * window.as_secs_f64()) as usize);
    // Opened before the clock runs: nobody's first request is to wait for them.
    let mut first = Vec::new();
    for _ in 0..FIRST_CONNECTIONS {
        first.push(Client::connect(port).await?);
    }
    let shared = Arc::new(Shared {
        requests,
        began: Instant::now(),
        apart: per_second.map_or(0.0, |rate| 1.0 / rate),
        next: AtomicUsize::new(0),
        due: Semaphore::new(if total.is_some() { 0 } else { Semaphore::MAX_PERMITS }),
        samples: Mutex::default(),
        is_over: AtomicBool::new(false),
    });
    let _clock = Clock(Arc::clone(&shared));
    if let (Some(rate), Some(total)) = (per_second, total) {
        ensure!(total > 0, "nothing is offered");
        let shared = Arc::clone(&shared);
        // A thread of its own: the runtime's timers tick in whole milliseconds.
        thread::spawn(move || release(&shared, rate, total));
    }
    let end = shared.began + window + if total.is_some() { USEFUL } else { Duration::ZERO };
    let mut connections = JoinSet::new();
    for client in first {
        connections.spawn(connection(Arc::clone(&shared), client, port));
    }
    while Instant::now() < end && total.is_none_or(|total| shared.samples().len() < total) {
        if shared.due.available_permits() > 0 {
            for _ in 0..MORE_CONNECTIONS.min(MOST_CONNECTIONS - connections.len()) {
                let client = Client::connect(port).await.context("a connection could not be had")?;
                connections.spawn(connection(Arc::clone(&shared), client, port));
            }
        }
        sleep(Duration::from_millis(2)).await;
        while let Some(ended) = connections.try_join_next() {
            ended?.context("a connection could not be had")?;
        }
    }
    let count = connections.len();
    connections.shutdown().await;
    let samples = std::mem::take(&mut *shared.samples());
    Ok(outcome(&samples, total, window, count))
}

fn release(shared: &Shared, rate: f64, total: usize) {
    let mut released = 0;
    while released < total && !shared.is_over.load(Ordering::Relaxed) {
        let due = ((shared.began.elapsed().as_secs_f64() * rate) as usize + 1).min(total);
        shared.due.add_permits(due - released);
        released = due;
        thread::sleep(TICK);
    }
}

/// One connection, which sends whatever is due next. It ends only if it breaks and cannot be opened again.
async fn connection(shared: Arc<Shared>, mut client: Client, port: u16) -> Result<()> {
    loop {
        shared.due.acquire().await?.forget();
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let due = shared.due_at(number);
        if due.elapsed() > PATIENCE {
            shared.ended(due, End::GivenUp);
            continue;
        }
        // A stride that is prime visits the requests in an order that no cache likes.
        let request = &shared.requests[number.wrapping_mul(7919) % shared.requests.len()];
        let asked = timeout(USEFUL, client.ask_status(request)).await;
        let end = match asked {
            Ok(Ok(200)) if due.elapsed() <= USEFUL => End::Useful,
            Ok(_) => End::Failed,
            Err(_) => End::GivenUp,
        };
        shared.ended(due, end);
        if !matches!(asked, Ok(Ok(_))) {
            client = Client::connect(port).await?;
        }
    }
}

/// `total` is how many fell due, if they did at a rate.
fn outcome(samples: &[Sample], total: Option<usize>, window: Duration, connections: usize) -> Outcome {
    let count = |end| samples.iter().filter(|sample| sample.end == end).count();
    let useful = samples.iter().filter(|sample| sample.end == End::Useful);
    // What is answered after the window is answered by a peer that nothing more is asked of, so it does not count here.
    let good = useful.clone().filter(|sample| sample.at <= window).count();
    let mut times: Vec<f64> = useful.map(|sample| sample.took.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    let (answered, failed) = (times.len(), count(End::Failed));
    Outcome {
        good_per_second: good as f64 / window.as_secs_f64(),
        p50_ms: quantile(&times, 0.5),
        p99_ms: quantile(&times, 0.99),
        failed,
        // Those that are still due or under way at the end are given up as well.
        given_up: total.map_or(count(End::GivenUp), |total| total.saturating_sub(answered + failed)),
        connections,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_answer_is_given_up() {
        let second = Duration::from_secs(1);
        let sample = |took, at, end| Sample { took, at, end };
        let samples = [
            sample(second / 2, second, End::Useful),
            sample(second / 4, second, End::Useful),
            sample(second / 4, second / 2, End::Failed),
            sample(second, second * 2, End::Useful),
            sample(second, second, End::GivenUp),
        ];
        let outcome = outcome(&samples, Some(7), second, 1);
        assert_eq!((outcome.good_per_second, outcome.failed, outcome.given_up), (2.0, 1, 3));
        assert_eq!((outcome.p50_ms, outcome.p99_ms), (500.0, 1000.0));
    }
}
