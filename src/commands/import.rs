//! `users-api import`: reads users from a file or a pipe.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use clap::{Args, ValueEnum};
use futures_util::{Stream, stream};
use indicatif::{HumanCount, ProgressBar};
use tokio::sync::mpsc;

use super::{
    CommandError, bulk,
    interruptible::{print, report},
    operator::operator,
};
use crate::{
    domain::Author,
    exchange::{self, ChunkReport, Format, Import, ImportError, MemberError, ReadError, Refused, Row, Tally},
    lifecycle::StopRequest,
    service::{RowOutcome, WriteMode, WriteOptions},
    settings::Settings,
};

/// Bytes read from the input at a time.
const READ_SIZE: usize = 64 * 1024;

/// Options of `import`.
#[derive(Debug, Args)]
pub(crate) struct ImportOptions {
    /// Input file; - for standard input
    file: PathBuf,
    /// Input format; default: CSV if the file's name ends in .csv, NDJSON otherwise
    #[arg(long, value_enum)]
    format: Option<FormatName>,
    /// Handling of a row whose email is already in use
    #[arg(long, value_enum, default_value_t = ModeName::Insert)]
    mode: ModeName,
    /// Report what would happen without writing anything
    #[arg(long)]
    dry_run: bool,
    /// Write all rows in one transaction, or none; up to 10,000 rows
    #[arg(long, conflicts_with = "from_line")]
    atomic: bool,
    /// Skip the rows before this line
    #[arg(long, default_value_t = 1, value_name = "N")]
    from_line: u64,
}

/// A format as it is named on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatName {
    Ndjson,
    Csv,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeName {
    /// Refuse the row
    Insert,
    /// Update the user that has the email: its name and the spelling of its email
    Upsert,
}

impl FormatName {
    /// Returns the requested format, or else the format of the file's extension.
    pub(super) fn or_from_extension(requested: Option<Self>, file: Option<&Path>) -> Format {
        let is_csv = || file.and_then(Path::extension).is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
        match requested {
            Some(Self::Csv) => Format::Csv,
            None if is_csv() => Format::Csv,
            Some(Self::Ndjson) | None => Format::Ndjson,
        }
    }
}

/// Imports the rows of a file and reports each refused row.
pub(crate) fn import(settings: &Settings, options: &ImportOptions) -> Result<(), CommandError> {
    let file = (options.file != Path::new("-")).then_some(options.file.as_path());
    let format = FormatName::or_from_extension(options.format, file);
    let (source, length) = open_source(file)?;
    let write_options = WriteOptions {
        mode: if options.mode == ModeName::Upsert { WriteMode::Upsert } else { WriteMode::Insert },
        dry_run: options.dry_run,
        atomic: options.atomic,
    };
    bulk::with_service(settings, async |service, stop| {
        let bytes_read = Arc::new(AtomicU64::new(0));
        let progress = bulk::progress(length, if length.is_some() { "{bytes}/{total_bytes}" } else { "{bytes}" });
        let import = Import {
            service,
            options: write_options,
            author: Author { actor: operator(), request_id: None },
            keyed: None,
            from_line: options.from_line,
            report: Arc::new(refusals),
        };
        let source = chunks(source, Arc::clone(&bytes_read), stop.clone());
        run(&import, format, source, &stop, &progress, &bytes_read).await
    })
}

async fn run(
    import: &Import,
    format: Format,
    source: impl Stream<Item = io::Result<Vec<u8>>>,
    stop: &StopRequest,
    progress: &ProgressBar,
    bytes_read: &AtomicU64,
) -> Result<(), CommandError> {
    let began = std::time::Instant::now();
    let mut tally = Tally::default();
    let mut last_line = import.from_line.saturating_sub(1);
    let mut is_committed = true;
    let report_chunk = async |chunk: ChunkReport, tally: &mut Tally| {
        *tally += chunk.tally;
        progress.set_position(bytes_read.load(Ordering::Relaxed));
        progress.set_message(summary(tally));
        if chunk.report.is_empty() {
            return Ok(());
        }
        report(String::from_utf8_lossy(&chunk.report).into_owned(), progress, stop).await
    };
    let mut reported = Ok(());
    let work = async {
        if import.options.atomic {
            let chunk = exchange::import_atomically(import, format, source).await?;
            is_committed = chunk.is_committed;
            reported = report_chunk(chunk, &mut tally).await;
            Ok(())
        } else {
            let on_chunk = async |chunk: ChunkReport| {
                last_line = chunk.last_line;
                reported = report_chunk(chunk, &mut tally).await;
                reported.is_ok() && !stop.is_requested()
            };
            exchange::import(import, format, source, on_chunk).await
        }
    };
    let mut is_outcome_known = true;
    let result = tokio::select! {
        result = work => result,
        () = stop.work_grace_elapsed() => {
            is_outcome_known = false;
            Err(ImportError::Disconnected)
        }
    };
    reported?;
    progress.finish_and_clear();
    let summary = summary(&tally);
    let seconds = began.elapsed().as_secs_f64();
    let is_rolled_back = !is_committed || import.options.atomic && result.is_err();
    let note = match is_outcome_known {
        false => " (no response from the database; more rows may have been written)",
        true if import.options.dry_run || is_rolled_back => " (nothing was written)",
        true => "",
    };
    print(format!("{summary} in {seconds:.1} s{note}\n"), stop).await?;
    outcome(result, tally, import.options.atomic, last_line, stop)
}

