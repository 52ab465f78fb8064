//! Statistics: counters, times, the snapshot of the pool, and advice on its size.

pub(crate) mod advice;
pub(crate) mod detailed_snapshot;
pub(crate) mod gauges;
pub(crate) mod metrics;
pub(crate) mod quantiles;
pub(crate) mod snapshot;
pub(crate) mod time_histogram;
