//! What commands have in common: they end by a signal, whatever they wait for.
//!
//! A process that is the first of its container (PID 1) ignores every signal that it has no handler for, so each command
//! handles SIGTERM and SIGINT itself. The first one asks to stop; the second one ends the process at once.

use indicatif::ProgressBar;
use orm_pool::{Pool, PoolOptions};
use tokio::{runtime::Builder, task::spawn_blocking};

use super::CommandError;
use crate::{
    settings::Settings,
    shutdown::{STOP_LIMIT, Signals, StopRequest},
    telemetry::{Log, Telemetry},
};

/// Runs a command that asks for no database, and does not wait for its end once a signal came: standard output may be a
/// pipe that is not read.
pub(crate) fn interruptible(
    command: impl FnOnce() -> Result<(), CommandError> + Send + 'static,
) -> Result<(), CommandError> {
    block_on(async |stop| {
        let done = stop.or(spawn_blocking(command)).await;
        done.ok_or_else(|| CommandError::Interrupted("stopped".to_owned()))?.map_err(CommandError::failed)?
    })
}

/// Runs a command on a pool of its own.
pub(super) fn on_pool(
    settings: &Settings,
    options: &PoolOptions,
    command: impl AsyncFnOnce(Pool, StopRequest) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let telemetry = Telemetry::start(settings, Log::Stderr).map_err(CommandError::failed)?;
    let done = block_on(async |stop| {
        let url = settings.database.url().map_err(CommandError::failed)?;
        let connected = stop.or(Pool::connect(&url, options)).await;
        let pool = connected.ok_or_else(CommandError::nothing_done)?.map_err(CommandError::failed)?;
        let done = command(pool.clone(), stop.clone()).await;
        // Whatever was left running has nothing to finish.
        let closed = pool.close(if stop.is_made() { STOP_LIMIT } else { options.acquire }).await;
        done.and(closed.map_err(CommandError::failed))
    });
    telemetry.end();
    done
}

/// Prints the outcome of a command.
pub(super) async fn print(text: String, stop: &StopRequest) -> Result<(), CommandError> {
    written(move || super::print(&text), "standard output", stop).await
}

/// Prints to standard error, above a progress bar.
#[expect(clippy::print_stderr, reason = "standard output is for what was asked for")]
pub(super) async fn report(text: String, progress: &ProgressBar, stop: &StopRequest) -> Result<(), CommandError> {
    let progress = progress.clone();
    let write = move || {
        progress.suspend(|| eprint!("{text}"));
        Ok(())
    };
    written(write, "standard error", stop).await
}

/// Waits for an output that may not be read, but not for long once there is a request to stop.
async fn written(
    write: impl FnOnce() -> Result<(), CommandError> + Send + 'static,
    output: &str,
    stop: &StopRequest,
) -> Result<(), CommandError> {
    tokio::select! {
        written = spawn_blocking(write) => written.map_err(CommandError::failed)?,
        () = stop.grace_is_over() => Err(CommandError::Interrupted(format!("stopped: {output} is not read"))),
    }
}

/// Runs a future that is asked to stop by the first signal. HTTP workers and the pool have runtimes of their own, so one
/// thread will do.
fn block_on(work: impl AsyncFnOnce(StopRequest) -> Result<(), CommandError>) -> Result<(), CommandError> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(CommandError::failed)?;
    let done = runtime.block_on(async {
        let mut signals = Signals::listen_to_stop().map_err(CommandError::failed)?;
        let (ask, stop) = StopRequest::channel();
        tokio::spawn(async move {
            let (name, _) = signals.stop().await;
            tracing::info!(signal = name, "stopping; a second signal ends the process at once");
            ask.send_replace(true);
            let (_, number) = signals.stop().await;
            std::process::exit(128 + i32::from(number));
        });
        work(stop).await
    });
    // A thread that is blocked by a pipe does not hold up the end.
    runtime.shutdown_background();
    done
}
