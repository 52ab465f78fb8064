//! The pool benchmark: orm-pool beside other pools, in throughput, an outage, and with silent connections.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::{
    engines::Database,
    machine,
    measure::{CLIENTS, Run},
    report, tools,
};

/// Measures one pool, in a process of its own.
const PROGRAM: &str = "bench/target/release/pools";
/// As it is named among what was left out.
const PLACE: &str = "pools";
/// Sizes of the pool that throughput is measured at.
pub const SIZES: [u32; 2] = [4, 10];
/// The size for all else.
pub const SIZE: u32 = 10;
/// An outage and a silence differ little from round to round, and take long.
const TROUBLE_ROUNDS: usize = 3;
/// Seconds that these take, roughly; an outage with a second to recover.
const OUTAGE_WEIGHT: f64 = 9.5;
const SILENCE_WEIGHT: f64 = 19.5;
/// The longest that the program takes beyond the measurement. It has a shorter limit itself.
const PATIENCE: Duration = Duration::from_secs(90);
/// Crates whose versions are told.
const CRATES: [&str; 6] = ["sea-orm", "sqlx", "tokio-postgres", "deadpool-postgres", "bb8", "bb8-postgres"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pool {
    OrmPool,
    OrmPoolBatched,
    SeaOrm,
    Deadpool,
    Bb8,
}

impl Pool {
    pub const ALL: [Self; 5] = [Self::OrmPool, Self::OrmPoolBatched, Self::SeaOrm, Self::Deadpool, Self::Bb8];

    pub fn name(self) -> &'static str {
        match self {
            Self::OrmPool => "orm-pool",
            Self::OrmPoolBatched => "orm-pool, batched",
            Self::SeaOrm => "SeaORM's own pool (sqlx)",
            Self::Deadpool => "deadpool-postgres",
            Self::Bb8 => "bb8-postgres",
        }
    }

    /// As the program knows it.
    fn word(self) -> &'static str {
        match self {
            Self::OrmPool => "orm-pool",
            Self::OrmPoolBatched => "orm-pool-batched",
            Self::SeaOrm => "sea-orm",
            Self::Deadpool => "deadpool",
            Self::Bb8 => "bb8",
        }
    }
}

/// What was measured, as it is kept in results.json.
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
    pub seen: T,
}

