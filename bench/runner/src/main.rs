//! Measures users-api and its peers side by side: the same machine, the same databases, the same rows, the same
//! requests, in turns. Started by `bench/run`, which builds and installs what this needs.

mod bulk;
mod compare;
mod engines;
mod extra;
mod http;
mod loads;
mod machine;
mod measure;
mod open_loop;
mod owner;
mod peers;
mod plots;
mod pools;
mod process;
mod progress;
mod report;
mod report_extra;
mod report_pools;
mod results;
mod seed;
mod tools;

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::PathBuf, process::ExitCode};

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    engines::Engine,
    measure::Run,
    peers::Peer,
    progress::Progress,
    results::{Part, Results, Stamp},
};

/// Measures users-api and its peers side by side.
#[derive(Clone, Parser)]
#[command(bin_name = "bench/run")]
pub struct Options {
    /// A look of a few minutes: few rounds, peers, clients and loads, on PostgreSQL. It leaves docs/ as it is.
    #[arg(long)]
    quick: bool,

    /// Only these parts, separated by commas; figures of other parts are kept from the last run on this machine
    #[arg(long, value_name = "WORDS", value_delimiter = ',', num_args = 1..)]
    only: Vec<Part>,

    /// Only these peers in the rounds, separated by commas; users-api always takes part
    #[arg(long, value_name = "WORDS", value_delimiter = ',', num_args = 1..)]
    peers: Vec<Peer>,

    /// Only so many clients, of 1, 16, 64 and 256, separated by commas
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', num_args = 1..)]
    clients: Vec<usize>,

    /// Rounds [default: 5, quick 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,

    /// Length of a measurement [default: 4, quick 2]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u16).range(1..=3600))]
    seconds: Option<u16>,

    /// Where the databases are put for the time of the run: on a disk, with 8 GB free for a full run
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    folder: PathBuf,

    /// A peer whose build failed
    #[arg(long, hide = true)]
    unbuilt: Vec<String>,
}

impl Options {
    fn parts(&self) -> Vec<Part> {
        if !self.only.is_empty() {
            self.only.clone()
        } else if self.quick {
            vec![Part::Get, Part::First, Part::Post]
        } else {
            Part::value_variants().to_vec()
        }
    }

    fn peers(&self) -> Vec<Peer> {
        let mut peers = if !self.peers.is_empty() {
            self.peers.clone()
        } else if self.quick {
            vec![Peer::ActixSeaorm, Peer::ExpressSequelize, Peer::Pgbench]
        } else {
            Peer::value_variants().to_vec()
        };
        peers.push(Peer::UsersApi);
        peers.sort();
        peers.dedup();
        peers
    }

    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 2 } else { 5 }).into()
    }

    fn seconds(&self) -> u64 {
        self.seconds.unwrap_or(if self.quick { 2 } else { 4 }).into()
    }
}

/// One thread, as wrk has: the open loop is to leave the processors to the peers.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    // Whoever loses is dropped, and what is dropped ends its processes and removes its files.
    let ended = tokio::select! {
        ended = run(options) => ended,
        signalled = signalled() => signalled,
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for a signal that asks this process to end.
async fn signalled() -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let kind = tokio::select! {
        _ = interrupt.recv() => SignalKind::interrupt(),
        _ = terminate.recv() => SignalKind::terminate(),
        _ = hang_up.recv() => SignalKind::hangup(),
    };
    eprintln!("bench: told to end; the servers are being ended");
    Ok(ExitCode::from(u8::try_from(128 + kind.as_raw_value())?))
}

async fn run(options: Options) -> Result<ExitCode> {
    ensure!(fs::exists("bench/run")?, "start it by bench/run");
    let place = tempfile::Builder::new().prefix("users-api-bench-").tempdir_in(&options.folder)?;
    // The servers' own users have to get through to their folders.
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o711))?;
    let work = place.path().join("work");
    fs::create_dir(&work)?;

    let machine = machine::machine(place.path()).await;
    let kind = Results { quick: options.quick, only_pools: options.parts() == [Part::Pool], ..Results::default() };
    let earlier = Results::read(&report::file(&kind)).filter(|_| !options.only.is_empty());
    let mut results = earlier.filter(|earlier| earlier.machine == machine).unwrap_or_default();
    (results.quick, results.only_pools) = (kind.quick, kind.only_pools);
    results.machine = machine;
    results.versions = machine::versions().await;
    for part in options.parts() {
        results.forget(part, &options.clients);
    }
    let folder = place.path().to_owned();
    // Now, and not when a part is done: it is of what was built that the figures are.
    let commit = machine::commit().await;
    let mut run = Run { options, folder, work, commit, results, progress: Progress::new() };
    for engine in Engine::value_variants() {
        let count = run.count(*engine);
        run.progress.plan(count as f64 * run.weight());
    }
    let extras = [
        (Part::Sweep, extra::sweep_weight(&run)),
        (Part::Overload, extra::overload_weight(&run)),
        (Part::Pages, extra::PAGES_WEIGHT),
        (Part::Memory, extra::MEMORY_WEIGHT),
        (Part::Start, extra::START_WEIGHT),
        (Part::Bulk, 3.0 * bulk::weight(&run)),
        (Part::Pool, pools::weight(&run)),
    ];
    for (part, weight) in extras {
        run.progress.plan(if run.wants(part) { weight } else { 0.0 });
    }
    // The databases in `place` are dropped in here, and only then `place` itself.
    all(&mut run).await
}

/// What an engine's failure leaves out.
const REST: &str = "the rest of its measurements";

/// One engine after the other, so that only one server runs at a time. What fails is told, and the rest goes on.
async fn all(run: &mut Run) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for engine in [Engine::Postgres, Engine::MariaDb, Engine::Sqlite] {
        let extras: &[Part] = match engine {
            Engine::Postgres => &[Part::Sweep, Part::Overload, Part::Pool, Part::Pages, Part::Bulk],
            Engine::MariaDb => &[Part::Bulk],
            Engine::Sqlite => &[Part::Memory, Part::Start, Part::Bulk],
        };
        let extras: Vec<Part> = extras.iter().copied().filter(|part| run.wants(*part)).collect();
        if run.cells(engine).is_empty() && extras.is_empty() {
            continue;
        }
        run.results.take_in(engine, REST);
        if let Err(error) = on_engine(run, engine, &extras).await {
            run.results.leave_out(engine, REST, format!("{error:#}"));
            code = ExitCode::FAILURE;
        }
        run.results.write(&report::file(&run.results))?;
    }
    report::write(&run.results)?;
    let took = progress::clock(run.progress.elapsed().as_secs());
    println!("done after {took}; written: {}", report::places(&run.results));
    Ok(code)
}

async fn on_engine(run: &mut Run, engine: Engine, extras: &[Part]) -> Result<()> {
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
        run.results.write(&report::file(&run.results))?;
        let measured = match part {
            Part::Sweep => extra::sweep(run, &mut stage).await,
            Part::Overload => extra::overload(run, &mut stage).await,
            Part::Pool => pools::pools(run, &stage.database).await,
            Part::Pages => extra::pages(run, &stage.database).await,
            Part::Memory => extra::memory(run, &stage.database).await,
            Part::Start => extra::start(run, &stage.database).await,
            Part::Bulk => bulk::bulk(run, &stage.database).await,
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
