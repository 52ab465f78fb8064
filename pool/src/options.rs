//! The knobs of the pool and their limits.

use std::time::Duration;

use serde::Deserialize;

/// How the pool behaves. Deserializes from any serde format; durations as people write them (`250ms`, `5s`, `10m`).
///
/// ```
/// # use std::time::Duration;
/// # use orm_pool::PoolOptions;
/// let options = PoolOptions::default().max(20).min(4).acquire(Duration::from_secs(2));
/// assert_eq!(options.validate(), Ok(()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct PoolOptions {
    /// Most connections, 1 to 10,000. Too low: requests queue. Too high: the database spends its time switching, and
    /// instances together exceed its own limit.
    pub max: u32,
    /// Connections kept open when nothing happens, 0 to `max`.
    pub min: u32,
    /// Longest wait for a connection, and for the database at start; 1 ms to 1 h.
    #[serde(with = "humantime_serde")]
    pub acquire: Duration,
    /// An unused connection above `min` is closed after this; 0 = never. Keep it below the server's and the firewall's
    /// own idle limits.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    /// A connection is replaced after this, used or not; 0 = never.
    #[serde(with = "humantime_serde")]
    pub lifetime: Duration,
    /// Whether an operation waits for a connection at all. `false` refuses at once when all are in use.
    pub wait: bool,
    /// How many operations may wait at once; 0 = no limit. One more is refused.
    pub queue_limit: usize,
    /// Whether operations that ask alike share a statement while they would have to wait for each other
    /// ([`Batch`](crate::Batch)). `false`, and `wait = false`, gives each a separate connection.
    #[cfg(feature = "batch")]
    pub batch: bool,
    /// Most operations that share one, 1 to 1,000. Too low: a statement for few; too high: the first of many waits for
    /// the answer to the last.
    #[cfg(feature = "batch")]
    pub batch_max: usize,
    /// The share of operations in bulk ([`Pool::bulk_read`](crate::Pool::bulk_read)), 1 to 100 per cent: of `max` (one
    /// connection at the least, and never all unless there is but one), and of the time while others are being served. Too
    /// low: imports crawl; too high: everybody else waits for them.
    #[cfg(feature = "bulk")]
    pub bulk_share: u32,
    /// While the database is down, an operation that arrives within this time of the beginning waits for the rest of it,
    /// in case it is only a blip; later ones are refused at once. 0 = none waits; 1 min at the most.
    #[serde(with = "humantime_serde")]
    pub outage_wait: Duration,
    /// An operation that holds its connection for longer is warned of once, by name; 0 = never.
    #[serde(with = "humantime_serde")]
    pub slow_hold: Duration,
    /// A connection that was unused for longer is asked for a sign of life before it is handed out; 0 = always ask.
    #[serde(with = "humantime_serde")]
    pub validate_after: Duration,
    /// Longest run time of a statement; 0 = the server's own. The server enforces it, and on MySQL, which limits reads only,
    /// the pool kills what else exceeds it. No effect on SQLite.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    /// The pool's name in metrics, and what the server shows as this client's name (PostgreSQL:
    /// `pg_stat_activity.application_name`).
    pub application_name: String,
    /// Threads of the pool's own runtime, 0 to 64; 0 = half the processors, one at the least.
    pub threads: usize,
}

