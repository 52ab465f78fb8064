//! The pool benchmark: compares orm-pool with other pools in throughput, in an outage, and with silent connections.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::{
    engines::Database,
    loads::CLIENTS,
    machine,
    measure::Run,
    pool_results::{Outage, Pool, PoolFigure, Silence, Throughput},
    tools,
};

/// The program that measures one pool in a separate process.
const PROGRAM: &str = "bench/target/release/pools";
/// The scope of this benchmark in the list of exclusions.
const SCOPE: &str = "pools";
/// Numbers of connections at which throughput is measured.
pub const SIZES: [u32; 2] = [4, 10];
/// The number of connections in the outage and with silent connections.
pub const SIZE: u32 = 10;
/// Outages and silent connections vary little between rounds and take long.
const FAILURE_ROUNDS: usize = 3;
/// Approximate duration of an outage in seconds, including one second to recover.
const OUTAGE_WEIGHT: f64 = 9.5;
/// Approximate duration of a measurement with silent connections in seconds.
const SILENCE_WEIGHT: f64 = 19.5;
/// The longest that the program may run beyond the measurement. Its own limit is shorter.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(90);
/// Crates whose versions are reported.
const CRATES: [&str; 6] = ["sea-orm", "sqlx", "tokio-postgres", "deadpool-postgres", "bb8", "bb8-postgres"];

#[derive(Clone, Copy)]
enum Step {
    Throughput(u32),
    Outage,
    Silence,
}

fn failure_rounds(run: &Run) -> usize {
    run.rounds().min(FAILURE_ROUNDS)
}

/// Approximate duration of the whole benchmark in seconds.
pub fn weight(run: &Run) -> f64 {
    let throughput = (run.rounds() * SIZES.len()) as f64 * run.weight();
    let failures = failure_rounds(run) as f64 * (OUTAGE_WEIGHT + SILENCE_WEIGHT);
    Pool::ALL.len() as f64 * (throughput + failures)
}

/// Measures all pools in turn, in an order that changes from round to round.
pub async fn pools(run: &mut Run, database: &Database) -> Result<()> {
    ensure!(Path::new(PROGRAM).is_file(), "{PROGRAM} does not exist");
    let mut active = Pool::ALL.to_vec();
    for pool in &active {
        run.results.include(SCOPE, pool.name());
    }
    let versions = CRATES.map(|name| (name.to_owned(), machine::locked("bench/Cargo.lock", name)));
    run.results.pools.versions = versions.into();
    for round in 0..run.rounds() {
        let mut steps: Vec<Step> = SIZES.map(Step::Throughput).to_vec();
        if round < failure_rounds(run) {
            steps.extend([Step::Outage, Step::Silence]);
        }
        for step in steps {
            let mut order = active.clone();
            order.rotate_left(round % active.len());
            for pool in order {
                if let Err(error) = measure(run, database, pool, step, round).await {
                    ensure!(pool != Pool::Unbatched, "{}: {error:#}", pool.name());
                    let reason = format!("from round {} on: {error:#}", round + 1);
                    run.results.exclude(SCOPE, pool.name(), reason);
                    active.retain(|other| *other != pool);
                }
            }
        }
        run.results.save()?;
    }
    Ok(())
}

async fn measure(run: &mut Run, database: &Database, pool: Pool, step: Step, round: usize) -> Result<()> {
    let prefix = format!("pools, round {}, {}", round + 1, pool.name());
    let time = |seconds: Option<f64>| seconds.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds:.2} s"));
    match step {
        Step::Throughput(connections) => {
            let measured: Throughput = run_program(run, database, pool, "throughput", connections).await?;
            let Throughput { per_second, p50_ms, p99_ms } = measured;
            let text = format!(
                "{prefix}, {connections} connections: {per_second:.0}/s, p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms"
            );
            run.progress.advance(run.weight(), &text);
            run.results.pools.throughput.push(PoolFigure { pool, connections, round, measured });
        }
        Step::Outage => {
            let measured: Outage = run_program(run, database, pool, "outage", SIZE).await?;
            let text = format!(
                "{prefix}, outage: success after {}, {} errors, p50 {:.1} ms",
                time(measured.first_success_s),
                measured.errors,
                measured.error_p50_ms.unwrap_or(f64::NAN)
            );
            run.progress.advance(OUTAGE_WEIGHT, &text);
            run.results.pools.outage.push(PoolFigure { pool, connections: SIZE, round, measured });
        }
        Step::Silence => {
            let measured: Silence = run_program(run, database, pool, "silence", SIZE).await?;
            let text = format!(
                "{prefix}, silence: success after {}, {} of {SIZE} connections left",
                time(measured.first_success_s),
                measured.connections_left
            );
            run.progress.advance(SILENCE_WEIGHT, &text);
            run.results.pools.silence.push(PoolFigure { pool, connections: SIZE, round, measured });
        }
    }
    Ok(())
}

/// Runs the program for one measurement of one pool and returns what it measured.
async fn run_program<T: DeserializeOwned>(
    run: &Run,
    database: &Database,
    pool: Pool,
    measure: &str,
    connections: u32,
) -> Result<T> {
    let mut program = tools::command(std::path::absolute(PROGRAM)?);
    program.args(["--pool", pool.argument(), "--measure", measure]);
    program.args(["--connections", &connections.to_string(), "--tasks", &CLIENTS.to_string()]);
    program.args(["--seconds", &run.seconds().to_string(), "--rows", &database.rows.to_string()]);
    // The drivers read environment variables.
    program.current_dir(&run.work).env_clear().env("DATABASE_URL", database.url());
    let limit = PROGRAM_TIMEOUT + Duration::from_secs(run.seconds());
    let output = timeout(limit, tools::output(&mut program)).await;
    let output = output.with_context(|| format!("the program did not finish within {limit:?}"))??;
    serde_json::from_str(output.trim()).with_context(|| format!("unexpected output: {}", tools::tail(&output)))
}
