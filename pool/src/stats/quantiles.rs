//! Distributions of times.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Distribution of a time, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolQuantiles))]
#[non_exhaustive]
pub struct Quantiles {
    /// Number of measurements; no unit.
    #[cfg_attr(feature = "utoipa", schema(example = 1200))]
    pub count: u64,
    /// Mean.
    #[cfg_attr(feature = "utoipa", schema(example = 0.4))]
    pub mean: f64,
    /// Median.
    #[cfg_attr(feature = "utoipa", schema(example = 0.3))]
    pub p50: f64,
    /// 95th percentile.
    #[cfg_attr(feature = "utoipa", schema(example = 0.9))]
    pub p95: f64,
    /// 99th percentile.
    #[cfg_attr(feature = "utoipa", schema(example = 1.8))]
    pub p99: f64,
    /// Maximum.
    #[cfg_attr(feature = "utoipa", schema(example = 4.1))]
    pub max: f64,
}

impl Quantiles {
    #[expect(clippy::cast_precision_loss, reason = "microseconds of an hour fit")]
    pub(crate) fn of(times: &Histogram<u64>) -> Self {
        let millis = |micros: u64| micros as f64 / 1e3;
        if times.is_empty() {
            return Self::default();
        }
        Self {
            count: times.len(),
            mean: (times.mean()).round() / 1e3,
            p50: millis(times.value_at_quantile(0.50)),
            p95: millis(times.value_at_quantile(0.95)),
            p99: millis(times.value_at_quantile(0.99)),
            max: millis(times.max()),
        }
    }
}
