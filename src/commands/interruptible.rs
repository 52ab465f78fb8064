//! Signal handling of the commands: a signal ends them, regardless of what they wait for.
//!
//! The first process of a container (PID 1) ignores every signal without a handler, so each command handles SIGTERM and
//! SIGINT. The first signal requests a stop; the second one exits immediately.

use std::io;

use indicatif::ProgressBar;
use orm_pool::{Pool, PoolOptions};
use tokio::task::spawn_blocking;

use super::CommandError;
use crate::{
    database,
    lifecycle::{self, INTERRUPTED_CLOSE_TIMEOUT, SchemaError, Signal, Signals, StopRequest},
    settings::{Migrate, Settings},
    telemetry::{Log, Telemetry},
};

/// Runs a command that uses no database. A signal does not wait for it to end: standard output may be a pipe without
/// a reader.
pub(crate) fn interruptible(
    command: impl FnOnce() -> Result<(), CommandError> + Send + 'static,
) -> Result<(), CommandError> {
    block_on(async |stop| {
        let result = stop.run_until_requested(spawn_blocking(command)).await;
        result.ok_or_else(|| CommandError::Interrupted("stopped".to_owned()))?.map_err(CommandError::failed)?
    })
}

/// Runs a command with a separate pool.
pub(super) fn with_pool(
    settings: &Settings,
    options: &PoolOptions,
    command: impl AsyncFnOnce(Pool, StopRequest) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let telemetry = Telemetry::start(settings, Log::Stderr).map_err(CommandError::failed)?;
    let result = block_on(async |stop| {
        let builder = database::pool_builder(&settings.database, options).map_err(CommandError::failed)?;
        let connected = stop.run_until_requested(builder.connect()).await;
        let pool = connected.ok_or_else(CommandError::no_effect)?.map_err(CommandError::failed)?;
        let result = command(pool.clone(), stop.clone()).await;
        // After a stop request, operations that still run need not be completed.
        let closed = pool.close(if stop.is_requested() { INTERRUPTED_CLOSE_TIMEOUT } else { options.acquire }).await;
        result.and(closed.map_err(CommandError::failed))
    });
    telemetry.end();
    result
}

/// Applies or checks migrations, as a start of the service does.
pub(super) async fn prepare_schema(pool: &Pool, migrate: Migrate, stop: &StopRequest) -> Result<(), CommandError> {
    lifecycle::prepare_schema(pool, migrate, stop).await.map_err(|error| match error {
        SchemaError::Stopped { applied: 0 } => CommandError::no_effect(),
        SchemaError::Stopped { .. } => CommandError::Interrupted(error.to_string()),
        error => CommandError::failed(error),
    })
}

/// Checks that no migration is pending, for commands that write no users. `database.migrate = off` skips the check.
pub(super) async fn check_schema(pool: &Pool, settings: &Settings, stop: &StopRequest) -> Result<(), CommandError> {
    let migrate = match settings.database.migrate {
        Migrate::Auto | Migrate::Check => Migrate::Check,
        Migrate::Off => Migrate::Off,
    };
    prepare_schema(pool, migrate, stop).await
}

/// Prints the result of a command to standard output.
pub(super) async fn print(text: String, stop: &StopRequest) -> Result<(), CommandError> {
    print_if_open(text, stop).await.map(drop)
}

/// Prints a part of the result to standard output. Returns `false` if its reader has closed it.
pub(super) async fn print_if_open(text: String, stop: &StopRequest) -> Result<bool, CommandError> {
    write_output(move || super::print_if_open(&text), "standard output", stop).await
}

/// Prints to standard error, above a progress bar.
#[expect(clippy::print_stderr, reason = "standard output carries the result")]
pub(super) async fn report(text: String, progress: &ProgressBar, stop: &StopRequest) -> Result<(), CommandError> {
    let progress = progress.clone();
    let write = move || {
        progress.suspend(|| eprint!("{text}"));
        Ok(())
    };
    write_output(write, "standard error", stop).await
}

/// Runs a blocking `write` to an output that no one may be reading. A stop request limits the wait.
async fn write_output<T: Send + 'static>(
    write: impl FnOnce() -> Result<T, CommandError> + Send + 'static,
    output: &str,
    stop: &StopRequest,
) -> Result<T, CommandError> {
    tokio::select! {
        written = spawn_blocking(write) => written.map_err(CommandError::failed)?,
        () = stop.output_grace_elapsed() => {
            Err(CommandError::Interrupted(format!("stopped: {output} is not being read")))
        }
    }
}

/// Runs a future with a stop request, which the first signal makes.
pub(super) fn block_on(work: impl AsyncFnOnce(StopRequest) -> Result<(), CommandError>) -> Result<(), CommandError> {
    block_on_until(Signals::listen_for_stop, work)
}

/// Runs a command until one of these signals.
pub(super) fn block_on_until(
    listen: fn() -> io::Result<Signals>,
    work: impl AsyncFnOnce(StopRequest) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let runtime = super::runtime()?;
    let result = runtime.block_on(async {
        let mut signals = listen().map_err(CommandError::failed)?;
        let (requester, stop) = StopRequest::channel();
        tokio::spawn(async move {
            let name = match signals.next().await {
                Signal::Stop(name, _) => name,
                Signal::Reload => "SIGHUP",
            };
            tracing::info!(signal = name, "stopping; a second signal exits immediately");
            requester.send_replace(true);
            let (_, number) = signals.next_stop().await;
            std::process::exit(128 + i32::from(number));
        });
        work(stop).await
    });
    // Does not wait for a thread that a pipe blocks.
    runtime.shutdown_background();
    result
}
