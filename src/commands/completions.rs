//! `users-api completions` and `users-api man`: shell completions and manual pages.

use std::{fs, io, path::PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

use super::CommandError;

/// Options of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsOptions {
    /// The shell
    shell: Shell,
}

/// Options of `man`.
#[derive(Debug, Args)]
pub(crate) struct ManOptions {
    /// Write users-api.1 and one page per command to this directory, which is created if missing
    #[arg(long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,
}

/// Prints a completion script.
pub(crate) fn completions(mut command: Command, options: &CompletionsOptions) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut command, "users-api", &mut script);
    super::print(&String::from_utf8_lossy(&script))
}

/// Prints the manual page, or writes one page per command.
pub(crate) fn man(command: Command, options: &ManOptions) -> Result<(), CommandError> {
    let Some(directory) = &options.output else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).map_err(CommandError::failed)?;
        return super::print(&String::from_utf8_lossy(&page));
    };
    let written = fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(command, directory));
    written.map_err(|error| {
        let text = format!("cannot write manual pages to {}: {error}", directory.display());
        CommandError::failed(io::Error::new(error.kind(), text))
    })
}
