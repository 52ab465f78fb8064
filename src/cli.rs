//! The command line: parses it, runs the command, and maps its result to an exit code.

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

use crate::{
    commands::{self, CommandError},
    lifecycle::Reload,
    settings::{self, Environment, Layers, Settings},
    telemetry, tls,
};

/// A REST service for users on one shared, tuned connection pool.
///
/// The default command is serve. The default settings serve http://127.0.0.1:8080 from the SQLite file users.db in the
/// working directory.
#[derive(Debug, Parser)]
#[command(version, after_long_help = after_long_help())]
struct Cli {
    /// Settings file (TOML). `users-api config --template toml` prints one with every key and its default.
    #[arg(long, global = true, env = "USERS_API_CONFIG", hide_env_values = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
}

fn after_long_help() -> String {
    let aliases: Vec<String> =
        settings::aliases().map(|(variable, key)| format!("{variable} also sets {key}")).collect();
    HELP_OF_SETTINGS.replace("ALIASES", &aliases.join("; "))
}

/// `ALIASES` stands for the variables that settings declare.
const HELP_OF_SETTINGS: &str = "\
Settings, in ascending precedence:
  defaults < --config FILE < .env < environment < options of serve
  A key such as pool.max is USERS_API__POOL__MAX in the environment.
  ALIASES.
  The file .env is read from the working directory only.
  Secrets can be read from files: add _FILE to the variable, as in DATABASE_URL_FILE.
  Parts that a PostgreSQL URL omits default to PGHOST, PGUSER, PGPASSWORD, PGSSLMODE and
  the other variables of libpq.

Examples:
  users-api
  DATABASE_URL=postgres://app:secret@localhost/app users-api serve
  USERS_API__POOL__MAX=20 users-api config
  users-api migrate status

Exit codes:
  0  success
  1  startup failed, the command failed, or the shutdown was not clean
  2  invalid command line or setting
  3  import: some rows were refused; the others were written, unless --atomic or --dry-run
  4  stopped by a signal; import, export and feed tail print where to continue, migrate what was done
  128 + N  exited immediately on a second signal N";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve requests until SIGTERM or SIGINT (the default)
    ///
    /// The first signal starts a graceful shutdown: readiness turns false, the listener closes, requests in flight are
    /// completed within server.shutdown_timeout, and the pool closes. A second signal exits immediately.
    ///
    /// SIGHUP reads the settings file and .env again. Pool limits and database credentials change while requests are
    /// served; the log names the settings that need a restart.
    Serve(commands::ServeOptions),
    /// Show the pool at work: a dashboard with simulated clients and controls, on a temporary database
    ///
    /// Listens on this machine only, and uses no other settings. The clients run while a page of the dashboard is visible.
    /// Ctrl-C ends it and removes the database.
    Demo(commands::DemoOptions),
    /// Apply or revert migrations of the database schema, or show their status
    ///
    /// Safe to run from several processes at the same time: a lock serialises them.
    Migrate {
        #[command(subcommand)]
        action: Option<commands::MigrateAction>,
        /// Print JSON: the number of migrations, or a line for each one
        #[arg(long, global = true)]
        json: bool,
    },
    /// Import users from an NDJSON or CSV file
    ///
    /// Each row is a user with name and email; the other columns of an export are ignored. Each row is written or
    /// refused independently, unless --atomic; refused rows are reported on standard error. A second run with the same
    /// file writes no row twice. Ctrl-C stops after the current chunk of rows and prints how to continue.
    Import(commands::ImportOptions),
    /// Export all or selected users as NDJSON or CSV
    ///
    /// Ctrl-C stops after a complete user and prints how to continue.
    Export(commands::ExportOptions),
    /// Create, list, rotate and revoke API keys
    ///
    /// They are used if auth.mode is required. A change reaches every process within auth.refresh.
    Keys {
        #[command(subcommand)]
        action: commands::KeysAction,
        /// Print JSON, one object per line
        #[arg(long, global = true)]
        json: bool,
    },
    /// Print who has changed which user, newest first
    ///
    /// Changes are recorded for journal.keep. Those of a deleted user are kept without its name and email.
    Audit(commands::AuditOptions),
    /// Follow the live feed of changes
    Feed {
        #[command(subcommand)]
        action: commands::FeedAction,
    },
    /// Print the OpenAPI document
    Openapi,
    /// Print the effective settings and the origin of each value
    ///
    /// Passwords and keys are hidden. If a value is invalid, the error is printed and the exit code is 2.
    Config(commands::ConfigOptions),
    /// Print a completion script for a shell
    ///
    /// For bash: users-api completions bash > ~/.local/share/bash-completion/completions/users-api
    Completions(commands::CompletionsOptions),
    /// Print the manual page, or write one page per command
    Man(commands::ManOptions),
    /// Check whether the service on this machine is ready; exit code 0 if it is
    ///
    /// Requests /health/ready, or /health/live, on server.port.
    Healthcheck(commands::HealthcheckOptions),
}

/// Runs the command that the process's arguments name. Returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Before telemetry, whose exporter is a TLS client.
    tls::install_provider();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            match error {
                CommandError::Settings(_) | CommandError::Usage(_) => ExitCode::from(2),
                CommandError::RowsRefused => ExitCode::from(3),
                CommandError::Interrupted(_) => ExitCode::from(4),
                CommandError::Failed(_) => ExitCode::FAILURE,
            }
        }
    }
}

fn run(cli: Cli) -> Result<(), CommandError> {
    let command = cli.command.unwrap_or(Command::Serve(commands::ServeOptions::default()));
    let layers = || Ok::<_, CommandError>(Layers::read(cli.config.as_deref(), &Environment::of_process()?)?);
    let settings = || Ok::<Settings, CommandError>(layers()?.settings()?);
    match command {
        Command::Serve(options) => {
            let overrides = options.overrides();
            let layers = layers()?.overridden(&overrides);
            commands::serve(layers.settings()?, Reload::new(cli.config, overrides, layers))
        }
        Command::Demo(options) => commands::demo(&options),
        Command::Migrate { action, json } => {
            commands::migrate(&settings()?, action.unwrap_or(commands::MigrateAction::Up), json)
        }
        Command::Import(options) => commands::import(&settings()?, &options),
        Command::Export(options) => commands::export(&settings()?, &options),
        Command::Keys { action, json } => commands::keys(&settings()?, action, json),
        Command::Audit(options) => commands::audit(&settings()?, &options),
        Command::Feed { action } => commands::feed(&settings()?, action),
        Command::Openapi => commands::interruptible(commands::openapi),
        Command::Config(options) => {
            let layers = layers()?;
            commands::interruptible(move || commands::config(&layers, options))
        }
        Command::Completions(options) => {
            commands::interruptible(move || commands::completions(Cli::command(), &options))
        }
        Command::Man(options) => commands::interruptible(move || commands::man(Cli::command(), &options)),
        Command::Healthcheck(options) => {
            let settings = settings()?;
            commands::interruptible(move || commands::healthcheck(&settings, options))
        }
    }
}

/// Prints the error and its causes as one line on standard error.
fn print_error(error: &dyn Error) {
    telemetry::print_error(format!("users-api: {}", crate::error_chain::chain(error)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_the_short_variables() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("DATABASE_URL also sets database.url; "), "{help}");
        assert!(settings::aliases().all(|(variable, key)| help.contains(&format!("{variable} also sets {key}"))));
        assert!(!help.contains("ALIASES"), "{help}");
    }
}
