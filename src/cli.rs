//! The command line: which command, with which settings, and what the process says at its end.

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

use crate::{
    commands::{self, CommandError},
    reload::Reload,
    settings::{Environment, Layers, Settings},
    telemetry,
};

/// A REST service for users on one shared, tuned connection pool.
///
/// Without a command it serves. Without settings it serves http://127.0.0.1:8080 from the SQLite file users.db in the
/// working directory.
#[derive(Debug, Parser)]
#[command(version, after_long_help = SETTINGS_HELP)]
struct Cli {
    /// Settings file (TOML). Its keys and their defaults are shown by `users-api config`.
    #[arg(long, global = true, env = "USERS_API_CONFIG", hide_env_values = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
}

const SETTINGS_HELP: &str = "\
Settings, later ones win:
  defaults < --config FILE < .env < environment < options of serve
  A key such as pool.max is USERS_API__POOL__MAX in the environment.
  DATABASE_URL also sets database.url; PORT server.port; RUST_LOG log.filter.
  The .env of the working directory is read, and no other.
  A secret can come from a file: DATABASE_URL_FILE, USERS_API__DATABASE__PASSWORD_FILE,
  USERS_API__USERS__CURSOR_KEY_FILE.
  What a PostgreSQL URL leaves open is taken from PGHOST, PGUSER, PGPASSWORD, PGSSLMODE
  and the other variables of libpq.

Examples:
  users-api
  DATABASE_URL=postgres://app:secret@localhost/app users-api serve
  USERS_API__POOL__MAX=20 users-api config
  users-api migrate status

Exit codes:
  0  all is well
  1  it could not start, or did not end cleanly
  2  the command line or a setting is not valid
  3  import: rows were refused; the others were written, unless --atomic or --dry-run
  4  stopped by a signal; import and export say where to continue, migrate what was done
  128 + N  ended at once by a second signal N";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve requests until SIGTERM or SIGINT (the default)
    ///
    /// On the first signal: not ready any more, no new connections, running requests are answered within
    /// server.shutdown_timeout, the pool is closed. A second signal ends the process at once.
    ///
    /// On SIGHUP the file and .env are read again: the pool's limits and the database's credentials change while
    /// requests go on, and the log tells what takes a restart.
    Serve(commands::ServeOptions),
    /// Bring the database's schema up or down, or show where it is
    ///
    /// Any number of processes may do so at the same time; they take turns.
    Migrate {
        #[command(subcommand)]
        action: Option<commands::MigrateAction>,
    },
    /// Write the users of an NDJSON or CSV file
    ///
    /// A row each user, with name and email; what else an export has is passed over. Each row is written or refused by
    /// itself, unless --atomic; refused rows are told of on standard error. A second run with the same file writes no row
    /// twice. Ctrl-C stops after the rows that are being written, and tells how to go on.
    Import(commands::ImportOptions),
    /// Write all users, or some, as NDJSON or CSV
    ///
    /// Ctrl-C stops behind a user, and tells how to go on.
    Export(commands::ExportOptions),
    /// Print the OpenAPI document
    Openapi,
    /// Print the effective settings, and where each value came from
    ///
    /// Passwords and keys are not shown. Ends with 2, and says what is wrong, if a value is not valid.
    Config(commands::ConfigOptions),
    /// Print a completion script for a shell
    ///
    /// For bash: users-api completions bash > ~/.local/share/bash-completion/completions/users-api
    Completions(commands::CompletionsOptions),
    /// Print the manual page, or write one per command
    Man(commands::ManOptions),
    /// Ask the running service whether it is ready; exit code 0 if so
    ///
    /// Asks /health/ready on server.port of this machine, or /health/live.
    Healthcheck(commands::HealthcheckOptions),
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            match error {
                CommandError::Settings(_) | CommandError::Usage(_) => ExitCode::from(2),
                CommandError::Refused => ExitCode::from(3),
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
            let overrides = options.settings();
            let layers = layers()?.overridden(&overrides);
            commands::serve(layers.settings()?, Reload::new(cli.config, overrides, layers))
        }
        Command::Migrate { action } => commands::migrate(&settings()?, action.unwrap_or(commands::MigrateAction::Up)),
        Command::Import(options) => commands::import(&settings()?, &options),
        Command::Export(options) => commands::export(&settings()?, &options),
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

/// One line on standard error: the error and its causes, each told once.
fn complain(error: &dyn Error) {
    telemetry::print_error(format!("users-api: {}", telemetry::chain(error)));
}
