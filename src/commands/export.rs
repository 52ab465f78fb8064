//! `users-api export`: writes users to a file or a pipe.

use std::{
    error::Error,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use secrecy::ExposeSecret;

use super::{CommandError, bulk, import::FormatName, interruptible::report};
use crate::{
    error_chain::chain,
    exchange::{CursorSigner, Export, ExportQuery},
    service::{CountMode, Position},
    settings::Settings,
};

/// Users read per page.
const PAGE_SIZE: u64 = 1000;

/// Options of `export`.
#[derive(Debug, Args)]
pub(crate) struct ExportOptions {
    /// Filter, sort order and fields, as in `GET /users/export`: 'name=ann&sort=-name&fields=id,email'
    #[arg(default_value = "")]
    query: String,
    /// Output file, which is overwritten; default: standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Output format; default: CSV if the file's name ends in .csv, NDJSON otherwise
    #[arg(long, value_enum)]
    format: Option<FormatName>,
}

/// Exports users to a file or to standard output.
pub(crate) fn export(settings: &Settings, options: &ExportOptions) -> Result<(), CommandError> {
    let signer = CursorSigner::new(settings.users.cursor_key.expose_secret());
    let query = ExportQuery::parse(&options.query, &signer).map_err(|error| CommandError::Usage(error.to_string()))?;
    let format = FormatName::or_from_extension(options.format, options.output.as_deref());
    bulk::with_service(settings, async |service, stop| {
        let began = std::time::Instant::now();
        let selection = query.selection.clone();
        let progress = bulk::progress(Some(0), "{human_pos}/~{human_len} users");
        if !progress.is_hidden() {
            let count = stop.run_until_requested(service.count(&selection.filter, CountMode::Estimated)).await;
            let length = count.ok_or_else(CommandError::no_effect)?.map_err(CommandError::failed)?;
            progress.set_length(length);
        }
        // The hint how to resume at a position; empty at the start.
        let resume_hint = |position: &Position| {
            signer
                .cursor(&selection, position)
                .map_or(String::new(), |cursor| format!("; resume with '{}'", with_cursor(&options.query, &cursor)))
        };
        let start = query.position.clone();
        let exporting = Export::start(service, query, signer.clone(), format, PAGE_SIZE, tokio::spawn);
        let mut export = match stop.run_until_requested(exporting).await {
            Some(export) => export.map_err(|error| failed(&error, &resume_hint(&start)))?,
            None => return Err(CommandError::Interrupted(format!("stopped{}", resume_hint(&start)))),
        };
        let mut out = Output::new(options.output.clone());
        let (mut count, mut is_stopped) = (0, false);
        while !export.is_finished() {
            let next = if stop.is_requested() { None } else { stop.run_until_requested(export.next()).await };
            is_stopped = next.is_none();
            let Some(chunk) = next.flatten() else { break };
            let chunk = chunk.map_err(|error| failed(&error, &resume_hint(export.position())))?;
            tokio::select! {
                written = out.write(chunk.text) => match written? {
                    Some(written) => out = written,
                    None => break,
                },
                () = stop.output_grace_elapsed() => {
                    let hint = resume_hint(&chunk.position);
                    let message = format!("stopped: the output is not being read and may end inside a row{hint}");
                    return Err(CommandError::Interrupted(message));
                }
            }
            count += chunk.users;
            progress.set_position(count as u64);
        }
        progress.finish_and_clear();
        let (count, seconds) = (bulk::pluralize(count as u64, "user"), began.elapsed().as_secs_f64());
        report(format!("{count} in {seconds:.1} s\n"), &progress, &stop).await?;
        if is_stopped {
            return Err(CommandError::Interrupted(format!("stopped{}", resume_hint(export.position()))));
        }
        Ok(())
    })
}

fn failed(error: &dyn Error, resume_hint: &str) -> CommandError {
    CommandError::failed(format!("stopped: {}{resume_hint}", chain(error)))
}

/// Returns the query with its cursor replaced.
fn with_cursor(query: &str, cursor: &str) -> String {
    let parts = query.trim_start_matches('?').split('&').filter(|part| !part.is_empty());
    let mut query: Vec<&str> = parts.filter(|part| !part.starts_with("cursor=")).collect();
    let cursor = format!("cursor={cursor}");
    query.push(&cursor);
    query.join("&")
}

/// The output of an export. It is opened and written on blocking threads: a pipe can block forever, and signals must
/// still be handled.
struct Output {
    path: Option<PathBuf>,
    opened: Option<Box<dyn Write + Send>>,
}

impl Output {
    /// Returns an output to a file or to standard output. It is opened by the first write, so that an export that fails
    /// early does not overwrite an existing file.
    fn new(path: Option<PathBuf>) -> Self {
        Self { path, opened: None }
    }

    /// Writes `text`. Returns the output, or `None` if its reader has closed the pipe (`| head`): that is not an error.
    async fn write(mut self, text: Vec<u8>) -> Result<Option<Self>, CommandError> {
        let writing = tokio::task::spawn_blocking(move || {
            let out = match &mut self.opened {
                Some(out) => out,
                opened => opened.insert(open(self.path.as_deref())?),
            };
            match out.write_all(&text).and_then(|()| out.flush()) {
                Ok(()) => Ok(Some(self)),
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(None),
                Err(error) => Err(CommandError::failed(format!("cannot write: {error}"))),
            }
        });
        writing.await.map_err(CommandError::failed)?
    }
}

fn open(path: Option<&Path>) -> Result<Box<dyn Write + Send>, CommandError> {
    let Some(path) = path else { return Ok(Box::new(io::stdout())) };
    match File::create(path) {
        Ok(file) => Ok(Box::new(file)),
        Err(error) => Err(CommandError::failed(format!("cannot write {}: {error}", path.display()))),
    }
}
