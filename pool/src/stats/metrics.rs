//! Counters since the start, and recent wait and hold times.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::{CreationError, Histogram};
use metrics::Unit;
use tokio::time::Instant;

use super::{
    snapshot::{Counters, Quantiles},
    time_histogram::{TimeHistogram, TimeHistograms},
};
use crate::set::{AcquireError, CloseReason};

const BATCH_SIZE: &str = "db_client_operation_batch_size";
const TIMEOUTS: &str = "db_client_connection_timeouts_total";
const CLOSED: &str = "db_client_connection_closed_total";
const REFUSED: &str = "db_client_operation_refused_total";

/// Length of a window; recent times cover one to two windows.
const WINDOW: Duration = Duration::from_mins(1);
/// The longest time that is recorded exactly.
const MAX_RECORDED: Duration = Duration::from_hours(1);
/// The weight of the newest hold time in the running mean, as a power of two: 1/16.
const SMOOTHING: u32 = 4;

macro_rules! counts {
    ($($name:ident),* $(,)?) => {
        #[derive(Debug, Default)]
        struct Counts { $($name: AtomicU64),* }

        impl Counts {
            fn read(&self) -> Counters {
                Counters { $($name: self.$name.load(Ordering::Relaxed)),* }
            }
        }
    };
}

counts!(
    operations,
    failed,
    batches,
    batched,
    refused_busy,
    refused_down,
    refused_closing,
    timed_out,
    retried_conflicts,
    retried_reads,
    retried_transactions,
    opened,
    dials_failed,
    closed_idle,
    closed_lifetime,
    closed_replaced,
    closed_broken,
    closed_session_changed,
    stranded,
    slow_holds,
);

fn increment(counter: &AtomicU64) {
    add(counter, 1);
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

/// Times of the current and the previous window, and since the start.
#[derive(Debug)]
struct Windows {
    now: Times,
    before: Times,
    since: Instant,
    span_before: Duration,
    total_wait: TimeHistogram,
    total_hold: TimeHistogram,
}

impl Windows {
    fn new() -> Result<Self, CreationError> {
        let empty = Times::new()?;
        Ok(Self {
            now: empty.clone(),
            before: empty,
            since: Instant::now(),
            span_before: Duration::ZERO,
            total_wait: TimeHistogram::new(),
            total_hold: TimeHistogram::new(),
        })
    }

    fn record_wait(&mut self, wait: Duration) {
        let wait = micros(wait);
        self.now.wait.saturating_record(wait);
        self.total_wait.record(wait);
    }

    fn record_hold(&mut self, hold: Duration) {
        let hold = micros(hold);
        self.now.hold.saturating_record(hold);
        self.total_hold.record(hold);
    }
}

/// Histograms in microseconds, with two significant digits.
#[derive(Clone, Debug)]
struct Times {
    wait: Histogram<u64>,
    hold: Histogram<u64>,
}

impl Times {
    fn new() -> Result<Self, CreationError> {
        let empty = Histogram::new_with_bounds(1, micros(MAX_RECORDED), 2)?;
        Ok(Self { wait: empty.clone(), hold: empty })
    }

    fn reset(&mut self) {
        self.wait.reset();
        self.hold.reset();
    }
}

#[derive(Debug)]
pub(crate) struct PoolMetrics {
    counts: Counts,
    windows: Mutex<Windows>,
    // Running mean of hold times, in nanoseconds.
    mean_hold: AtomicU64,
    bulk_ended: AtomicU64,
    bulk_is_yielding: AtomicBool,
    metrics: Metrics,
}

struct Metrics {
    wait: metrics::Histogram,
    hold: metrics::Histogram,
    create: metrics::Histogram,
    timeouts: metrics::Counter,
    pool: String,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("pool", &self.pool).finish_non_exhaustive()
    }
}

