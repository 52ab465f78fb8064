//! `users-api migrate`: the schema up, down, or where it is.

use std::{fmt::Write as _, time::Duration};

use clap::Subcommand;

use super::{
    CommandError,
    interruptible::{on_pool, print},
};
use crate::{
    service::{Progress, SchemaFailure, SchemaService},
    settings::Settings,
    shutdown::StopRequest,
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
    // A change of the schema may take as long as it takes, and needs one connection.
    let options = settings.pool.clone().max(1).min(0).statement_timeout(Duration::ZERO);
    on_pool(settings, &options, async |pool, stop| {
        print(act(&SchemaService::new(pool), action, &stop).await?, &stop).await
    })
}

async fn act(schema: &SchemaService, action: MigrateAction, stop: &StopRequest) -> Result<String, CommandError> {
    match action {
        MigrateAction::Up => {
            unless_stopped(stop, schema.check_server()).await?;
            done(schema.up(stop.clone().made()).await, "applied")
        }
        MigrateAction::Down { steps } => done(schema.down(Some(steps), stop.clone().made()).await, "taken back"),
        MigrateAction::Status => {
            let mut text = String::new();
            for migration in unless_stopped(stop, schema.status()).await? {
                let status = if migration.applied { "applied" } else { "pending" };
                // Writing into a String does not fail.
                let _ = writeln!(text, "{status}  {}", migration.name);
            }
            Ok(text)
        }
    }
}

async fn unless_stopped<T>(
    stop: &StopRequest,
    work: impl Future<Output = Result<T, SchemaFailure>>,
) -> Result<T, CommandError> {
    stop.or(work).await.ok_or_else(CommandError::nothing_done)?.map_err(CommandError::failed)
}

fn done(outcome: Result<Progress, SchemaFailure>, what: &str) -> Result<String, CommandError> {
    match outcome.map_err(CommandError::failed)? {
        Progress { changed, is_stopped: false } => Ok(format!("{changed} {what}\n")),
        Progress { changed: 0, .. } => Err(CommandError::nothing_done()),
        Progress { changed, .. } => {
            Err(CommandError::Interrupted(format!("stopped: {changed} {what}; run the command again for the others")))
        }
    }
}
