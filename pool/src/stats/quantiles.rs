//! How times are spread.

use hdrhistogram::Histogram;
use serde::Serialize;

/// How a time was spread. Milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolQuantiles))]
#[non_exhaustive]
pub struct Quantiles {
    /// How many were measured. No unit.
    #[cfg_attr(feature = "utoipa", schema(example = 1200))]
    pub count: u64,
    /// The mean.
    #[cfg_attr(feature = "utoipa", schema(example = 0.4))]
    pub mean: f64,
    /// Half took no longer.
    #[cfg_attr(feature = "utoipa", schema(example = 0.3))]
    pub p50: f64,
    /// 95 of 100 took no longer.
    #[cfg_attr(feature = "utoipa", schema(example = 0.9))]
    pub p95: f64,
    /// 99 of 100 took no longer.
    #[cfg_attr(feature = "utoipa", schema(example = 1.8))]
    pub p99: f64,
    /// The longest.
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
