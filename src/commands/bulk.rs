//! What imports and exports have in common on the command line.

use indicatif::{ProgressBar, ProgressStyle};
use orm_pool::{Pool, PoolOptions};
use tokio::sync::watch;

use super::CommandError;
use crate::{
    app,
    service::UserService,
    settings::Settings,
    shutdown::Signals,
    telemetry::{Log, Telemetry},
};

/// Works on a pool of its own. The first signal asks to stop where it can be resumed; the second ends the process.
pub(super) fn run(
    settings: &Settings,
    work: impl AsyncFnOnce(UserService, watch::Receiver<bool>) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let telemetry = Telemetry::start(settings, Log::Stderr).map_err(CommandError::failed)?;
    let done = super::runtime()?.block_on(async {
        let mut signals = Signals::listen().map_err(CommandError::failed)?;
        let (ask, mut stop) = watch::channel(false);
        let listening = tokio::spawn(async move {
            signals.stop().await;
            ask.send_replace(true);
            let (_, number) = signals.stop().await;
            std::process::exit(128 + i32::from(number));
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
    eprint!("{text}");
}
