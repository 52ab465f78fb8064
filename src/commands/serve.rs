//! `users-api serve`: runs the service until a signal.

use std::{net::IpAddr, pin::pin};

use clap::Args;

use super::CommandError;
use crate::{
    app::{Application, StartError},
    lifecycle::{Reload, Signal, Signals, StopRequest},
    settings::{Override, Settings},
    telemetry::{Log, Telemetry},
};

/// Options of `serve`.
#[derive(Debug, Default, Args)]
pub(crate) struct ServeOptions {
    /// Address to listen on; overrides server.host
    #[arg(long, value_name = "ADDRESS")]
    host: Option<IpAddr>,
    /// Port to listen on; overrides server.port
    #[arg(long)]
    port: Option<u16>,
}

impl ServeOptions {
    /// Returns the settings that the options override.
    pub(crate) fn overrides(&self) -> Vec<Override> {
        let entry = |key, option, value| Override { key, option, value };
        let host = self.host.map(|host| entry("server.host", "--host", host.to_string()));
        let port = self.port.map(|port| entry("server.port", "--port", port.to_string()));
        host.into_iter().chain(port).collect()
    }
}

/// Serves until a signal, then shuts down gracefully.
pub(crate) fn serve(settings: Settings, mut reload: Reload) -> Result<(), CommandError> {
    let telemetry = Telemetry::start(&settings, Log::Stdout).map_err(CommandError::failed)?;
    let log = telemetry.log_flush();
    let result = super::runtime()?.block_on(async {
        let mut signals = Signals::listen().map_err(CommandError::failed)?;
        let (requester, stop) = StopRequest::channel();
        let mut building = pin!(Application::build_interruptible(settings, stop));
        let application = tokio::select! {
            built = &mut building => built.map_err(start_failed)?,
            (name, _) = signals.next_stop() => {
                tracing::info!(signal = name, "shutdown: stopped during startup");
                requester.send_replace(true);
                return tokio::select! {
                    built = building => match built {
                        Ok(_) | Err(StartError::Stopped) => Ok(()),
                        Err(error) => Err(start_failed(error)),
                    },
                    (_, number) = signals.next_stop() => std::process::exit(128 + i32::from(number)),
                };
            }
        };
        let (pool, certificate) = (application.pool(), application.certificate());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let name = loop {
                match signals.next().await {
                    Signal::Stop(name, _) => break name,
                    Signal::Reload => reload.run(&pool, certificate.as_deref()).await,
                }
            };
            tracing::info!(signal = name, "shutdown: signal received; a second signal exits immediately");
            // The receiver is gone if the service has already ended.
            let _ = stop.send(());
            let (name, number) = signals.next_stop().await;
            tracing::warn!(signal = name, "shutdown: second signal; exiting immediately");
            log.flush();
            std::process::exit(128 + i32::from(number));
        });
        application.run(async { drop(stopped.await) }).await.map_err(CommandError::failed)
    });
    // `cli` prints an error, so it is not logged here as well.
    if result.is_ok() {
        tracing::info!("stopped");
    }
    telemetry.end();
    result
}

/// A certificate is a part of the settings: like an invalid one, it ends with exit code 2.
fn start_failed(error: StartError) -> CommandError {
    match error {
        StartError::Certificate(error) => CommandError::Usage(error.to_string()),
        error => CommandError::failed(error),
    }
}
