//! `users-api import`: users out of a file or a pipe.

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
};
use crate::{
    exchange::{self, ChunkReport, Format, Import, ImportError, MemberError, ReadError, Refused, Row, Tally},
    service::{Mode, WriteOptions, Written},
    settings::Settings,
    shutdown::StopRequest,
};

/// How much of a file is read at a time.
const PIECE: usize = 64 * 1024;

/// What to import, and how.
#[derive(Debug, Args)]
pub(crate) struct ImportOptions {
    /// The file; - is standard input
    file: PathBuf,
    /// How it is written; by default as its name ends (.csv), or else NDJSON
    #[arg(long, value_enum)]
    format: Option<FormatName>,
    /// What to do with a row whose email is there already
    #[arg(long, value_enum, default_value_t = ModeName::Insert)]
    mode: ModeName,
    /// Tell what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// All rows in one transaction, or none; up to 10,000
    #[arg(long, conflicts_with = "from_line")]
    atomic: bool,
    /// Pass over the rows before this line
    #[arg(long, default_value_t = 1, value_name = "N")]
    from_line: u64,
}

/// A format, on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatName {
    Ndjson,
    Csv,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeName {
    /// Refuse it
    Insert,
    /// Give the user who has it the row's name and spelling
    Upsert,
}

impl FormatName {
    /// The format that is asked for, or that a file's name says.
    pub(super) fn or_by_name(asked: Option<Self>, file: Option<&Path>) -> Format {
        let is_csv = || file.and_then(Path::extension).is_some_and(|ending| ending.eq_ignore_ascii_case("csv"));
        match asked {
            Some(Self::Csv) => Format::Csv,
            None if is_csv() => Format::Csv,
            Some(Self::Ndjson) | None => Format::Ndjson,
        }
    }
}

/// Writes the rows of a file, and tells of each that was refused.
pub(crate) fn import(settings: &Settings, options: &ImportOptions) -> Result<(), CommandError> {
    let file = (options.file != Path::new("-")).then_some(options.file.as_path());
    let format = FormatName::or_by_name(options.format, file);
    let (source, length) = source(file)?;
    let terms = WriteOptions {
        mode: if options.mode == ModeName::Upsert { Mode::Upsert } else { Mode::Insert },
        dry_run: options.dry_run,
        all_or_none: options.atomic,
    };
    bulk::run(settings, async |service, stop| {
        let read = Arc::new(AtomicU64::new(0));
        let progress = bulk::progress(length, if length.is_some() { "{bytes}/{total_bytes}" } else { "{bytes}" });
        let import = Import { service, terms, keyed: None, from_line: options.from_line, report: Arc::new(complaints) };
        let source = pieces(source, Arc::clone(&read), stop.clone());
        run(&import, format, source, &stop, &progress, &read).await
    })
}

async fn run(
    import: &Import,
    format: Format,
    source: impl Stream<Item = io::Result<Vec<u8>>>,
    stop: &StopRequest,
    progress: &ProgressBar,
    read: &AtomicU64,
) -> Result<(), CommandError> {
    let began = std::time::Instant::now();
    let mut tally = Tally::default();
    let mut last_line = import.from_line.saturating_sub(1);
    let mut is_kept = true;
    let tell = async |reported: ChunkReport, tally: &mut Tally| {
        *tally += reported.tally;
        progress.set_position(read.load(Ordering::Relaxed));
        progress.set_message(in_words(tally));
        if reported.report.is_empty() {
            return Ok(());
        }
        report(String::from_utf8_lossy(&reported.report).into_owned(), progress, stop).await
    };
    let mut told = Ok(());
    let work = async {
        if import.terms.all_or_none {
            match exchange::import_all_or_none(import, format, source).await {
                Ok(reported) => {
                    is_kept = reported.is_kept;
                    told = tell(reported, &mut tally).await;
                    Ok(())
                }
                Err(stopped) => Err(stopped),
            }
        } else {
            let hear = async |reported: ChunkReport| {
                last_line = reported.last_line;
                told = tell(reported, &mut tally).await;
                told.is_ok() && !stop.is_made()
            };
            exchange::import(import, format, source, hear).await
        }
    };
    let mut is_known = true;
    let ended = tokio::select! {
        ended = work => ended,
        () = stop.work_is_over() => {
            is_known = false;
            Err(ImportError::Unheard)
        }
    };
    told?;
    progress.finish_and_clear();
    let words = in_words(&tally);
    let seconds = began.elapsed().as_secs_f64();
    let is_undone = !is_kept || import.terms.all_or_none && ended.is_err();
    let undone = match is_known {
        false => " (the database did not answer; more may have been written)",
        true if import.terms.dry_run || is_undone => " (nothing was written)",
        true => "",
    };
    print(format!("{words} in {seconds:.1} s{undone}\n"), stop).await?;
    // All or none of them is begun anew.
    let go_on =
        if import.terms.all_or_none { String::new() } else { format!("; go on with --from-line {}", last_line + 1) };
    match ended {
        Ok(()) if tally.refused > 0 => Err(CommandError::Refused),
        Ok(()) => Ok(()),
        Err(ImportError::Unheard | ImportError::Source(_)) if stop.is_made() => {
            Err(CommandError::Interrupted(format!("stopped{go_on}")))
        }
        Err(ImportError::Read(ReadError::Header(fault))) => {
            Err(CommandError::failed(format!("the rows cannot be read: {fault}")))
        }
        Err(ImportError::Read(error @ ReadError::UnclosedQuote { first, .. })) => {
            let go_on = if import.terms.all_or_none {
                String::new()
            } else {
                format!("; close it and go on with --from-line {first}")
            };
            Err(CommandError::failed(format!("{error}{go_on}")))
        }
        Err(ImportError::TooMany(most)) => Err(CommandError::failed(format!("all or none: at most {most} rows"))),
        Err(ImportError::Source(error)) => {
            Err(CommandError::failed(format!("no more rows can be read: {error}{go_on}")))
        }
        Err(ImportError::Unheard) => Err(CommandError::failed("stopped")),
        Err(ImportError::Service(error)) => {
            let error = crate::telemetry::chain(&error);
            Err(CommandError::failed(format!("stopped: {error}{go_on}")))
        }
    }
}

