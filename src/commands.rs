//! The commands of the CLI, one file each.

mod audit;
mod bulk;
mod completions;
mod config;
mod demo;
mod export;
mod feed;
mod healthcheck;
mod import;
mod interruptible;
mod keys;
mod migrate;
mod openapi;
mod operator;
mod serve;
mod table;

use std::{
    error::Error,
    io::{self, Write as _},
};

use tokio::runtime::{Builder, Runtime};

pub(crate) use self::{
    audit::{AuditOptions, audit},
    completions::{CompletionsOptions, ManOptions, completions, man},
    config::{ConfigOptions, config},
    demo::{DemoOptions, demo},
    export::{ExportOptions, export},
    feed::{FeedAction, feed},
    healthcheck::{HealthcheckOptions, healthcheck},
    import::{ImportOptions, import},
    interruptible::interruptible,
    keys::{KeysAction, keys},
    migrate::{MigrateAction, migrate},
    openapi::openapi,
    serve::{ServeOptions, serve},
};
use crate::settings::SettingsError;

/// The error type of commands.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{0}")]
    Usage(String),
    #[error("some rows were refused")]
    RowsRefused,
    #[error("{0}")]
    Interrupted(String),
    #[error(transparent)]
    Failed(Box<dyn Error + Send + Sync>),
}

impl CommandError {
    /// A signal arrived before the command changed anything.
    fn no_effect() -> Self {
        Self::Interrupted("stopped before anything was done".to_owned())
    }

    pub(crate) fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }
}

/// Returns a runtime for a command. One thread is enough, because HTTP workers and the pool have separate runtimes.
fn runtime() -> Result<Runtime, CommandError> {
    Builder::new_current_thread().enable_all().build().map_err(CommandError::failed)
}

/// Prints to standard output. A reader that closes the pipe early (`| head`) is not an error.
fn print(text: &str) -> Result<(), CommandError> {
    print_if_open(text).map(drop)
}

/// Prints to standard output. Returns `false` if its reader has closed it.
fn print_if_open(text: &str) -> Result<bool, CommandError> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).map_err(CommandError::failed),
    }
}
