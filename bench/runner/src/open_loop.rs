//! A load that does not wait for its answers: requests fall due at a fixed rate, whatever becomes of those before.
//! A time is counted from when the request was due, so it holds the wait for a free connection as well.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{sync::Semaphore, task::JoinSet, time::sleep};

use crate::{http::Client, results::quantile};

const FIRST_CONNECTIONS: usize = 64;
const MOST_CONNECTIONS: usize = 512;
/// How many are opened at a time while requests wait.
const MORE_CONNECTIONS: usize = 16;
/// An answer that takes longer is of no use to anybody.
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
    pub unanswered: usize,
    pub connections: usize,
}

struct Sample {
    number: usize,
    took: Duration,
    /// When it was answered, since the beginning.
    at: Duration,
    is_ok: bool,
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
    let ended = Instant::now();
    let count = connections.len();
    connections.shutdown().await;
    let samples = std::mem::take(&mut *shared.samples());
    let unanswered =
        waits(&samples, total.unwrap_or(0), |number| ended.saturating_duration_since(shared.due_at(number)));
    Ok(outcome(&samples, &unanswered, window, count))
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
        // A stride that is prime visits the requests in an order that no cache likes.
        let request = &shared.requests[number.wrapping_mul(7919) % shared.requests.len()];
        let status = client.ask_status(request).await;
        let is_ok = matches!(status, Ok(200));
        shared.samples().push(Sample { number, took: due.elapsed(), at: shared.began.elapsed(), is_ok });
        if status.is_err() {
            client = Client::connect(port).await?;
        }
    }
}

/// How long those requests have waited that have no answer.
fn waits(samples: &[Sample], total: usize, waited: impl Fn(usize) -> Duration) -> Vec<Duration> {
    let mut is_answered = vec![false; total];
    for sample in samples {
        if let Some(answered) = is_answered.get_mut(sample.number) {
            *answered = true;
        }
    }
    (0..total).filter(|number| !is_answered[*number]).map(waited).collect()
}

fn outcome(samples: &[Sample], unanswered: &[Duration], window: Duration, connections: usize) -> Outcome {
    // What is answered after the window is answered by a peer that nothing more is asked of, so it does not count here.
    let good = samples.iter().filter(|sample| sample.is_ok && sample.took <= USEFUL && sample.at <= window).count();
    let times = samples.iter().map(|sample| sample.took).chain(unanswered.iter().copied());
    let mut times: Vec<f64> = times.map(|took| took.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    Outcome {
        good_per_second: good as f64 / window.as_secs_f64(),
        p50_ms: quantile(&times, 0.5),
        p99_ms: quantile(&times, 0.99),
        failed: samples.iter().filter(|sample| !sample.is_ok).count(),
        unanswered: unanswered.len(),
        connections,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_answer_counts_as_slow() {
        let second = Duration::from_secs(1);
        let sample = |number, took, is_ok| Sample { number, took, at: second, is_ok };
        let samples = [sample(0, second / 2, true), sample(2, second / 4, false), sample(3, second * 2, true)];
        let unanswered = waits(&samples, 5, |number| second * u32::try_from(number).unwrap_or(0));
        assert_eq!(unanswered, [second, second * 4]);
        let outcome = outcome(&samples, &unanswered, second, 1);
        assert_eq!((outcome.good_per_second, outcome.failed, outcome.unanswered), (1.0, 1, 2));
        assert_eq!((outcome.p50_ms, outcome.p99_ms), (1000.0, 4000.0));
    }
}
