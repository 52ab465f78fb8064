//! Which lines of a report a client gets, and when: as rows are done, or once all are.

use std::{
    io::{self, Read, Write},
    rc::Rc,
    sync::atomic::{AtomicUsize, Ordering},
};

use actix_web::web::Bytes;
use futures_util::{Stream, stream};
use serde::Deserialize;
use tokio::sync::mpsc;
use zstd::stream::{read::Decoder, write::Encoder};

use super::{line, problem};
use crate::{
    exchange::{ChunkReport, ImportError, ReadError, Tally},
    http::{observe, problem::Problem, request_info::RequestInfo},
};

/// Most bytes of a report that are held back, compressed: the lines of about a million rows.
const MOST_HELD: usize = 16 * 1024 * 1024;
/// The same of all requests together.
const MOST_HELD_TOGETHER: usize = 64 * 1024 * 1024;
static HELD_TOGETHER: AtomicUsize = AtomicUsize::new(0);
/// Bytes that are sent at a time of what was held back.
const PIECE: usize = 64 * 1024;

/// Which lines a client gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Choice {
    /// One for each row.
    #[default]
    All,
    /// One for each row that was refused, and a summary.
    Refused,
    /// A summary.
    Summary,
}

/// What an import sends: rows that are done, and at last its end. One that sends no end has panicked.
pub(super) type Progress = Result<Option<ChunkReport>, ImportError>;

/// What an import reports, in the lines that a client gets.
pub(super) struct Report {
    reports: mpsc::Receiver<Progress>,
    /// What has been received, if it has not been sent on.
    first: Option<Progress>,
    filter: Filter,
    info: Option<Rc<RequestInfo>>,
    last_line: u64,
    is_over: bool,
}

impl Report {
    /// `first` was received before.
    pub(super) fn new(
        reports: mpsc::Receiver<Progress>,
        first: Option<ChunkReport>,
        choice: Choice,
        info: Option<Rc<RequestInfo>>,
    ) -> Self {
        Self { reports, first: Some(Ok(first)), filter: Filter::new(choice), info, last_line: 0, is_over: false }
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// The lines that are left, each as soon as its row is done.
    pub(super) fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> {
        stream::unfold(self, async |mut report| Some((Ok(report.next().await?), report)))
    }

    /// The next lines, as soon as their rows are done.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        while !self.is_over {
            let reported = match self.first.take() {
                Some(first) => Some(first),
                None => self.reports.recv().await,
            };
            let mut lines = Vec::new();
            match reported {
                Some(Ok(Some(reported))) => {
                    self.last_line = reported.last_line;
                    lines = self.filter.choose(reported.report);
                }
                Some(Ok(None)) => self.end(&mut lines),
                Some(Err(stop)) => {
                    let last_line = match stop {
                        ImportError::Read(ReadError::UnclosedQuote { last, .. }) => Some(last),
                        _ => None,
                    };
                    self.stop(&mut lines, last_line, &problem(stop));
                }
                None => self.stop(&mut lines, None, &Problem::internal("the import panicked")),
            }
            if !lines.is_empty() {
                return Some(lines.into());
            }
        }
        None
    }

    fn end(&mut self, lines: &mut Vec<u8>) {
        self.is_over = true;
        self.filter.summarize(lines);
    }

    fn stop(&mut self, lines: &mut Vec<u8>, last_line: Option<u64>, problem: &Problem) {
        self.end(lines);
        observe::broken_off(self.info.as_deref(), problem);
        line::push_stopped(lines, self.last_line + 1, last_line, problem);
    }
}

/// Selects and counts the lines of a report.
pub(super) struct Filter {
    choice: Choice,
    tally: Tally,
}

impl Filter {
    fn new(choice: Choice) -> Self {
        Self { choice, tally: Tally::default() }
    }

    /// Filters the report of an import that is complete.
    pub(super) fn whole(choice: Choice, report: Vec<u8>) -> Vec<u8> {
        let mut filter = Self::new(choice);
        let mut lines = filter.choose(report);
        filter.summarize(&mut lines);
        lines
    }

    /// What the client gets of these lines. They are counted by what they say: those that were kept under a key are all that
    /// is known of their rows.
    fn choose(&mut self, report: Vec<u8>) -> Vec<u8> {
        #[derive(Deserialize)]
        struct Line<'a> {
            outcome: &'a str,
        }

