//! `users-api migrate`: the schema up, down, or where it is.

use std::fmt::Write as _;

use clap::Subcommand;
use orm_pool::{Pool, PoolOptions};

use super::CommandError;
use crate::{
    service::{SchemaFailure, SchemaService},
    settings::Settings,
    telemetry::{Log, Telemetry},
};

/// What to do with the schema.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum MigrateAction {
    /// Apply what is pending (the default)
    Up,
    /// Take back the newest change
    Down {
        /// How many changes to take back
        #[arg(long, default_value_t = 1, value_name = "N")]
        steps: u32,
    },
    /// Show every change and whether it is applied; writes nothing
    Status,
}

/// Brings the schema up or down, or shows where it is.
pub(crate) fn migrate(settings: &Settings, action: MigrateAction) -> Result<(), CommandError> {
    let telemetry = Telemetry::start(settings, Log::Stderr).map_err(CommandError::failed)?;
    let done = super::runtime()?.block_on(async {
        let url = settings.database.url().map_err(CommandError::failed)?;
        // A change of the schema may take as long as it takes, and needs one connection.
        let options =
            PoolOptions { max: 1, min: 0, statement_timeout: std::time::Duration::ZERO, ..settings.pool.clone() };
        let pool = Pool::connect(&url, &options).await.map_err(CommandError::failed)?;
        let said = act(&SchemaService::new(pool.clone()), action).await;
        pool.close(options.acquire).await.map_err(CommandError::failed)?;
        super::print(&said.map_err(CommandError::failed)?)
    });
    telemetry.end();
    done
}

async fn act(schema: &SchemaService, action: MigrateAction) -> Result<String, SchemaFailure> {
    match action {
        MigrateAction::Up => {
            schema.check_server().await?;
            Ok(format!("{} applied\n", schema.up().await?))
        }
        MigrateAction::Down { steps } => Ok(format!("{} taken back\n", schema.down(Some(steps)).await?)),
        MigrateAction::Status => {
            let mut text = String::new();
            for migration in schema.status().await? {
                let status = if migration.applied { "applied" } else { "pending" };
                // Writing into a String does not fail.
                let _ = writeln!(text, "{status}  {}", migration.name);
            }
            Ok(text)
        }
    }
}
