//! Benchmarks users-api and its peers in turn, with the same machine, databases, rows and requests. Started by
//! `bench/run`, which installs and builds everything it needs.

mod api_key;
mod auth;
mod auth_results;
mod bulk;
mod compare;
mod engines;
mod extra;
mod http;
mod loads;
mod machine;
mod measure;
mod number_format;
mod open_loop;
mod options;
mod owner;
mod peers;
mod plots;
mod pool_results;
mod pools;
mod process;
mod progress;
mod report;
mod report_auth;
mod report_extra;
mod report_pools;
mod results;
mod seed;
mod spread;
mod tools;

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, process::ExitCode};

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    engines::Engine,
    measure::Run,
    options::Options,
    peers::Peer,
    progress::Progress,
    results::{Part, Results, ResultsFile, Stamp},
};

/// Runs on one thread, like wrk: the load generator leaves the processors to the peers.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    // The branch that loses is dropped, and dropping it ends its processes and removes its files.
    let result = tokio::select! {
        result = run(options) => result,
        interrupted = interrupted() => interrupted,
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for SIGINT, SIGTERM or SIGHUP.
async fn interrupted() -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let kind = tokio::select! {
        _ = interrupt.recv() => SignalKind::interrupt(),
        _ = terminate.recv() => SignalKind::terminate(),
        _ = hang_up.recv() => SignalKind::hangup(),
    };
    eprintln!("bench: interrupted; stopping the servers");
    Ok(ExitCode::from(u8::try_from(128 + kind.as_raw_value())?))
}

/// Runs the selected parts, those with a separate results file after the others.
async fn run(options: Options) -> Result<ExitCode> {
    ensure!(fs::exists("bench/run")?, "start it with bench/run");
    let (auth, others): (Vec<Part>, Vec<Part>) = options.parts().into_iter().partition(|part| *part == Part::Auth);
    let main = if others == [Part::Pool] { ResultsFile::Pools } else { ResultsFile::Main };
    let mut code = ExitCode::SUCCESS;
    for (file, parts) in [(main, others), (ResultsFile::Auth, auth)] {
        if !parts.is_empty() && !run_parts(options.clone(), file, parts).await? {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// Measures parts whose results have the same file, and writes the report. Returns whether everything was measured.
async fn run_parts(options: Options, file: ResultsFile, parts: Vec<Part>) -> Result<bool> {
    let root = tempfile::Builder::new().prefix("users-api-bench-").tempdir_in(&options.folder)?;
    // The servers run as other users, which have to reach their folders.
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o711))?;
    let work = root.path().join("work");
    fs::create_dir(&work)?;

    let machine = machine::machine(root.path()).await;
    let new = Results { quick: options.quick, file, ..Results::default() };
    let earlier = Results::read(&new.path()).filter(|_| !options.only.is_empty());
    let mut results = earlier.filter(|earlier| earlier.machine == machine).unwrap_or_default();
    (results.quick, results.file) = (new.quick, new.file);
    results.machine = machine;
    results.versions = machine::versions().await;
    for part in &parts {
        results.clear(*part, &options.clients);
    }
    let folder = root.path().to_owned();
    // Read now, because the figures belong to the commit that was built, even if HEAD moves during the run.
    let commit = machine::commit().await;
    let mut run = Run { options, parts, folder, work, commit, results, progress: Progress::new() };
    plan(&mut run);
    // Stops the databases below `root` before `root` itself is removed.
    run_engines(&mut run).await
}

/// Adds up the expected seconds of all parts.
fn plan(run: &mut Run) {
    for engine in Engine::value_variants() {
        let count = run.count(*engine);
        run.progress.plan(count as f64 * run.weight());
    }
    let extras = [
        (Part::Sweep, extra::sweep_weight(run)),
        (Part::Overload, extra::overload_weight(run)),
        (Part::Pages, extra::PAGES_WEIGHT),
        (Part::Memory, extra::MEMORY_WEIGHT),
        (Part::Start, extra::START_WEIGHT),
        (Part::Bulk, 3.0 * bulk::weight(run)),
        (Part::Pool, pools::weight(run)),
        (Part::Auth, 2.0 * auth::weight(run)),
    ];
    for (part, weight) in extras {
        run.progress.plan(if run.is_selected(part) { weight } else { 0.0 });
    }
}

/// The label of an engine's remaining measurements in the list of exclusions, if the engine fails.
const REMAINING: &str = "remaining measurements";

/// Runs one engine after another, so that only one server runs at a time. A failure is recorded, and the run continues.
/// Returns whether there was none.
async fn run_engines(run: &mut Run) -> Result<bool> {
    let mut is_complete = true;
    for engine in [Engine::Postgres, Engine::MariaDb, Engine::Sqlite] {
        let extras: &[Part] = match engine {
            Engine::Postgres => &[Part::Sweep, Part::Overload, Part::Pool, Part::Pages, Part::Bulk, Part::Auth],
            Engine::MariaDb => &[Part::Bulk],
            Engine::Sqlite => &[Part::Memory, Part::Start, Part::Bulk, Part::Auth],
        };
        let extras: Vec<Part> = extras.iter().copied().filter(|part| run.is_selected(*part)).collect();
        if run.cells(engine).is_empty() && extras.is_empty() {
            continue;
        }
        run.results.include(engine, REMAINING);
        if let Err(error) = run_engine(run, engine, &extras).await {
            run.results.exclude(engine, REMAINING, format!("{error:#}"));
            is_complete = false;
        }
        run.results.save()?;
    }
    report::write(&run.results)?;
    let elapsed = progress::clock(run.progress.elapsed().as_secs());
    println!("done after {elapsed}; written: {}", report::written_files(&run.results));
    Ok(is_complete)
}

async fn run_engine(run: &mut Run, engine: Engine, extras: &[Part]) -> Result<()> {
    let others: &[Peer] = if extras.contains(&Part::Overload) { &extra::OVERLOADED } else { &[] };
    let mut stage = run.stage(engine, others).await?;
    if !run.cells(engine).is_empty() {
        run.measure(&mut stage).await?;
        let mut measured: BTreeMap<Part, Vec<usize>> = BTreeMap::new();
        for (load, clients) in run.cells(engine) {
            measured.entry(Part::of(engine, load)).or_default().push(clients);
        }
        for (part, clients) in measured {
            stamp(run, part, clients).await;
        }
    }
    let mut failed = Vec::new();
    for part in extras {
        run.results.save()?;
        let measured = match part {
            Part::Sweep => extra::sweep(run, &mut stage).await,
            Part::Overload => extra::overload(run, &mut stage).await,
            Part::Pool => pools::pools(run, &stage.database).await,
            Part::Pages => extra::pages(run, &stage.database).await,
            Part::Memory => extra::memory(run, &stage.database).await,
            Part::Start => extra::start(run, &stage.database).await,
            Part::Bulk => bulk::bulk(run, &stage.database).await,
            Part::Auth => auth::auth(run, &mut stage).await,
            _ => Ok(()),
        };
        match measured {
            Ok(()) => stamp(run, *part, Vec::new()).await,
            Err(error) => failed.push(format!("{part:?}: {error:#}").to_lowercase()),
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

async fn stamp(run: &mut Run, part: Part, clients: Vec<usize>) {
    let (rounds, seconds) = (run.rounds(), run.seconds());
    let stamp = Stamp { clients, at: machine::now().await, commit: run.commit.clone(), rounds, seconds };
    run.results.stamps.entry(part).or_default().push(stamp);
}
