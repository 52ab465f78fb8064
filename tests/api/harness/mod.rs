//! What the cases stand on: engines, databases, applications, processes.

mod account;
mod app;
mod authority;
pub mod bare;
mod context;
mod cutter;
mod engine;
mod kept;
mod load;
mod lock;
mod pgbouncer;
mod process;
mod prometheus;
mod proxy;
mod raw;
mod reverse_proxy;
mod server;

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

pub use self::{
    account::Account,
    app::{App, Reply, client},
    authority::Authority,
    context::{Context, connect, kill_all, new_database, sqlite_url},
    cutter::Cutter,
    engine::Engine,
    load::{Load, Sample, by_status, quantile},
    lock::Locked,
    pgbouncer::{PgBouncer, Version, pgbouncers},
    process::{Service, binary},
    prometheus::{Prometheus, lint},
    proxy::Proxy,
    raw::{Upload, read_message},
    reverse_proxy::{Kind as ProxyKind, ReverseProxy},
    server::{End, Server},
};

/// Whether the applications let requests that ask alike share a statement: `USERS_API_TEST_BATCH=false` says no.
pub fn is_batching() -> bool {
    std::env::var("USERS_API_TEST_BATCH").map_or(true, |text| text != "false")
}

/// How much of something a case makes: as much as the variable says.
pub fn wanted<T: std::str::FromStr>(variable: &str, otherwise: T) -> T {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// No case takes longer; one that hangs is a failure with a name.
const CASE_LIMIT: Duration = Duration::from_secs(300);

type Body = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One case: a name, and what to do with a context.
pub struct Case {
    pub name: &'static str,
    pub run: fn(Context) -> Body,
}

/// Makes `cases()` of async functions that take a [`Context`].
#[macro_export]
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub fn cases() -> Vec<$crate::harness::Case> {
            vec![$($crate::harness::Case { name: stringify!($name), run: |context| Box::pin($name(context)) }),*]
        }
    };
}

/// The cases of one module.
pub struct Suite {
    name: &'static str,
    cases: Vec<Case>,
    engines: Vec<Engine>,
    is_alone: bool,
}

/// Held by each case, and by one alone that measures.
static MACHINE: RwLock<()> = RwLock::new(());

pub fn suite(name: &'static str, cases: Vec<Case>) -> Suite {
    Suite { name, cases, engines: Engine::ALL.to_vec(), is_alone: false }
}

impl Suite {
    /// Cases to which the engine makes no difference run once.
    pub fn without_engine(mut self) -> Self {
        self.engines = vec![Engine::Sqlite];
        self
    }

    /// Cases that measure: no other runs beside one of them.
    pub fn alone(mut self) -> Self {
        self.is_alone = true;
        self
    }

    /// Cases about what there is for PostgreSQL alone.
    pub fn on_postgres(mut self) -> Self {
        self.engines = vec![Engine::Postgres];
        self
    }

    /// Cases about what lies between the service and a server.
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

/// Runs all cases, ends the servers, and prints the table.
pub fn run(suites: Vec<Suite>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Cases wait for servers about half of the time.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    arguments.test_threads.get_or_insert(cores + cores.div_ceil(2));
    let mut trials = Vec::new();
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
                        return execute(engine, case.run);
                    }
                    let _machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
                    execute(engine, case.run)
                })
                .with_ignored_flag(missing.is_some());
                trials.push(trial);
            }
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    server::end_all();
    if arguments.list {
        return ExitCode::SUCCESS;
    }
    let complete = print_table();
    match (conclusion.has_failed(), complete) {
        (false, true) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Whether the run may count as complete.
fn print_table() -> bool {
    for engine in Engine::ALL {
        if let Some(missing) = engine.missing() {
            println!("left out {}: {missing}", engine.name());
        }
    }
    println!("\n{:10} {:>7} {:>7} {:>8}", "engine", "passed", "failed", "skipped");
    let tallies = TALLIES.lock().unwrap_or_else(PoisonError::into_inner);
    for (engine, tally) in tallies.iter() {
        println!("{engine:10} {:>7} {:>7} {:>8}", tally.passed, tally.failed, tally.skipped);
    }
    let skipped = tallies.values().any(|tally| tally.skipped > 0);
    if skipped && std::env::var("CI").is_ok_and(|ci| ci == "true") {
        println!("\nCI=true: a skipped engine is a failure");
        return false;
    }
    true
}

fn execute(engine: Engine, case: fn(Context) -> Body) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let long = crate::contract::command().map(|_| crate::contract::LIMIT).or_else(crate::soak::duration);
    let limit = CASE_LIMIT + long.unwrap_or_default();
    let outcome = runtime.block_on(async {
        let context = Context::new(engine);
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
        Ok(Err(_)) => format!("did not end within {limit:?}"),
        Err(panic) => panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_else(|| "panicked".to_owned()),
    };
    tally(engine, |tally| tally.failed += 1);
    Err(failure.into())
}

/// Waits until `condition` gives something, 30 seconds at the most.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let limit = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < limit, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