        if self.choice == Choice::All {
            return report;
        }
        let mut chosen = Vec::new();
        for line in report.split_inclusive(|byte| *byte == b'\n') {
            let Ok(Line { outcome }) = serde_json::from_slice(line) else { continue };
            let count = match outcome {
                "created" => &mut self.tally.created,
                "updated" => &mut self.tally.updated,
                "unchanged" => &mut self.tally.unchanged,
                "undone" => &mut self.tally.undone,
                _ => &mut self.tally.refused,
            };
            *count += 1;
            if self.choice == Choice::Refused && outcome == "refused" {
                chosen.extend_from_slice(line);
            }
        }
        chosen
    }

    fn summarize(&self, lines: &mut Vec<u8>) {
        if self.choice != Choice::All {
            line::push_summary(lines, self.tally);
        }
    }
}

/// Lines that are held back, so that nothing is sent while rows are still being read: proxies and simple clients do not read an
/// answer before they have sent their request.
pub(super) struct Held {
    lines: Encoder<'static, Vec<u8>>,
    length: u64,
    counted: Counted,
}

/// A part of [`HELD_TOGETHER`].
struct Counted(usize);

impl Drop for Counted {
    fn drop(&mut self) {
        HELD_TOGETHER.fetch_sub(self.0, Ordering::Relaxed);
    }
}

impl Held {
    pub(super) fn new() -> io::Result<Self> {
        // Ids are random for the most part; a higher level finds no more in them.
        Ok(Self { lines: Encoder::new(Vec::new(), 1)?, length: 0, counted: Counted(0) })
    }

    pub(super) fn push(&mut self, lines: &[u8]) -> io::Result<()> {
        self.length += lines.len() as u64;
        self.lines.write_all(lines)?;
        let held = self.lines.get_ref().len();
        HELD_TOGETHER.fetch_add(held - self.counted.0, Ordering::Relaxed);
        self.counted.0 = held;
        Ok(())
    }

    pub(super) fn is_full(&self) -> bool {
        self.counted.0 >= MOST_HELD || HELD_TOGETHER.load(Ordering::Relaxed) >= MOST_HELD_TOGETHER
    }

    /// How many bytes they are, and the lines.
    pub(super) fn finish(self) -> io::Result<(u64, impl Iterator<Item = io::Result<Bytes>>)> {
        let compressed = io::Cursor::new(self.lines.finish()?);
        let mut lines = Decoder::with_buffer(compressed)?;
        let counted = self.counted;
        let pieces = std::iter::from_fn(move || {
            // Until all is sent.
            let _counted = &counted;
            let mut piece = Vec::with_capacity(PIECE);
            match lines.by_ref().take(PIECE as u64).read_to_end(&mut piece) {
                Ok(0) => None,
                Ok(_) => Some(Ok(piece.into())),
                Err(error) => Some(Err(error)),
            }
        });
        Ok((self.length, pieces))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_back_is_sent_unchanged() {
        let mut held = Held::new().unwrap();
        let mut sent = String::new();
        for line in 0..50_000 {
            let line = format!("{{\"line\":{line},\"outcome\":\"created\"}}\n");
            held.push(line.as_bytes()).unwrap();
            sent.push_str(&line);
        }
        assert!(!held.is_full());
        let (length, pieces) = held.finish().unwrap();
        let pieces: Vec<Bytes> = pieces.collect::<Result<_, _>>().unwrap();
        assert_eq!(length, sent.len() as u64);
        assert!(pieces.len() > 10 && pieces.iter().all(|piece| piece.len() <= PIECE));
        assert_eq!(pieces.concat(), sent.as_bytes());
    }

    #[test]
    fn what_is_held_back_has_a_bound() {
        let mut held = Held::new().unwrap();
        let mut pushed = 0;
        let random =
            |seed: u64| (0..4096).map(move |n: u64| (seed + n).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        while !held.is_full() {
            held.push(&random(pushed).flatten().collect::<Vec<u8>>()).unwrap();
            pushed += 4096;
            assert!(pushed * 8 <= 64 * MOST_HELD as u64);
        }
    }

    #[test]
    fn lines_are_chosen_and_counted() {
        let report = concat!(
            "{\"line\":1,\"outcome\":\"created\",\"id\":\"x\"}\n",
            "{\"line\":2,\"outcome\":\"refused\",\"problem\":{\"code\":\"email-taken\"}}\n",
            "{\"line\":3,\"outcome\":\"unchanged\",\"id\":\"y\"}\n",
        );
        let summary =
            "{\"outcome\":\"summary\",\"created\":1,\"updated\":0,\"unchanged\":1,\"refused\":1,\"undone\":0}\n";
        let refused = report.lines().nth(1).unwrap();
        let lines = |choice| String::from_utf8(Filter::whole(choice, report.into())).unwrap();
        assert_eq!(lines(Choice::All), report);
        assert_eq!(lines(Choice::Refused), format!("{refused}\n{summary}"));
        assert_eq!(lines(Choice::Summary), summary);
    }
}