/// Returns the outcome of the command, with a hint how to resume an interrupted import after its last line.
fn outcome(
    result: Result<(), ImportError>,
    tally: Tally,
    atomic: bool,
    last_line: u64,
    stop: &StopRequest,
) -> Result<(), CommandError> {
    // An atomic import starts again from the first line.
    let resume_hint = if atomic { String::new() } else { format!("; continue with --from-line {}", last_line + 1) };
    match result {
        Ok(()) if tally.refused > 0 => Err(CommandError::RowsRefused),
        Ok(()) => Ok(()),
        Err(ImportError::Disconnected | ImportError::Source(_)) if stop.is_requested() => {
            Err(CommandError::Interrupted(format!("stopped{resume_hint}")))
        }
        Err(ImportError::Read(ReadError::Header(error))) => {
            Err(CommandError::failed(format!("cannot read the rows: {error}")))
        }
        Err(ImportError::Read(error @ ReadError::UnclosedQuote { first, .. })) => {
            let resume_hint =
                if atomic { String::new() } else { format!("; close the quote and continue with --from-line {first}") };
            Err(CommandError::failed(format!("{error}{resume_hint}")))
        }
        Err(ImportError::TooMany(max)) => Err(CommandError::failed(format!("--atomic allows at most {max} rows"))),
        Err(ImportError::Source(error)) => {
            Err(CommandError::failed(format!("cannot read the input: {error}{resume_hint}")))
        }
        Err(ImportError::Disconnected) => Err(CommandError::failed("stopped")),
        Err(ImportError::Service(error)) => {
            let error = crate::error_chain::chain(&error);
            Err(CommandError::failed(format!("stopped: {error}{resume_hint}")))
        }
    }
}

/// Formats a tally: "5 rows: 3 created, 2 refused".
fn summary(tally: &Tally) -> String {
    let total = tally.created + tally.updated + tally.unchanged + tally.refused + tally.undone;
    let mut text = format!("{}: {} created", bulk::pluralize(total, "row"), HumanCount(tally.created));
    for (count, word) in [
        (tally.updated, "updated"),
        (tally.unchanged, "unchanged"),
        (tally.refused, "refused"),
        (tally.undone, "undone"),
    ] {
        if count > 0 {
            // Writing into a String does not fail.
            let _ = write!(text, ", {} {word}", HumanCount(count));
        }
    }
    text
}

/// Formats a line for each refused row.
fn refusals(rows: &[Row]) -> Vec<u8> {
    let mut text = String::new();
    for Row { line, last_line, outcome } in rows {
        let reason = match outcome {
            Err(Refused::RolledBack)
            | Ok(RowOutcome::Created(_) | RowOutcome::Updated(_) | RowOutcome::Unchanged(_)) => {
                continue;
            }
            Err(Refused::EmailTaken) => "email already in use".to_owned(),
            Err(Refused::Invalid(errors)) => {
                let reason = |MemberError { member, error }: &MemberError| match member.as_str() {
                    "" => error.message.clone(),
                    // The name comes from the file: shorten and escape it.
                    member => {
                        format!("{}: {}", member.chars().take(40).collect::<String>().escape_debug(), error.message)
                    }
                };
                errors.iter().map(reason).collect::<Vec<_>>().join("; ")
            }
        };
        let lines = if last_line == line { format!("line {line}") } else { format!("lines {line} to {last_line}") };
        let _ = writeln!(text, "{lines}: {reason}");
    }
    text.into_bytes()
}

/// Opens the input.
type Source = Box<dyn FnOnce() -> io::Result<Box<dyn Read + Send>> + Send>;

/// Returns the input and its length. A named pipe is opened later, because opening it blocks until it has a writer.
fn open_source(path: Option<&Path>) -> Result<(Source, Option<u64>), CommandError> {
    let Some(path) = path.map(Path::to_owned) else { return Ok((Box::new(|| Ok(Box::new(io::stdin()))), None)) };
    let failed = |error| CommandError::failed(format!("cannot read {}: {error}", path.display()));
    if fs::metadata(&path).map_err(failed)?.file_type().is_fifo() {
        return Ok((Box::new(move || Ok(Box::new(File::open(path)?))), None));
    }
    let file = File::open(&path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    Ok((Box::new(|| Ok(Box::new(file))), Some(length)))
}

/// Reads the input in chunks, on a separate thread: a terminal can block forever and must not delay a stop.
fn chunks(open: Source, bytes_read: Arc<AtomicU64>, stop: StopRequest) -> impl Stream<Item = io::Result<Vec<u8>>> {
    let (send, receive) = mpsc::channel(2);
    thread::spawn(move || {
        let mut source = match open() {
            Ok(source) => source,
            Err(error) => return drop(send.blocking_send(Err(error))),
        };
        loop {
            let mut chunk = vec![0; READ_SIZE];
            let chunk = match source.read(&mut chunk) {
                Ok(0) => return,
                Ok(length) => {
                    bytes_read.fetch_add(length as u64, Ordering::Relaxed);
                    chunk.truncate(length);
                    Ok(chunk)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            if send.blocking_send(chunk).is_err() {
                return;
            }
        }
    });
    stream::unfold((receive, stop), |(mut receive, stop)| async {
        let chunk = tokio::select! {
            chunk = receive.recv() => chunk?,
            () = stop.clone().requested() => Err(io::ErrorKind::Interrupted.into()),
        };
        Some((chunk, (receive, stop)))
    })
}
