//! Open-loop load: requests are due at a fixed rate, regardless of the responses to earlier ones. Latency is measured
//! from when the request was due, so it includes the wait for a free connection. Like real clients, this one has
//! timeouts: a request that gets no connection or no response in time is abandoned, in the latter case with its
//! connection.

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

use crate::{http::Client, spread::quantile};

const INITIAL_CONNECTIONS: usize = 64;
pub const MAX_CONNECTIONS: usize = 512;
/// How many connections are opened at a time while requests wait.
const CONNECTIONS_PER_STEP: usize = 16;
/// How long a request waits for a free connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_millis(100);
/// How long a request waits for its response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often requests that became due are released.
const TICK: Duration = Duration::from_micros(200);

/// The result of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Goodput: good responses per second.
    pub good_per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub failed: usize,
    pub abandoned: usize,
    pub connections: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Status 200 in time.
    Good,
    /// Another status, a late response or a broken connection.
    Failed,
    /// No free connection or no response in time.
    Abandoned,
}

struct Sample {
    latency: Duration,
    /// When the request ended, since the start of the measurement.
    at: Duration,
    end: End,
}

struct Shared {
    requests: Arc<[Vec<u8>]>,
    began: Instant,
    /// Seconds between two requests; 0 if each is due as soon as it can be sent.
    interval: f64,
    next: AtomicUsize,
    /// A permit is a request that is due but not yet sent.
    due: Semaphore,
    samples: Mutex<Vec<Sample>>,
    is_over: AtomicBool,
}

impl Shared {
    fn due_at(&self, number: usize) -> Instant {
        if self.interval == 0.0 {
            return Instant::now();
        }
        self.began + Duration::from_secs_f64(number as f64 * self.interval)
    }

    fn record(&self, due: Instant, end: End) {
        self.samples().push(Sample { latency: due.elapsed(), at: self.began.elapsed(), end });
    }

    fn samples(&self) -> std::sync::MutexGuard<'_, Vec<Sample>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the release thread when the measurement ends or is dropped.
struct StopOnDrop(Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

/// Sends requests at a rate or, without one, as fast as responses arrive.
pub async fn offer(port: u16, requests: Arc<[Vec<u8>]>, per_second: Option<f64>, window: Duration) -> Result<Outcome> {
    let total = per_second.map(|rate| (rate * window.as_secs_f64()) as usize);
    // Opened before the measurement, so that no request waits for them.
    let mut initial = Vec::new();
    for _ in 0..INITIAL_CONNECTIONS {
        initial.push(Client::connect(port).await?);
    }
    let shared = Arc::new(Shared {
        requests,
        began: Instant::now(),
        interval: per_second.map_or(0.0, |rate| 1.0 / rate),
        next: AtomicUsize::new(0),
        due: Semaphore::new(if total.is_some() { 0 } else { Semaphore::MAX_PERMITS }),
        samples: Mutex::default(),
        is_over: AtomicBool::new(false),
    });
    let _stop = StopOnDrop(Arc::clone(&shared));
    if let (Some(rate), Some(total)) = (per_second, total) {
        ensure!(total > 0, "the rate is too low to send a request");
        let shared = Arc::clone(&shared);
        // A separate thread, because the runtime's timers have a resolution of one millisecond.
        thread::spawn(move || release(&shared, rate, total));
    }
    let end = shared.began + window + if total.is_some() { RESPONSE_TIMEOUT } else { Duration::ZERO };
    let mut connections = JoinSet::new();
    for client in initial {
        connections.spawn(connection(Arc::clone(&shared), client, port));
    }
    while Instant::now() < end && total.is_none_or(|total| shared.samples().len() < total) {
        if shared.due.available_permits() > 0 {
            for _ in 0..CONNECTIONS_PER_STEP.min(MAX_CONNECTIONS - connections.len()) {
                let client = Client::connect(port).await.context("cannot connect")?;
                connections.spawn(connection(Arc::clone(&shared), client, port));
            }
        }
        sleep(Duration::from_millis(2)).await;
        while let Some(ended) = connections.try_join_next() {
            ended?.context("cannot reconnect")?;
        }
    }
    let count = connections.len();
    connections.shutdown().await;
    let samples = std::mem::take(&mut *shared.samples());
    Ok(outcome(&samples, total, window, count))
}

/// Releases requests when they are due.
fn release(shared: &Shared, rate: f64, total: usize) {
    let mut released = 0;
    while released < total && !shared.is_over.load(Ordering::Relaxed) {
        let due = ((shared.began.elapsed().as_secs_f64() * rate) as usize + 1).min(total);
        shared.due.add_permits(due - released);
        released = due;
        thread::sleep(TICK);
    }
}

/// Sends due requests on one connection. Ends only if the connection breaks and cannot be opened again.
async fn connection(shared: Arc<Shared>, mut client: Client, port: u16) -> Result<()> {
    loop {
        shared.due.acquire().await?.forget();
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let due = shared.due_at(number);
        if due.elapsed() > CONNECTION_TIMEOUT {
            shared.record(due, End::Abandoned);
            continue;
        }
        // A prime stride visits the requests in an order that defeats caches.
        let request = &shared.requests[number.wrapping_mul(7919) % shared.requests.len()];
        let response = timeout(RESPONSE_TIMEOUT, client.send_for_status(request)).await;
        let end = match response {
            Ok(Ok(200)) if due.elapsed() <= RESPONSE_TIMEOUT => End::Good,
            Ok(_) => End::Failed,
            Err(_) => End::Abandoned,
        };
        shared.record(due, end);
        if !matches!(response, Ok(Ok(_))) {
            client = Client::connect(port).await?;
        }
    }
}

/// `total` is the number of requests that became due, if there was a rate.
fn outcome(samples: &[Sample], total: Option<usize>, window: Duration, connections: usize) -> Outcome {
    let count = |end| samples.iter().filter(|sample| sample.end == end).count();
    let good = samples.iter().filter(|sample| sample.end == End::Good);
    // Responses after the window do not count here, because no more requests are offered by then.
    let good_in_window = good.clone().filter(|sample| sample.at <= window).count();
    let mut latencies: Vec<f64> = good.map(|sample| sample.latency.as_secs_f64() * 1e3).collect();
    latencies.sort_by(f64::total_cmp);
    let (succeeded, failed) = (latencies.len(), count(End::Failed));
    Outcome {
        good_per_second: good_in_window as f64 / window.as_secs_f64(),
        p50_ms: quantile(&latencies, 0.5),
        p99_ms: quantile(&latencies, 0.99),
        failed,
        // Includes requests that are still waiting or in flight at the end.
        abandoned: total.map_or(count(End::Abandoned), |total| total.saturating_sub(succeeded + failed)),
        connections,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_without_a_response_count_as_abandoned() {
        let second = Duration::from_secs(1);
        let sample = |latency, at, end| Sample { latency, at, end };
        let samples = [
            sample(second / 2, second, End::Good),
            sample(second / 4, second, End::Good),
            sample(second / 4, second / 2, End::Failed),
            sample(second, second * 2, End::Good),
            sample(second, second, End::Abandoned),
        ];
        let outcome = outcome(&samples, Some(7), second, 1);
        assert_eq!((outcome.good_per_second, outcome.failed, outcome.abandoned), (2.0, 1, 3));
        assert_eq!((outcome.p50_ms, outcome.p99_ms), (500.0, 1000.0));
    }
}
