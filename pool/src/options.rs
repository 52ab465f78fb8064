//! Pool options and their limits.

use std::time::Duration;

use serde::Deserialize;

/// Configuration of a [`Pool`](crate::Pool). Deserializes from any serde format; durations are written like `250ms`,
/// `5s` or `10m`.
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
    /// Maximum number of connections, 1 to 10,000. Too low: operations queue. Too high: the database spends its time
    /// switching between connections, and all instances together exceed its connection limit.
    pub max: u32,
    /// Minimum number of connections that the pool keeps open, 0 to `max`.
    pub min: u32,
    /// Acquire timeout: the longest wait for a connection, and for the database at startup; 1 ms to 1 h.
    #[serde(with = "humantime_serde")]
    pub acquire: Duration,
    /// Idle timeout: an unused connection above `min` is closed after this time; 0 = never. Keep it below the idle
    /// limits of the server and of firewalls.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    /// Max lifetime: a connection is replaced after this time, or up to a tenth earlier (jitter); 0 = never.
    #[serde(with = "humantime_serde")]
    pub lifetime: Duration,
    /// Whether operations wait for a connection. If `false`, they are refused immediately when all are in use.
    pub wait: bool,
    /// Maximum number of waiting operations; 0 = no limit. Further operations are refused.
    pub queue_limit: usize,
    /// Whether operations of the same kind share a statement while they would have to wait for each other
    /// ([`Batch`](crate::Batch)). If this or `wait` is `false`, each uses a separate connection.
    #[cfg(feature = "batch")]
    pub batch: bool,
    /// Maximum number of operations in a batch, 1 to 1,000. Too low: statements serve few operations. Too high: the
    /// first operation of a batch waits for the result of the last.
    #[cfg(feature = "batch")]
    pub batch_max: usize,
    /// Share of bulk operations ([`Pool::bulk_read`](crate::Pool::bulk_read)), 1 to 100 percent: of `max` (at least one
    /// connection, and never all unless `max` is 1), and of the time while other operations are served. Too low:
    /// imports are slow. Too high: all other operations wait for them.
    #[cfg(feature = "bulk")]
    pub bulk_share: u32,
    /// While the database is down, operations that arrive within this time after the start of the outage wait for the
    /// rest of it, in case the interruption is short; later ones are refused immediately. 0 to 1 min; 0 = none waits.
    #[serde(with = "humantime_serde")]
    pub outage_wait: Duration,
    /// Leak detection: an operation that holds its connection for longer is logged once, by name; 0 = never.
    #[serde(with = "humantime_serde")]
    pub slow_hold: Duration,
    /// A connection that was idle for longer is pinged before it is handed out; 0 = always ping.
    #[serde(with = "humantime_serde")]
    pub validate_after: Duration,
    /// Statement timeout; 0 = the server's default. The server enforces it; on MySQL, which limits reads only, the pool
    /// kills other statements that exceed it. No effect on SQLite.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    /// Name of the pool in metrics, and client name that the server shows (PostgreSQL:
    /// `pg_stat_activity.application_name`).
    pub application_name: String,
    /// Threads of the pool's runtime, 0 to 64; 0 = half the processors, at least one. No effect on a runtime of the
    /// application.
    pub threads: usize,
}

/// Generates a setter for each option.
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

/// An option is outside its limits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option}: must be {allowed}")]
pub struct InvalidOption {
    /// The option's name.
    pub option: &'static str,
    /// The allowed values, in words.
    pub allowed: String,
}

impl PoolOptions {
    /// Checks every option against its limits.
    ///
    /// # Errors
    ///
    /// Returns the first [`InvalidOption`].
    pub fn validate(&self) -> Result<(), InvalidOption> {
        let invalid = |option, allowed: String| Err(InvalidOption { option, allowed });
        if !(1..=10_000).contains(&self.max) {
            return invalid("max", "a whole number from 1 to 10000".to_owned());
        }
        if self.min > self.max {
            return invalid("min", format!("a whole number from 0 to pool.max ({})", self.max));
        }
        if !(Duration::from_millis(1)..=Duration::from_hours(1)).contains(&self.acquire) {
            return invalid("acquire", "a duration from 1ms to 1h".to_owned());
        }
        #[cfg(feature = "batch")]
        if !(1..=1000).contains(&self.batch_max) {
            return invalid("batch_max", "a whole number from 1 to 1000".to_owned());
        }
        #[cfg(feature = "bulk")]
        if !(1..=100).contains(&self.bulk_share) {
            return invalid("bulk_share", "a whole number from 1 to 100, percent of pool.max".to_owned());
        }
        if self.outage_wait > Duration::from_mins(1) {
            return invalid("outage_wait", "a duration from 0s to 1m".to_owned());
        }
        if self.threads > 64 {
            return invalid("threads", "a whole number from 0 to 64".to_owned());
        }
        Ok(())
    }
}

#[cfg(feature = "batch")]
impl PoolOptions {
    /// Returns the maximum number of operations in a batch.
    pub(crate) fn batch_limit(&self) -> usize {
        self.batch_max.max(1)
    }
}

#[cfg(not(feature = "batch"))]
impl PoolOptions {
    /// Returns the maximum number of operations in a batch.
    pub(crate) fn batch_limit(&self) -> usize {
        1
    }
}

#[cfg(feature = "bulk")]
impl PoolOptions {
    /// Returns how many connections bulk operations may use at the same time: their share of `max`, but at least one,
    /// and never all unless `max` is 1.
    #[must_use]
    pub fn bulk_limit(&self) -> u32 {
        let share = u64::from(self.max) * u64::from(self.bulk_share) / 100;
        u32::try_from(share).unwrap_or(self.max).min(self.max.saturating_sub(1)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_operations_get_at_least_one_connection_and_never_all() {
        let limit = |max, bulk_share| PoolOptions { max, bulk_share, ..PoolOptions::default() }.bulk_limit();
        assert_eq!([limit(10, 25), limit(10, 100), limit(10, 1), limit(2, 100), limit(1, 1)], [2, 9, 1, 1, 1]);
        assert_eq!(limit(10_000, 50), 5000);
    }

    #[test]
    fn defaults_are_valid() {
        assert_eq!(PoolOptions::default().validate(), Ok(()));
    }

    #[test]
    fn the_error_names_the_option_outside_its_limits() {
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