impl PoolMetrics {
    pub(crate) fn new(pool: &str) -> Result<Self, CreationError> {
        Ok(Self {
            counts: Counts::default(),
            windows: Mutex::new(Windows::new()?),
            mean_hold: AtomicU64::new(0),
            bulk_ended: AtomicU64::new(0),
            bulk_is_yielding: AtomicBool::new(false),
            metrics: Metrics::new(pool),
        })
    }

    /// Records how long a connection was waited for and held. Unusual holds do not count towards the mean.
    pub(crate) fn used(&self, wait: Duration, hold: Duration, is_usual: bool) {
        self.metrics.wait.record(wait.as_secs_f64());
        self.metrics.hold.record(hold.as_secs_f64());
        self.windows(|windows| {
            windows.record_wait(wait);
            windows.record_hold(hold);
        });
        if !is_usual {
            return;
        }
        let nanos = u64::try_from(hold.as_nanos()).unwrap_or(u64::MAX);
        let mean = self.mean_hold.load(Ordering::Relaxed);
        // Concurrent updates may lose a value, which does not matter for a mean.
        let next = if mean == 0 { nanos } else { mean - (mean >> SMOOTHING) + (nanos >> SMOOTHING) };
        self.mean_hold.store(next.max(1), Ordering::Relaxed);
    }

    /// Returns the running mean of hold times; zero before the first.
    pub(crate) fn mean_hold(&self) -> Duration {
        Duration::from_nanos(self.mean_hold.load(Ordering::Relaxed))
    }

    pub(crate) fn opened(&self, took: Duration) {
        self.metrics.create.record(took.as_secs_f64());
        increment(&self.counts.opened);
    }

    pub(crate) fn connect_failed(&self) {
        increment(&self.counts.dials_failed);
    }

    pub(crate) fn closed(&self, why: CloseReason) {
        match why {
            CloseReason::Idle => increment(&self.counts.closed_idle),
            CloseReason::Lifetime => increment(&self.counts.closed_lifetime),
            CloseReason::Replaced => increment(&self.counts.closed_replaced),
            CloseReason::Broken => increment(&self.counts.closed_broken),
            CloseReason::Stranded => increment(&self.counts.stranded),
            CloseReason::SessionChanged => increment(&self.counts.closed_session_changed),
            CloseReason::PoolClosed => return,
        }
        metrics::counter!(CLOSED, "pool_name" => self.metrics.pool.clone(), "reason" => why.name()).increment(1);
    }

    pub(crate) fn refused(&self, reason: &AcquireError) {
        match reason {
            AcquireError::AllInUse | AcquireError::QueueFull { .. } | AcquireError::TooLate { .. } => {
                increment(&self.counts.refused_busy);
            }
            AcquireError::TimedOut { .. } => {
                increment(&self.counts.timed_out);
                self.metrics.timeouts.increment(1);
            }
            AcquireError::Down { .. } => increment(&self.counts.refused_down),
            AcquireError::Closing => increment(&self.counts.refused_closing),
        }
        metrics::counter!(REFUSED, "pool_name" => self.metrics.pool.clone(), "reason" => reason.name()).increment(1);
    }

    /// Counts operations that have ended.
    pub(crate) fn ended(&self, count: usize, succeeded: bool) {
        add(&self.counts.operations, count);
        if !succeeded {
            add(&self.counts.failed, count);
        }
    }

