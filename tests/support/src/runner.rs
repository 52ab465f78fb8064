//! Runs each case on each available engine, and prints a table of the results.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    pin::Pin,
    process::ExitCode,
    sync::{Mutex, PoisonError, RwLock},
    time::Duration,
};

use futures_util::FutureExt;
use libtest_mimic::{Arguments, Failed, Trial};

use crate::{Engine, server};

/// The environment of a case, such as its databases.
pub trait CaseContext: Clone + Send + Sync + 'static {
    /// Creates a context for this engine.
    fn new(engine: Engine) -> Self;

    /// Removes what the case has created, whether it passed or not.
    fn clean_up(&self) -> impl Future<Output = ()> + Send;
}

type Body = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A test case: its name and its body.
pub struct Case<C> {
    pub name: &'static str,
    pub run: fn(C) -> Body,
}

/// Defines `cases()`, which lists async functions that take the crate's `Context`.
#[macro_export]
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub fn cases() -> Vec<$crate::Case<Context>> {
            vec![$($crate::Case { name: stringify!($name), run: |context| Box::pin($name(context)) }),*]
        }
    };
}

/// The cases of one module.
pub struct Suite<C> {
    name: &'static str,
    cases: Vec<Case<C>>,
    engines: Vec<Engine>,
    is_alone: bool,
}

/// Read-locked by each case, and write-locked by a case that has to run alone.
static MACHINE: RwLock<()> = RwLock::new(());

/// A suite that runs on every engine, in parallel with others.
pub fn suite<C>(name: &'static str, cases: Vec<Case<C>>) -> Suite<C> {
    Suite { name, cases, engines: Engine::ALL.to_vec(), is_alone: false }
}

impl<C> Suite<C> {
    /// Runs each case once, for cases that do not depend on the engine.
    pub fn without_engine(mut self) -> Self {
        self.engines = vec![Engine::Sqlite];
        self
    }

    /// Runs each case without others in parallel, for cases that measure.
    pub fn alone(mut self) -> Self {
        self.is_alone = true;
        self
    }

    /// Runs the cases on PostgreSQL only.
    pub fn on_postgres(mut self) -> Self {
        self.engines = vec![Engine::Postgres];
        self
    }

    /// Runs the cases on engines that are servers: not on SQLite.
    pub fn on_servers(mut self) -> Self {
        self.engines.retain(|engine| *engine != Engine::Sqlite);
        self
    }
}

#[derive(Clone, Copy, Default)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

static TALLIES: Mutex<BTreeMap<&'static str, Tally>> = Mutex::new(BTreeMap::new());

fn tally(engine: Engine, count: impl FnOnce(&mut Tally)) {
    let mut tallies = TALLIES.lock().unwrap_or_else(PoisonError::into_inner);
    count(tallies.entry(engine.name()).or_default());
}

/// Runs all cases, stops the servers, and prints the table. A case that takes longer than `case_limit` fails.
pub fn run<C: CaseContext>(suites: Vec<Suite<C>>, case_limit: Duration) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Cases spend more than half of their time waiting for servers or for time to pass.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    arguments.test_threads.get_or_insert(4 * cores);
    let (mut trials, mut lonely) = (Vec::new(), Vec::new());
    for suite in suites {
        for case in suite.cases {
            for &engine in &suite.engines {
                let missing = engine.missing();
                if missing.is_some() {
                    tally(engine, |tally| tally.skipped += 1);
                }
                let name = format!("{}::{}::{}", suite.name, case.name, engine.name());
                let trial = Trial::test(name, move || {
                    if suite.is_alone {
                        let _machine = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
                        return execute(engine, case.run, case_limit);
                    }
                    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
                    execute(engine, case.run, case_limit)
                })
                .with_ignored_flag(missing.is_some());
                if suite.is_alone { lonely.push(trial) } else { trials.push(trial) }
            }
        }
    }
    interleave(&mut trials);
    trials.extend(lonely);
    let conclusion = libtest_mimic::run(&arguments, trials);
    server::end_all();
    if arguments.list {
        return ExitCode::SUCCESS;
    }
    let is_complete = print_table();
    match (conclusion.has_failed(), is_complete) {
        (false, true) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Mixes the suites, always in the same way: some need the processor, others mostly wait.
fn interleave(trials: &mut Vec<Trial>) {
    // Golden-ratio hashing spreads neighbours evenly.
    const SPREAD: usize = 0x9E37_79B9;
    let mut places: Vec<(usize, Trial)> =
        trials.drain(..).enumerate().map(|(place, trial)| (place.wrapping_mul(SPREAD) & 0xFFFF_FFFF, trial)).collect();
    places.sort_by_key(|(place, _)| *place);
    trials.extend(places.into_iter().map(|(_, trial)| trial));
}

/// Prints the results by engine. Returns whether the run is complete: in CI, no engine may be skipped.
fn print_table() -> bool {
    for engine in Engine::ALL {
        if let Some(missing) = engine.missing() {
            println!("skipped {}: {missing}", engine.name());
        }
    }
    println!("\n{:10} {:>7} {:>7} {:>8}", "engine", "passed", "failed", "skipped");
    let tallies = TALLIES.lock().unwrap_or_else(PoisonError::into_inner);
    for (engine, tally) in tallies.iter() {
        println!("{engine:10} {:>7} {:>7} {:>8}", tally.passed, tally.failed, tally.skipped);
    }
    let skipped = tallies.values().any(|tally| tally.skipped > 0);
    if skipped && std::env::var("CI").is_ok_and(|ci| ci == "true") {
        println!("\nCI=true: skipped engines are a failure");
        return false;
    }
    true
}

fn execute<C: CaseContext>(engine: Engine, case: fn(C) -> Body, limit: Duration) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(async {
        let context = C::new(engine);
        let outcome = AssertUnwindSafe(tokio::time::timeout(limit, case(context.clone()))).catch_unwind().await;
        context.clean_up().await;
        outcome
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    let failure = match outcome {
        Ok(Ok(())) => {
            tally(engine, |tally| tally.passed += 1);
            return Ok(());
        }
        Ok(Err(_)) => format!("timed out after {limit:?}"),
        Err(panic) => panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_else(|| "panicked".to_owned()),
    };
    tally(engine, |tally| tally.failed += 1);
    Err(failure.into())
}