/// Reads, each of one row by its id, while nothing is wrong.
#[derive(Serialize, Deserialize)]
pub struct Throughput {
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// For five seconds connections are reset and refused.
#[derive(Serialize, Deserialize)]
pub struct Outage {
    /// From the end of the outage to the first success, if there was one in 15 s.
    pub first_success_s: Option<f64>,
    /// The same to the 64th.
    pub steady_success_s: Option<f64>,
    pub errors: usize,
    /// How long callers waited for an error during the outage.
    pub error_p50_ms: Option<f64>,
}

/// All connections go silent, and new ones work.
#[derive(Serialize, Deserialize)]
pub struct Silence {
    /// From the silence to the first success, if there was one in 15 s.
    pub first_success_s: Option<f64>,
    /// How many connections could be used side by side when it was over.
    pub connections_left: usize,
}

#[derive(Clone, Copy)]
enum Step {
    Throughput(u32),
    Outage,
    Silence,
}

fn trouble_rounds(run: &Run) -> usize {
    run.rounds().min(TROUBLE_ROUNDS)
}

/// Seconds that everything takes, roughly.
pub fn weight(run: &Run) -> f64 {
    let throughput = (run.rounds() * SIZES.len()) as f64 * run.weight();
    let trouble = trouble_rounds(run) as f64 * (OUTAGE_WEIGHT + SILENCE_WEIGHT);
    Pool::ALL.len() as f64 * (throughput + trouble)
}

/// Measures all pools in turns, in an order that changes from round to round.
pub async fn pools(run: &mut Run, database: &Database) -> Result<()> {
    ensure!(Path::new(PROGRAM).is_file(), "there is no {PROGRAM}");
    let mut active = Pool::ALL.to_vec();
    for pool in &active {
        run.results.take_in(PLACE, pool.name());
    }
    let versions = CRATES.map(|name| (name.to_owned(), machine::locked("bench/Cargo.lock", name)));
    run.results.pools.versions = versions.into();
    for round in 0..run.rounds() {
        let mut steps: Vec<Step> = SIZES.map(Step::Throughput).to_vec();
        if round < trouble_rounds(run) {
            steps.extend([Step::Outage, Step::Silence]);
        }
        for step in steps {
            let mut order = active.clone();
            order.rotate_left(round % active.len());
            for pool in order {
                if let Err(error) = measure(run, database, pool, step, round).await {
                    ensure!(pool != Pool::OrmPool, "{}: {error:#}", pool.name());
                    let reason = format!("from round {} on: {error:#}", round + 1);
                    run.results.leave_out(PLACE, pool.name(), reason);
                    active.retain(|other| *other != pool);
                }
            }
        }
        run.results.write(&report::file(&run.results))?;
    }
    Ok(())
}

async fn measure(run: &mut Run, database: &Database, pool: Pool, step: Step, round: usize) -> Result<()> {
    let place = format!("pools, round {}, {}", round + 1, pool.name());
    let time = |seconds: Option<f64>| seconds.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds:.2} s"));
    match step {
        Step::Throughput(connections) => {
            let seen: Throughput = ask(run, database, pool, "throughput", connections).await?;
            let Throughput { per_second, p50_ms, p99_ms } = seen;
            let text = format!(
                "{place}, {connections} connections: {per_second:.0}/s, p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms"
            );
            run.progress.did(run.weight(), &text);
            run.results.pools.throughput.push(PoolFigure { pool, connections, round, seen });
        }
        Step::Outage => {
            let seen: Outage = ask(run, database, pool, "outage", SIZE).await?;
            let text = format!(
                "{place}, outage: success after {}, {} errors, p50 {:.1} ms",
                time(seen.first_success_s),
                seen.errors,
                seen.error_p50_ms.unwrap_or(f64::NAN)
            );
            run.progress.did(OUTAGE_WEIGHT, &text);
            run.results.pools.outage.push(PoolFigure { pool, connections: SIZE, round, seen });
        }
        Step::Silence => {
            let seen: Silence = ask(run, database, pool, "silence", SIZE).await?;
            let text = format!(
                "{place}, silence: success after {}, {} of {SIZE} connections left",
                time(seen.first_success_s),
                seen.connections_left
            );
            run.progress.did(SILENCE_WEIGHT, &text);
            run.results.pools.silence.push(PoolFigure { pool, connections: SIZE, round, seen });
        }
    }
    Ok(())
}

/// What the program says of a pool.
async fn ask<T: DeserializeOwned>(
    run: &Run,
    database: &Database,
    pool: Pool,
    measure: &str,
    connections: u32,
) -> Result<T> {
    let mut program = tools::command(std::path::absolute(PROGRAM)?);
    program.args(["--pool", pool.word(), "--measure", measure]);
    program.args(["--connections", &connections.to_string(), "--tasks", &CLIENTS.to_string()]);
    program.args(["--seconds", &run.seconds().to_string(), "--rows", &database.rows.to_string()]);
    // The drivers read variables of the environment.
    program.current_dir(&run.work).env_clear().env("DATABASE_URL", database.url());
    let limit = PATIENCE + Duration::from_secs(run.seconds());
    let said = timeout(limit, tools::output(&mut program)).await.context("it does not end")??;
    serde_json::from_str(said.trim()).with_context(|| format!("it says {}", tools::tail(&said)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_says_is_read() -> Result<()> {
        let seen: Outage = serde_json::from_str(
            r#"{"first_success_s":0.25,"steady_success_s":null,"errors":3,"error_p50_ms":1000.5}"#,
        )?;
        assert_eq!((seen.first_success_s, seen.steady_success_s, seen.errors), (Some(0.25), None, 3));
        let figure = PoolFigure { pool: Pool::Bb8, connections: 10, round: 0, seen };
        let kept = serde_json::to_value(&figure)?;
        assert_eq!(kept["pool"], "bb8");
        assert_eq!(kept["error_p50_ms"], 1000.5_f64);
        let read: PoolFigure<Outage> = serde_json::from_value(kept)?;
        assert_eq!((read.pool, read.seen.steady_success_s), (Pool::Bb8, None));
        Ok(())
    }
}
