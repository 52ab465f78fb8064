//! Histograms of times since the start, with a few buckets of fixed bounds: the difference of two of them is the histogram
//! of the time between.

use serde::Serialize;

/// Times below 2^4 µs share the first bucket.
const FIRST_OCTAVE: u32 = 4;
/// From 2^4 µs to 2^24 µs, which is about 17 s.
const OCTAVES: u32 = 20;
/// Buckets per octave, as a power of two: 4.
const PRECISION: u32 = 2;
/// The first bucket, those of the octaves, and one for longer times.
const BUCKETS: usize = 1 + (OCTAVES << PRECISION) as usize + 1;

/// The number of times that were recorded in each bucket.
#[derive(Clone, Debug)]
pub(crate) struct TimeHistogram([u64; BUCKETS]);

impl TimeHistogram {
    pub(crate) const fn new() -> Self {
        Self([0; BUCKETS])
    }

    pub(crate) fn record(&mut self, micros: u64) {
        self.0[bucket(micros)] += 1;
    }

    /// Returns the counts up to the last one that is not zero.
    fn counts(&self) -> Vec<u64> {
        let used = self.0.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        self.0[..used].to_vec()
    }
}

fn bucket(micros: u64) -> usize {
    let Some(octave) = micros.checked_ilog2().and_then(|log| log.checked_sub(FIRST_OCTAVE)) else { return 0 };
    if octave >= OCTAVES {
        return BUCKETS - 1;
    }
    // The bits after the highest one select the bucket in the octave.
    let within = (micros >> (octave + FIRST_OCTAVE - PRECISION)) & ((1 << PRECISION) - 1);
    let at = (u64::from(octave) << PRECISION) + within;
    usize::try_from(at).unwrap_or(BUCKETS) + 1
}

/// Returns the upper bounds of the buckets in milliseconds; `None` for the last one.
#[expect(clippy::cast_precision_loss, reason = "the bounds are small")]
fn upper_bounds() -> Vec<Option<f64>> {
    let bound = |at: usize| {
        let (octave, within) = (at >> PRECISION, at & ((1 << PRECISION) - 1));
        let lower = 1_u64 << (octave + FIRST_OCTAVE as usize);
        let width = lower >> PRECISION;
        Some((lower + width * within as u64) as f64 / 1e3)
    };
    (0..BUCKETS - 1).map(bound).chain([None]).collect()
}

/// Histograms of wait and hold times since the start.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolHistograms))]
#[non_exhaustive]
pub struct TimeHistograms {
    /// Upper bounds of the buckets in milliseconds, exclusive; the last bucket has none.
    pub upper_ms: Vec<Option<f64>>,
    /// Number of operations per bucket, by the time that they waited for a connection. Without the empty buckets at the
    /// end.
    pub wait: Vec<u64>,
    /// The same, by the time that they held a connection.
    #[serde(rename = "use")]
    pub hold: Vec<u64>,
}

impl TimeHistograms {
    pub(crate) fn new(wait: &TimeHistogram, hold: &TimeHistogram) -> Self {
        Self { upper_ms: upper_bounds(), wait: wait.counts(), hold: hold.counts() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_below_the_upper_bound_of_its_bucket() {
        let bounds = upper_bounds();
        assert_eq!(bounds.len(), BUCKETS);
        assert_eq!((bounds[0], bounds[1], bounds[4], bounds[5]), (Some(0.016), Some(0.02), Some(0.032), Some(0.04)));
        for micros in (0..5000).chain([1 << 20, (1 << 24) - 1, 1 << 24, u64::MAX]) {
            let at = bucket(micros);
            #[expect(clippy::cast_precision_loss, reason = "small, or greater than all bounds")]
            let millis = micros as f64 / 1e3;
            assert!(bounds[at].is_none_or(|upper| millis < upper), "{micros} µs in bucket {at}");
            assert!(at == 0 || bounds[at - 1].is_some_and(|lower| millis >= lower), "{micros} µs in bucket {at}");
        }
    }

    #[test]
    fn empty_buckets_at_the_end_are_omitted() {
        let mut histogram = TimeHistogram::new();
        assert_eq!(histogram.counts(), [0_u64; 0]);
        histogram.record(17);
        histogram.record(3);
        histogram.record(17);
        assert_eq!(histogram.counts(), [1, 2]);
    }
}