/// A setter for each option.
macro_rules! setters {
    ($($(#[$attribute:meta])? $option:ident: $kind:ty,)*) => {
        impl PoolOptions {
            $(
                $(#[$attribute])?
                #[doc = concat!("Sets [`", stringify!($option), "`](Self#structfield.", stringify!($option), ").")]
                #[must_use]
                pub fn $option(mut self, $option: $kind) -> Self {
                    self.$option = $option;
                    self
                }
            )*
        }
    };
}

setters! {
    max: u32,
    min: u32,
    acquire: Duration,
    idle: Duration,
    lifetime: Duration,
    wait: bool,
    queue_limit: usize,
    #[cfg(feature = "batch")]
    batch: bool,
    #[cfg(feature = "batch")]
    batch_max: usize,
    #[cfg(feature = "bulk")]
    bulk_share: u32,
    outage_wait: Duration,
    slow_hold: Duration,
    validate_after: Duration,
    statement_timeout: Duration,
    threads: usize,
}

impl PoolOptions {
    /// Sets [`application_name`](Self#structfield.application_name).
    #[must_use]
    pub fn application_name(mut self, application_name: impl Into<String>) -> Self {
        self.application_name = application_name.into();
        self
    }
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            max: 10,
            min: 2,
            acquire: Duration::from_secs(5),
            idle: Duration::from_mins(10),
            lifetime: Duration::from_mins(30),
            wait: true,
            queue_limit: 1000,
            #[cfg(feature = "batch")]
            batch: true,
            #[cfg(feature = "batch")]
            batch_max: 128,
            #[cfg(feature = "bulk")]
            bulk_share: 10,
            outage_wait: Duration::from_millis(250),
            slow_hold: Duration::from_secs(5),
            validate_after: Duration::from_secs(30),
            statement_timeout: Duration::from_secs(30),
            application_name: "orm-pool".to_owned(),
            threads: 0,
        }
    }
}

/// An option outside its limits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option}: must be {allowed}")]
pub struct InvalidOption {
    /// The option's name.
    pub option: &'static str,
    /// What it may be, in words.
    pub allowed: String,
}

impl PoolOptions {
    /// Checks every option against its limits.
    ///
    /// # Errors
    ///
    /// The first [`InvalidOption`].
    pub fn validate(&self) -> Result<(), InvalidOption> {
        let refuse = |option, allowed: String| Err(InvalidOption { option, allowed });
        if !(1..=10_000).contains(&self.max) {
            return refuse("max", "a whole number from 1 to 10000".to_owned());
        }
        if self.min > self.max {
            return refuse("min", format!("a whole number from 0 to pool.max ({})", self.max));
        }
        if !(Duration::from_millis(1)..=Duration::from_hours(1)).contains(&self.acquire) {
            return refuse("acquire", "a duration from 1ms to 1h".to_owned());
        }
        #[cfg(feature = "batch")]
        if !(1..=1000).contains(&self.batch_max) {
            return refuse("batch_max", "a whole number from 1 to 1000".to_owned());
        }
        #[cfg(feature = "bulk")]
        if !(1..=100).contains(&self.bulk_share) {
            return refuse("bulk_share", "a whole number from 1 to 100, per cent of pool.max".to_owned());
        }
        if self.outage_wait > Duration::from_mins(1) {
            return refuse("outage_wait", "a duration from 0s to 1m".to_owned());
        }
        if self.threads > 64 {
            return refuse("threads", "a whole number from 0 to 64".to_owned());
        }
        Ok(())
    }
}

#[cfg(feature = "batch")]
impl PoolOptions {
    /// How many operations may share a connection's use.
    pub(crate) fn batch_limit(&self) -> usize {
        self.batch_max.max(1)
    }
}

#[cfg(not(feature = "batch"))]
impl PoolOptions {
    /// How many operations may share a connection's use.
    pub(crate) fn batch_limit(&self) -> usize {
        1
    }
}

#[cfg(feature = "bulk")]
impl PoolOptions {
    /// How many connections bulk work may use at once: its share, but one at the least, and never all unless there is only
    /// one.
    #[must_use]
    pub fn bulk_places(&self) -> u32 {
        let share = u64::from(self.max) * u64::from(self.bulk_share) / 100;
        u32::try_from(share).unwrap_or(self.max).min(self.max.saturating_sub(1)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_never_none_and_never_all() {
        let places = |max, bulk_share| PoolOptions { max, bulk_share, ..PoolOptions::default() }.bulk_places();
        assert_eq!([places(10, 25), places(10, 100), places(10, 1), places(2, 100), places(1, 1)], [2, 9, 1, 1, 1]);
        assert_eq!(places(10_000, 50), 5000);
    }

    #[test]
    fn defaults_are_valid() {
        assert_eq!(PoolOptions::default().validate(), Ok(()));
    }

    #[test]
    fn every_limit_is_named() {
        let cases = [
            ("max", PoolOptions { max: 0, min: 0, ..PoolOptions::default() }),
            ("max", PoolOptions { max: 10_001, ..PoolOptions::default() }),
            ("min", PoolOptions { min: 11, ..PoolOptions::default() }),
            ("acquire", PoolOptions { acquire: Duration::ZERO, ..PoolOptions::default() }),
            ("acquire", PoolOptions { acquire: Duration::from_secs(3601), ..PoolOptions::default() }),
            ("batch_max", PoolOptions { batch_max: 0, ..PoolOptions::default() }),
            ("batch_max", PoolOptions { batch_max: 1001, ..PoolOptions::default() }),
            ("bulk_share", PoolOptions { bulk_share: 0, ..PoolOptions::default() }),
            ("bulk_share", PoolOptions { bulk_share: 101, ..PoolOptions::default() }),
            ("outage_wait", PoolOptions { outage_wait: Duration::from_secs(61), ..PoolOptions::default() }),
            ("threads", PoolOptions { threads: 65, ..PoolOptions::default() }),
        ];
        for (option, options) in cases {
            assert_eq!(options.validate().unwrap_err().option, option);
        }
    }
}
