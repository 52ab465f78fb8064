//! What imports and exports have in common on the command line.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use orm_pool::{Pool, PoolOptions};
use tokio::{runtime::Builder, sync::watch};

use super::CommandError;
use crate::{
    app,
    service::UserService,
    settings::Settings,
    shutdown::Signals,
    telemetry::{self, Log, Telemetry},
};

/// After a signal to stop, a reader of the output that takes nothing for so long is not waited for.
const STALL_LIMIT: Duration = Duration::from_secs(2);
const STALL_CHECK: Duration = Duration::from_millis(100);

/// Works on a pool of its own. The first signal asks to stop where it can be resumed; the second ends the process.
pub(super) fn run(
    settings: &Settings,
    work: impl AsyncFnOnce(UserService, watch::Receiver<bool>) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let telemetry = Telemetry::start(settings, Log::Stderr).map_err(CommandError::failed)?;
    // Signals are waited for on a thread of their own: this one may block in a write to a reader that stalls.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(CommandError::failed)?;
    let done = runtime.block_on(async {
        let mut signals = Signals::listen().map_err(CommandError::failed)?;
        let (ask, mut stop) = watch::channel(false);
        let listening = tokio::spawn(async move {
            signals.stop().await;
            ask.send_replace(true);
            let code = tokio::select! {
                (_, number) = signals.stop() => 128 + i32::from(number),
                () = stalled() => {
                    let error = CommandError::Interrupted("stopped; the output is not being read".to_owned());
                    telemetry::print_error(format!("users-api: {error}"));
                    4
                }
            };
            std::process::exit(code);
        });
        let url = settings.database.url().map_err(CommandError::failed)?;
        // One statement after the other: more than two connections would have nothing to do.
        let options = PoolOptions { max: settings.pool.max.min(2), min: 1, ..settings.pool.clone() };
        let pool = tokio::select! {
            pool = Pool::connect(&url, &options) => pool.map_err(CommandError::failed)?,
            Ok(_) = stop.wait_for(|is_asked| *is_asked) => {
                return Err(CommandError::Interrupted("stopped before anything was done".to_owned()));
            }
        };
        let done = match app::prepare_schema(&pool, settings.database.migrate).await {
            Ok(()) => work(UserService::new(pool.clone()), stop).await,
            Err(error) => Err(CommandError::failed(error)),
        };
        listening.abort();
        let closed = pool.close(options.acquire).await;
        done.and(closed.map_err(CommandError::failed))
    });
    telemetry.end();
    done
}

/// When the write began that is under way.
static WRITING: Mutex<Option<Instant>> = Mutex::new(None);

/// Writes to an output whose reader may stall.
pub(super) fn output<T>(write: impl FnOnce() -> T) -> T {
    let mark = |began| *WRITING.lock().unwrap_or_else(PoisonError::into_inner) = began;
    mark(Some(Instant::now()));
    let written = write();
    mark(None);
    written
}

/// Ready when a write takes too long.
async fn stalled() {
    let is_stalled = || {
        let began = *WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        began.is_some_and(|began| began.elapsed() > STALL_LIMIT)
    };
    while !is_stalled() {
        tokio::time::sleep(STALL_CHECK).await;
    }
}

/// A bar on standard error, if that is a terminal.
pub(super) fn progress(length: Option<u64>, position: &str) -> ProgressBar {
    let bar = match length {
        Some(length) => ProgressBar::new(length),
        None => ProgressBar::no_length(),
    };
    let template = match length {
        Some(_) => format!("{{elapsed}} {{bar:30}} {position} {{msg}} {{eta}} left"),
        None => format!("{{elapsed}} {{spinner}} {position} {{msg}}"),
    };
    match ProgressStyle::with_template(&template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Prints to standard error.
#[expect(clippy::print_stderr, reason = "standard output is for what was asked for")]
pub(super) fn complain(text: &str) {
    output(|| eprint!("{text}"));
}
