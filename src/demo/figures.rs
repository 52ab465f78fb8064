//! The measurements of the simulated clients in the last second.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::Instant;

/// The figures cover this many complete slots: one second.
const SLOTS: u32 = 4;
const SLOT: Duration = Duration::from_millis(250);
/// The longest time that is recorded exactly, in microseconds: one minute.
const MAX_MICROS: u64 = 60_000_000;

/// The latency of operations, by the time at which they ended.
#[derive(Debug)]
pub(super) struct Figures {
    began: Instant,
    completed: AtomicU64,
    failed: AtomicU64,
    // One more than the figures cover, for the current slot.
    slots: Mutex<[Slot; 5]>,
}

#[derive(Debug)]
struct Slot {
    number: u64,
    /// In microseconds.
    latencies: Histogram<u64>,
    failed: u64,
}

/// The throughput and latency of the simulated clients.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LoadReport {
    /// Completed operations per second.
    per_second: f64,
    /// Failed ones, most of which the pool has refused.
    failed_per_second: f64,
    /// Latency of the completed ones.
    p50_ms: f64,
    p99_ms: f64,
    /// Completed operations since the start.
    total: u64,
    /// Failed ones.
    failed: u64,
}

impl Figures {
    pub(super) fn new() -> Result<Self, hdrhistogram::CreationError> {
        let latencies = Histogram::new_with_bounds(1, MAX_MICROS, 2)?;
        let slots = std::array::from_fn(|_| Slot { number: 0, latencies: latencies.clone(), failed: 0 });
        Ok(Self {
            began: Instant::now(),
            completed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            slots: Mutex::new(slots),
        })
    }

    /// Records an operation that has ended.
    pub(super) fn record(&self, latency: Duration, succeeded: bool) {
        let counter = if succeeded { &self.completed } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        let number = self.slot_number();
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut slots[index(number)];
        if slot.number != number {
            slot.number = number;
            slot.latencies.reset();
            slot.failed = 0;
        }
        if succeeded {
            slot.latencies.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        } else {
            slot.failed += 1;
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of a second, and microseconds of a minute")]
    pub(super) fn report(&self) -> LoadReport {
        let now = self.slot_number();
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let mut latencies = Histogram::new_from(&slots[0].latencies);
        let mut failed = 0;
        for slot in slots.iter().filter(|slot| slot.number < now && slot.number + u64::from(SLOTS) >= now) {
            // All have the same bounds, so adding cannot fail.
            let _ = latencies.add(&slot.latencies);
            failed += slot.failed;
        }
        drop(slots);
        let seconds = (SLOT * SLOTS).as_secs_f64();
        let quantile = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
        LoadReport {
            per_second: latencies.len() as f64 / seconds,
            failed_per_second: failed as f64 / seconds,
            p50_ms: quantile(0.50),
            p99_ms: quantile(0.99),
            total: self.completed.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    /// Returns the number of the current slot. It is never that of an unused one, 0.
    fn slot_number(&self) -> u64 {
        let slots = self.began.elapsed().as_micros() / SLOT.as_micros();
        u64::try_from(slots).unwrap_or(0) + u64::from(SLOTS) + 1
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number % (u64::from(SLOTS) + 1)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn figures_cover_the_last_complete_second() {
        let figures = Figures::new().unwrap();
        for _ in 0..10 {
            for _ in 0..100 {
                figures.record(Duration::from_millis(2), true);
            }
            figures.record(Duration::ZERO, false);
            advance(SLOT).await;
        }
        let report = figures.report();
        assert_eq!((report.per_second, report.failed_per_second), (400.0, 4.0));
        assert!((report.p50_ms - 2.0).abs() < 0.05, "{report:?}");
        assert_eq!((report.total, report.failed), (1000, 10));
        advance(Duration::from_secs(2)).await;
        let report = figures.report();
        assert_eq!((report.per_second, report.p99_ms, report.total), (0.0, 0.0, 1000), "a quiet second");
    }
}
