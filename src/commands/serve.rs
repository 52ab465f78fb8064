//! `users-api serve`: the service, until a signal.

use std::{net::IpAddr, pin::pin};

use clap::Args;

use super::CommandError;
use crate::{
    app::{Application, StartError},
    reload::Reload,
    settings::{Override, Settings},
    shutdown::{Signal, Signals, StopRequest},
    telemetry::{Log, Telemetry},
};

/// Where to listen.
#[derive(Debug, Default, Args)]
pub(crate) struct ServeOptions {
    /// The address to listen on, instead of server.host
    #[arg(long, value_name = "ADDRESS")]
    host: Option<IpAddr>,
    /// The port, instead of server.port
    #[arg(long)]
    port: Option<u16>,
}

impl ServeOptions {
    /// As settings.
    pub(crate) fn settings(&self) -> Vec<Override> {
        let given = |key, option, value| Override { key, option, value };
        let host = self.host.map(|host| given("server.host", "--host", host.to_string()));
        let port = self.port.map(|port| given("server.port", "--port", port.to_string()));
        host.into_iter().chain(port).collect()
    }
}

/// Serves until a signal, then ends in order.
pub(crate) fn serve(settings: Settings, mut reload: Reload) -> Result<(), CommandError> {
    let telemetry = Telemetry::start(&settings, Log::Stdout).map_err(CommandError::failed)?;
    let log = telemetry.log_flush();
    let served = super::runtime()?.block_on(async {
        let mut signals = Signals::listen().map_err(CommandError::failed)?;
        let (ask, stop) = StopRequest::channel();
        let mut building = pin!(Application::build_unless_stopped(settings, stop));
        let application = tokio::select! {
            built = &mut building => built.map_err(CommandError::failed)?,
            (name, _) = signals.stop() => {
                tracing::info!(signal = name, "shutdown: stopped before it had started");
                ask.send_replace(true);
                return tokio::select! {
                    built = building => match built {
                        Ok(_) | Err(StartError::Stopped) => Ok(()),
                        Err(error) => Err(CommandError::failed(error)),
                    },
                    (_, number) = signals.stop() => std::process::exit(128 + i32::from(number)),
                };
            }
        };
        let pool = application.pool();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let name = loop {
                match signals.next().await {
                    Signal::Stop(name, _) => break name,
                    Signal::Reload => reload.run(&pool).await,
                }
            };
            tracing::info!(signal = name, "shutdown: signal received; a second one ends the process at once");
            // Nobody listens any more if the service has ended by itself.
            let _ = stop.send(());
            let (name, number) = signals.stop().await;
            tracing::warn!(signal = name, "second signal: ended at once");
            log.flush();
            std::process::exit(128 + i32::from(number));
        });
        application.run(async { drop(stopped.await) }).await.map_err(CommandError::failed)
    });
    // An error is told by the process's last words on standard error, and told once.
    if served.is_ok() {
        tracing::info!("stopped");
    }
    telemetry.end();
    served
}
