//! `users-api export`: users into a file or a pipe.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use secrecy::ExposeSecret;

use super::{CommandError, bulk, import::FormatName, interruptible::report};
use crate::{
    exchange::Writer,
    http::{CursorSigner, ExportQuery},
    service::{Count, Position},
    settings::Settings,
};

/// Users that are read at a time.
const AT_ONCE: u64 = 1000;

/// What to export, and how.
#[derive(Debug, Args)]
pub(crate) struct ExportOptions {
    /// Which users, in which order, and what of them, as in `GET /users/export`: 'name=ann&sort=-name&fields=id,email'
    #[arg(default_value = "")]
    query: String,
    /// Where to; standard output unless given. What is there is written over
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How to write them; by default as the file's name ends (.csv), or else NDJSON
    #[arg(long, value_enum)]
    format: Option<FormatName>,
}

/// Writes users into a file.
pub(crate) fn export(settings: &Settings, options: &ExportOptions) -> Result<(), CommandError> {
    let signer = CursorSigner::new(settings.users.cursor_key.expose_secret());
    let query = ExportQuery::read(&options.query, &signer).map_err(CommandError::Usage)?;
    let format = FormatName::or_by_name(options.format, options.output.as_deref());
    let writer = Writer::new(format, query.fields, query.has_cursors);
    bulk::run(settings, async |service, stop| {
        let began = std::time::Instant::now();
        let selection = Arc::new(query.selection);
        let progress = bulk::progress(Some(0), "{human_pos}/~{human_len} users");
        if !progress.is_hidden() {
            let count = stop.or(service.count(&selection.filter, Count::Estimated)).await;
            let length = count.ok_or_else(CommandError::nothing_done)?.map_err(CommandError::failed)?;
            progress.set_length(length);
        }
        let mut out = Output::new(options.output.clone());
        let go_on = |position: &Position| {
            let cursor = signer.cursor(&selection, position)?;
            Some(format!("; go on with '{}'", with_cursor(&options.query, &cursor)))
        };
        let read = |position: Position| {
            let (service, selection) = (service.clone(), Arc::clone(&selection));
            tokio::spawn(async move { service.export(selection, position, AT_ONCE).await })
        };
        let mut position = query.position;
        let mut reading = read(position.clone());
        let mut text = Vec::new();
        writer.begin(&mut text);
        let (mut count, mut is_stopped) = (0, false);
        loop {
            let Some(read_page) = stop.or(reading).await else {
                is_stopped = true;
                break;
            };
            let page = read_page.map_err(CommandError::failed)?.map_err(|error| {
                let go_on = go_on(&position).unwrap_or_default();
                CommandError::failed(format!("stopped: {}{go_on}", crate::telemetry::chain(&error)))
            })?;
            let next = page.next.map(|edge| {
                let next = Position::After(edge);
                (read(next.clone()), next)
            });
            // The next page is asked for before this one is written.
            tokio::task::yield_now().await;
            for (user, edge) in &page.users {
                let cursor = query.has_cursors.then(|| signer.cursor(&selection, &Position::After(edge.clone())));
                writer.user(&mut text, user, cursor.flatten().as_deref());
            }
            tokio::select! {
                written = out.write(text) => match written? {
                    Some(written) => (out, text) = written,
                    None => break,
                },
                () = stop.grace_is_over() => {
                    let go_on = go_on(&position).unwrap_or_default();
                    return Err(CommandError::Interrupted(format!(
                        "stopped: the output is not read, and may end inside a row{go_on}"
                    )));
                }
            }
            count += page.users.len();
            progress.set_position(count as u64);
            let Some(next) = next else { break };
            (reading, position) = next;
            if stop.is_made() {
                is_stopped = true;
                break;
            }
        }
        progress.finish_and_clear();
        let (count, seconds) = (bulk::counted(count as u64, "user"), began.elapsed().as_secs_f64());
        report(format!("{count} in {seconds:.1} s\n"), &progress, &stop).await?;
        if is_stopped {
            return Err(CommandError::Interrupted(format!("stopped{}", go_on(&position).unwrap_or_default())));
        }
        Ok(())
    })
}

/// The same query from a cursor on.
fn with_cursor(query: &str, cursor: &str) -> String {
    let parts = query.trim_start_matches('?').split('&').filter(|part| !part.is_empty());
    let mut query: Vec<&str> = parts.filter(|part| !part.starts_with("cursor=")).collect();
    let cursor = format!("cursor={cursor}");
    query.push(&cursor);
    query.join("&")
}

/// Where users are written to. It is opened and written by threads of its own: a pipe may let them wait for ever, and signals
/// are heard meanwhile.
struct Output {
    path: Option<PathBuf>,
    opened: Option<Box<dyn Write + Send>>,
}

impl Output {
    /// A file, or standard output. It is not opened before there is something to write: what it holds may be all there is.
    fn new(path: Option<PathBuf>) -> Self {
        Self { path, opened: None }
    }

    /// Writes a text. Gives back itself and the emptied text, or `None` if nobody takes it: a reader that has had enough
    /// (`| head`) is no error.
    async fn write(mut self, mut text: Vec<u8>) -> Result<Option<(Self, Vec<u8>)>, CommandError> {
        let writing = tokio::task::spawn_blocking(move || {
            let out = match &mut self.opened {
                Some(out) => out,
                opened => opened.insert(open(self.path.as_deref())?),
            };
            match out.write_all(&text).and_then(|()| out.flush()) {
                Ok(()) => {
                    text.clear();
                    Ok(Some((self, text)))
                }
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