    /// Counts a bulk operation that has ended; it is also counted as an operation.
    pub(crate) fn bulk_ended(&self) {
        self.bulk_ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many operations other than bulk operations have ended.
    pub(crate) fn other_than_bulk(&self) -> u64 {
        let all = self.counts.operations.load(Ordering::Relaxed);
        all.saturating_sub(self.bulk_ended.load(Ordering::Relaxed))
    }

    /// Whether other operations were served during the last bulk operation.
    pub(crate) fn bulk_is_yielding(&self) -> bool {
        self.bulk_is_yielding.load(Ordering::Relaxed)
    }

    pub(crate) fn set_bulk_is_yielding(&self, is_yielding: bool) {
        self.bulk_is_yielding.store(is_yielding, Ordering::Relaxed);
    }

    /// Counts a batch and its operations.
    pub(crate) fn batched(&self, count: usize) {
        increment(&self.counts.batches);
        add(&self.counts.batched, count);
    }

    /// Records wait times of operations that share the connection of another one.
    pub(crate) fn waited(&self, waits: impl Iterator<Item = Duration>) {
        self.windows(|windows| {
            for wait in waits {
                self.metrics.wait.record(wait.as_secs_f64());
                windows.record_wait(wait);
            }
        });
    }

    /// Returns the histogram of this operation's batch sizes.
    pub(crate) fn batch_sizes(&self, operation: &'static str) -> metrics::Histogram {
        metrics::histogram!(
            BATCH_SIZE,
            "pool_name" => self.metrics.pool.clone(),
            "operation" => operation
        )
    }

    pub(crate) fn retried_conflict(&self) {
        increment(&self.counts.retried_conflicts);
    }

    pub(crate) fn retried_read(&self) {
        increment(&self.counts.retried_reads);
    }

    pub(crate) fn retried_transaction(&self) {
        increment(&self.counts.retried_transactions);
    }

    pub(crate) fn slow_hold(&self) {
        increment(&self.counts.slow_holds);
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counts.read()
    }

    /// Returns the wait and hold times of the last one to two minutes, and the length of that period.
    pub(crate) fn recent(&self) -> (Quantiles, Quantiles, Duration) {
        self.windows(|windows| {
            let Times { mut wait, mut hold } = windows.now.clone();
            // All have the same bounds, so adding cannot fail.
            let _ = (wait.add(&windows.before.wait), hold.add(&windows.before.hold));
            (Quantiles::of(&wait), Quantiles::of(&hold), windows.since.elapsed() + windows.span_before)
        })
    }

    /// Returns the wait and hold times since the start.
    pub(crate) fn histograms(&self) -> TimeHistograms {
        self.windows(|windows| TimeHistograms::new(&windows.total_wait, &windows.total_hold))
    }

    fn windows<R>(&self, access: impl FnOnce(&mut Windows) -> R) -> R {
        let windows = &mut *self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let age = windows.since.elapsed();
        if age >= WINDOW {
            std::mem::swap(&mut windows.now, &mut windows.before);
            windows.now.reset();
            windows.span_before = age;
            if age >= 2 * WINDOW {
                // Nothing was recorded for a while: the previous window is too old.
                windows.before.reset();
                windows.span_before = Duration::ZERO;
            }
            windows.since = Instant::now();
        }
        access(windows)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Metrics {
    fn new(pool: &str) -> Self {
        let seconds = |name: &'static str, about: &'static str| {
            metrics::describe_histogram!(name, Unit::Seconds, about);
            metrics::histogram!(name, "pool_name" => pool.to_owned())
        };
        metrics::describe_histogram!(BATCH_SIZE, "Operations per batch");
        metrics::describe_counter!(TIMEOUTS, "Operations that timed out waiting for a connection");
        metrics::describe_counter!(CLOSED, "Connections closed, by reason");
        metrics::describe_counter!(REFUSED, "Operations that were refused a connection, by reason");
        // Without a first value of 0, the rate of a counter does not show its first increase.
        for reason in AcquireError::NAMES {
            metrics::counter!(REFUSED, "pool_name" => pool.to_owned(), "reason" => reason).absolute(0);
        }
        for reason in CloseReason::COUNTED {
            metrics::counter!(
                CLOSED,
                "pool_name" => pool.to_owned(),
                "reason" => reason.name()
            )
            .absolute(0);
        }
        Self {
            wait: seconds("db_client_connection_wait_time_seconds", "Time that operations waited for a connection"),
            hold: seconds("db_client_connection_use_time_seconds", "Time that operations held a connection"),
            create: seconds("db_client_connection_create_time_seconds", "Time to open a connection"),
            timeouts: metrics::counter!(TIMEOUTS, "pool_name" => pool.to_owned()),
            pool: pool.to_owned(),
        }
    }
}
