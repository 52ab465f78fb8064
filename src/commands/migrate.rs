//! `users-api migrate`: applies and reverts migrations, and shows their status.

use std::time::Duration;

use clap::Subcommand;
use serde_json::json;

use super::{
    CommandError,
    interruptible::{print, with_pool},
    table::{Cell, GOOD, WARNING, table},
};
use crate::{
    lifecycle::StopRequest,
    service::{Migration, Progress, SchemaFailure, SchemaService},
    settings::Settings,
};

/// Actions of `migrate`.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum MigrateAction {
    /// Apply pending migrations (the default)
    Up,
    /// Revert the latest migration
    Down {
        /// Number of migrations to revert
        #[arg(long, default_value_t = 1, value_name = "N")]
        steps: u32,
    },
    /// Show every migration and whether it is applied; changes nothing
    Status,
}

/// Applies or reverts migrations, or prints their status.
pub(crate) fn migrate(settings: &Settings, action: MigrateAction, json: bool) -> Result<(), CommandError> {
    // A migration needs one connection, and its statements may take any length of time.
    let options = settings.pool.clone().max(1).min(0).statement_timeout(Duration::ZERO);
    with_pool(settings, &options, async |pool, stop| {
        print(run(&SchemaService::new(pool), action, json, &stop).await?, &stop).await
    })
}

async fn run(
    schema: &SchemaService,
    action: MigrateAction,
    json: bool,
    stop: &StopRequest,
) -> Result<String, CommandError> {
    match action {
        MigrateAction::Up => {
            run_unless_stopped(stop, schema.check_server()).await?;
            outcome(schema.up(stop.clone().requested()).await, "applied", json)
        }
        MigrateAction::Down { steps } => {
            outcome(schema.down(Some(steps), stop.clone().requested()).await, "reverted", json)
        }
        MigrateAction::Status => {
            let migrations = run_unless_stopped(stop, schema.status()).await?;
            Ok(if json { migrations.iter().map(json_line).collect() } else { status(&migrations) })
        }
    }
}

/// Runs `work`. A stop request that arrives first is an error.
async fn run_unless_stopped<T>(
    stop: &StopRequest,
    work: impl Future<Output = Result<T, SchemaFailure>>,
) -> Result<T, CommandError> {
    stop.run_until_requested(work).await.ok_or_else(CommandError::no_effect)?.map_err(CommandError::failed)
}

fn json_line(migration: &Migration) -> String {
    format!("{}\n", json!({"name": migration.name, "applied": migration.applied}))
}

fn status(migrations: &[Migration]) -> String {
    let row = |migration: &Migration| {
        let state = if migration.applied { Cell::styled("applied", GOOD) } else { Cell::styled("pending", WARNING) };
        [state, Cell::new(&migration.name)]
    };
    table(["STATE", "MIGRATION"], migrations.iter().map(row).collect())
}

fn outcome(progress: Result<Progress, SchemaFailure>, verb: &str, json: bool) -> Result<String, CommandError> {
    match progress.map_err(CommandError::failed)? {
        Progress { changed, is_stopped: false } if json => Ok(format!("{}\n", json!({verb: changed}))),
        Progress { changed, is_stopped: false } => Ok(format!("{changed} {verb}\n")),
        Progress { changed: 0, .. } => Err(CommandError::no_effect()),
        Progress { changed, .. } => {
            Err(CommandError::Interrupted(format!("stopped: {changed} {verb}; run the command again to continue")))
        }
    }
}
