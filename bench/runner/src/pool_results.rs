//! The figures of the pool benchmark, as they are stored in the results file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pool {
    #[serde(rename = "orm-pool")]
    Unbatched,
    #[serde(rename = "orm-pool-on-callers-runtime")]
    OnCallersRuntime,
    #[serde(rename = "orm-pool-batched")]
    Batched,
    SeaOrm,
    Deadpool,
    Bb8,
}

impl Pool {
    pub const ALL: [Self; 6] =
        [Self::Unbatched, Self::OnCallersRuntime, Self::Batched, Self::SeaOrm, Self::Deadpool, Self::Bb8];

    pub fn name(self) -> &'static str {
        match self {
            Self::Unbatched => "orm-pool",
            Self::OnCallersRuntime => "orm-pool, on the callers' runtime",
            Self::Batched => "orm-pool, batched",
            Self::SeaOrm => "SeaORM's built-in pool (sqlx)",
            Self::Deadpool => "deadpool-postgres",
            Self::Bb8 => "bb8-postgres",
        }
    }

    /// The value of the benchmark program's `--pool` option.
    pub fn argument(self) -> &'static str {
        match self {
            Self::Unbatched => "orm-pool",
            Self::OnCallersRuntime => "orm-pool-on-callers-runtime",
            Self::Batched => "orm-pool-batched",
            Self::SeaOrm => "sea-orm",
            Self::Deadpool => "deadpool",
            Self::Bb8 => "bb8",
        }
    }
}

/// All figures of the pool benchmark.
#[derive(Default, Serialize, Deserialize)]
pub struct PoolFigures {
    pub versions: BTreeMap<String, String>,
    pub throughput: Vec<PoolFigure<Throughput>>,
    pub outage: Vec<PoolFigure<Outage>>,
    pub silence: Vec<PoolFigure<Silence>>,
}

impl PoolFigures {
    pub fn is_empty(&self) -> bool {
        self.throughput.is_empty() && self.outage.is_empty() && self.silence.is_empty()
    }
}

/// One measurement of one pool.
#[derive(Serialize, Deserialize)]
pub struct PoolFigure<T> {
    pub pool: Pool,
    pub connections: u32,
    pub round: usize,
    #[serde(flatten)]
    pub measured: T,
}

/// Reads of one row by its id on a healthy database.
#[derive(Serialize, Deserialize)]
pub struct Throughput {
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// Connections are reset and refused for five seconds.
#[derive(Serialize, Deserialize)]
pub struct Outage {
    /// From the end of the outage to the first success; `None` if there was none within 15 s.
    pub first_success_s: Option<f64>,
    /// From the end of the outage to the 64th success.
    pub steady_success_s: Option<f64>,
    pub errors: usize,
    /// How long callers waited for an error during the outage.
    pub error_p50_ms: Option<f64>,
}

/// All open connections go silent; new ones work.
#[derive(Serialize, Deserialize)]
pub struct Silence {
    /// From the start of the silence to the first success; `None` if there was none within 15 s.
    pub first_success_s: Option<f64>,
    /// Connections that were usable at the same time afterwards.
    pub connections_left: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_survive_serialization() -> serde_json::Result<()> {
        let measured: Outage = serde_json::from_str(
            r#"{"first_success_s":0.25,"steady_success_s":null,"errors":3,"error_p50_ms":1000.5}"#,
        )?;
        assert_eq!((measured.first_success_s, measured.steady_success_s, measured.errors), (Some(0.25), None, 3));
        let figure = PoolFigure { pool: Pool::Bb8, connections: 10, round: 0, measured };
        let stored = serde_json::to_value(&figure)?;
        assert_eq!(stored["pool"], "bb8");
        assert_eq!(stored["error_p50_ms"], 1000.5_f64);
        let read: PoolFigure<Outage> = serde_json::from_value(stored)?;
        assert_eq!((read.pool, read.measured.steady_success_s), (Pool::Bb8, None));
        Ok(())
    }
}
