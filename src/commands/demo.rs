//! `users-api demo`: a temporary database, simulated clients, and a dashboard with a lab.

use std::{
    future::pending,
    net::{IpAddr, Ipv4Addr},
};

use clap::Args;
use futures_util::FutureExt;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use tempfile::TempDir;

use super::{
    CommandError,
    interruptible::{block_on_until, print_if_open},
};
use crate::{
    app::{Application, StartError},
    lifecycle::{Signals, StopRequest},
    service::TemporaryDatabase,
    settings::{Environment, Layers, Override, Settings},
    telemetry::{Log, Telemetry},
};

/// The characters of a path that are encoded in a URL.
const IN_URL: &AsciiSet = &CONTROLS.add(b' ').add(b'#').add(b'%').add(b'?');

/// Options of `demo`.
#[derive(Clone, Debug, Args)]
pub(crate) struct DemoOptions {
    /// Address to listen on; only loopback addresses are accepted
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Port to listen on; 0 for any free one
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Server on which a temporary database is created, and dropped at the end; SQLite without it
    ///
    /// `postgres://USER:PASSWORD@HOST/DATABASE` or `mysql://USER:PASSWORD@HOST/DATABASE`. The user must be allowed to
    /// create databases; the database in the URL is not changed. The lab opens up to 200 connections. Other users of this
    /// machine can see a password on the command line: prefer the variable.
    #[arg(long, value_name = "URL", env = "USERS_API_DEMO_DATABASE_URL", hide_env_values = true)]
    database_url: Option<SecretString>,
}

/// The temporary database.
enum Database {
    File(TempDir),
    OnServer(TemporaryDatabase),
}

/// Runs the demonstration until a signal.
pub(crate) fn demo(options: &DemoOptions) -> Result<(), CommandError> {
    if !options.host.is_loopback() {
        let text = format!("--host {}: the demo listens on loopback addresses only", options.host);
        return Err(CommandError::Usage(text));
    }
    let telemetry = Telemetry::start(&settings(options, "sqlite://:memory:")?, Log::Stderr);
    let telemetry = telemetry.map_err(CommandError::failed)?;
    // The end of its terminal is a usual end of a demonstration, which must remove the database as well.
    let result = block_on_until(Signals::listen, async |stop| {
        let database = match &options.database_url {
            None => Database::File(TempDir::with_prefix("users-api-demo-").map_err(CommandError::failed)?),
            Some(url) => {
                let connected = stop.run_until_requested(TemporaryDatabase::connect(url.expose_secret())).await;
                Database::OnServer(connected.ok_or_else(CommandError::no_effect)?.map_err(CommandError::failed)?)
            }
        };
        let result = run(options, &database, stop).await;
        let dropped = match database {
            Database::File(directory) => directory.close().map_err(CommandError::failed),
            Database::OnServer(database) => database.drop().await.map_err(CommandError::failed),
        };
        result.and(dropped)
    });
    telemetry.end();
    result
}

async fn run(options: &DemoOptions, database: &Database, stop: StopRequest) -> Result<(), CommandError> {
    let url = match database {
        Database::File(directory) => {
            let path = directory.path().join("demo.db");
            format!("sqlite://{}?mode=rwc", utf8_percent_encode(&path.to_string_lossy(), IN_URL))
        }
        Database::OnServer(database) => {
            database.create().await.map_err(CommandError::failed)?;
            print_if_open(format!("Temporary database: {}\n", database.name()), &stop).await?;
            database.url().to_owned()
        }
    };
    let application = match Application::build_demo(settings(options, &url)?, stop.clone()).await {
        Ok(application) => application,
        Err(StartError::Stopped) => return Err(CommandError::no_effect()),
        Err(error) => return Err(CommandError::failed(error)),
    };
    let Some(lab) = application.lab() else { return Ok(()) };
    let text = format!(
        "The demo is running. Open http://{}/dashboard in a browser; Ctrl-C ends the demo.\n",
        application.address()
    );
    // The demonstration can be used without this text.
    drop(print_if_open(text, &stop).await);
    // The clients stop before the service, which would otherwise refuse their operations.
    let stopped = stop.run_until_requested(async {
        if let Err(error) = lab.run().await {
            tracing::error!(%error, "demo: the clients cannot run");
        }
        pending::<()>().await;
    });
    application.run(stopped.map(drop)).await.map_err(CommandError::failed)
}

/// The settings of a demo: the defaults, regardless of files and the environment.
fn settings(options: &DemoOptions, url: &str) -> Result<Settings, CommandError> {
    let value = |key, option, value: String| Override { key, option, value };
    let overrides = [
        value("server.host", "--host", options.host.to_string()),
        value("server.port", "--port", options.port.to_string()),
        value("server.drain_delay", "demo", "0s".to_owned()),
        value("server.shutdown_timeout", "demo", "3s".to_owned()),
        value("database.url", "--database-url", url.to_owned()),
        value("journal.keep", "demo", "1h".to_owned()),
        value("log.filter", "demo", "warn".to_owned()),
    ];
    Ok(Layers::read(None, &Environment::default())?.overridden(&overrides).settings()?)
}
