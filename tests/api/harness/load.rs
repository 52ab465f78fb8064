//! A closed-loop load generator that records every response.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::Method;
use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::App;

/// Numbers the emails, so that they are unique across all loads.
static EMAILS: AtomicUsize = AtomicUsize::new(0);

/// One request and its response.
#[derive(Clone, Debug)]
pub struct Sample {
    pub began: Instant,
    pub took: Duration,
    pub method: Method,
    /// 0 without a response.
    pub status: u16,
    /// The email of the user that was to be created.
    pub email: Option<String>,
}

/// Clients that send requests until they are stopped.
pub struct Load {
    stop: watch::Sender<bool>,
    clients: Vec<JoinHandle<()>>,
    samples: Arc<Mutex<Vec<Sample>>>,
}

impl Load {
    /// Starts clients, each with one request at a time and a pause after each response. Every fourth client writes.
    pub fn start(app: &App, clients: usize, pause: Duration) -> Self {
        Self::start_with(app, clients, pause, |client| client % 4 == 0)
    }

    /// Starts one client that requests a path without database access, to measure the baseline latency of this machine.
    pub fn of_probes(app: &App, pause: Duration) -> Self {
        Self::start_on(app, "/health/live", 1, pause, |_| false)
    }

    pub fn start_with(app: &App, clients: usize, pause: Duration, writes: fn(usize) -> bool) -> Self {
        Self::start_on(app, "/users?limit=2", clients, pause, writes)
    }

    fn start_on(app: &App, path: &'static str, clients: usize, pause: Duration, writes: fn(usize) -> bool) -> Self {
        let stop = watch::Sender::new(false);
        let samples: Arc<Mutex<Vec<Sample>>> = Arc::default();
        let clients = (0..clients).map(|client| {
            let (app, samples, stopped) = (app.clone(), Arc::clone(&samples), stop.subscribe());
            tokio::spawn(async move {
                while !*stopped.borrow() {
                    let number = EMAILS.fetch_add(1, Ordering::Relaxed);
                    let email = writes(client).then(|| format!("ann{number}@load.example.com"));
                    let request = match &email {
                        Some(email) => {
                            app.request(Method::POST, "/users").json(&json!({"name": "Ann", "email": email}))
                        }
                        None => app.request(Method::GET, path),
                    };
                    let began = Instant::now();
                    let status = request.send().await.map_or(0, |response| response.status().as_u16());
                    let method = if email.is_some() { Method::POST } else { Method::GET };
                    let sample = Sample { began, took: began.elapsed(), method, status, email };
                    samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                    sleep(pause).await;
                }
            })
        });
        let clients = clients.collect();
        Self { stop, clients, samples }
    }

    /// The samples so far.
    pub fn samples(&self) -> Vec<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for `count` more responses with this status.
    pub async fn answered(&self, status: u16, count: usize) {
        let received = || self.samples().iter().filter(|sample| sample.status == status).count();
        let goal = received() + count;
        super::eventually(&format!("{count} more responses with {status}"), || async {
            (received() >= goal).then_some(())
        })
        .await;
    }

    /// Stops the clients after their current requests, and returns all samples.
    pub async fn stop(self) -> Vec<Sample> {
        self.stop.send_replace(true);
        for client in self.clients {
            client.await.unwrap();
        }
        std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The number of responses for each method and status.
pub fn by_status(samples: &[Sample]) -> BTreeMap<(String, u16), usize> {
    let mut counts = BTreeMap::new();
    for sample in samples {
        *counts.entry((sample.method.to_string(), sample.status)).or_insert(0) += 1;
    }
    counts
}

/// A quantile of the response times.
pub fn quantile(samples: &[Sample], share: f64) -> Duration {
    let mut times: Vec<Duration> = samples.iter().map(|sample| sample.took).collect();
    times.sort();
    assert!(!times.is_empty(), "no samples");
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    times[((times.len() - 1) as f64 * share) as usize]
}