fn in_words(tally: &Tally) -> String {
    let all = tally.created + tally.updated + tally.unchanged + tally.refused + tally.undone;
    let mut words = format!("{}: {} created", bulk::counted(all, "row"), HumanCount(tally.created));
    for (count, word) in [
        (tally.updated, "updated"),
        (tally.unchanged, "unchanged"),
        (tally.refused, "refused"),
        (tally.undone, "undone"),
    ] {
        if count > 0 {
            // Writing into a String does not fail.
            let _ = write!(words, ", {} {word}", HumanCount(count));
        }
    }
    words
}

/// A line for each row that was refused.
fn complaints(rows: &[Row]) -> Vec<u8> {
    let mut text = String::new();
    for Row { line, last_line, outcome } in rows {
        let why = match outcome {
            Err(Refused::RolledBack) | Ok(Written::Created(_) | Written::Updated(_) | Written::Unchanged(_)) => {
                continue;
            }
            Err(Refused::EmailTaken) => "another user has this email".to_owned(),
            Err(Refused::Invalid(faults)) => {
                let why = |MemberError { member, fault }: &MemberError| match member.as_str() {
                    "" => fault.message.clone(),
                    // What a file says is not repeated at any length.
                    member => {
                        format!("{}: {}", member.chars().take(40).collect::<String>().escape_debug(), fault.message)
                    }
                };
                faults.iter().map(why).collect::<Vec<_>>().join("; ")
            }
        };
        let lines = if last_line == line { format!("line {line}") } else { format!("lines {line} to {last_line}") };
        let _ = writeln!(text, "{lines}: {why}");
    }
    text.into_bytes()
}

/// Opens what rows are read from.
type Source = Box<dyn FnOnce() -> io::Result<Box<dyn Read + Send>> + Send>;

/// The file, and how long it is. A pipe is not opened yet: that waits for somebody who writes.
fn source(path: Option<&Path>) -> Result<(Source, Option<u64>), CommandError> {
    let Some(path) = path.map(Path::to_owned) else { return Ok((Box::new(|| Ok(Box::new(io::stdin()))), None)) };
    let failed = |error| CommandError::failed(format!("cannot read {}: {error}", path.display()));
    if fs::metadata(&path).map_err(failed)?.file_type().is_fifo() {
        return Ok((Box::new(move || Ok(Box::new(File::open(path)?))), None));
    }
    let file = File::open(&path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    Ok((Box::new(|| Ok(Box::new(file))), Some(length)))
}

/// A file piece by piece. It is read by a thread: a terminal may block for ever, and must not hold up a stop.
fn pieces(open: Source, read: Arc<AtomicU64>, stop: StopRequest) -> impl Stream<Item = io::Result<Vec<u8>>> {
    let (send, receive) = mpsc::channel(2);
    thread::spawn(move || {
        let mut source = match open() {
            Ok(source) => source,
            Err(error) => return drop(send.blocking_send(Err(error))),
        };
        loop {
            let mut piece = vec![0; PIECE];
            let piece = match source.read(&mut piece) {
                Ok(0) => return,
                Ok(length) => {
                    read.fetch_add(length as u64, Ordering::Relaxed);
                    piece.truncate(length);
                    Ok(piece)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            if send.blocking_send(piece).is_err() {
                return;
            }
        }
    });
    stream::unfold((receive, stop), |(mut receive, stop)| async {
        let piece = tokio::select! {
            piece = receive.recv() => piece?,
            () = stop.clone().made() => Err(io::ErrorKind::Interrupted.into()),
        };
        Some((piece, (receive, stop)))
    })
}
