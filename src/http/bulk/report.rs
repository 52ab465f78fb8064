//! The lines of a bulk response. They are sent as soon as their rows are processed, or once all rows are.

use std::{
    io::{self, Read, Write},
    rc::Rc,
    sync::atomic::{AtomicUsize, Ordering},
};

use actix_web::web::Bytes;
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::ToSchema;
use zstd::stream::{read::Decoder, write::Encoder};

use super::{line, problem};
use crate::{
    exchange::{ChunkReport, ImportError, ReadError, Tally},
    http::{observe, problem::Problem, request_info::RequestInfo},
};

/// The maximum number of buffered bytes of a response, compressed: the lines of about a million rows.
const MAX_BUFFERED: usize = 16 * 1024 * 1024;
/// The maximum number of buffered bytes of all responses together.
const MAX_TOTAL_BUFFERED: usize = 64 * 1024 * 1024;
static TOTAL_BUFFERED: AtomicUsize = AtomicUsize::new(0);
/// The number of buffered bytes sent at a time.
const CHUNK_SIZE: usize = 64 * 1024;

/// The lines of the response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(default = Self::default)]
pub(in crate::http) enum ReportLevel {
    /// A line for each row.
    #[default]
    All,
    /// A line for each refused row, and a summary.
    Refused,
    /// Only a summary.
    Summary,
}

/// A message of the import: a chunk, `Ok(None)` at the end, or an error. An import that sends no end has panicked.
pub(super) type Progress = Result<Option<ChunkReport>, ImportError>;

/// The lines of a response, from the messages of an import.
pub(super) struct Report {
    reports: mpsc::Receiver<Progress>,
    /// The first message, which is received before the response starts.
    first: Option<Progress>,
    filter: Filter,
    info: Option<Rc<RequestInfo>>,
    last_line: u64,
    is_over: bool,
}

impl Report {
    /// Returns the lines of an import whose first message has been received.
    pub(super) fn new(
        reports: mpsc::Receiver<Progress>,
        first: Option<ChunkReport>,
        level: ReportLevel,
        info: Option<Rc<RequestInfo>>,
    ) -> Self {
        Self { reports, first: Some(Ok(first)), filter: Filter::new(level), info, last_line: 0, is_over: false }
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Streams the remaining lines, each as soon as its row is processed.
    pub(super) fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> {
        stream::unfold(self, async |mut report| Some((Ok(report.next().await?), report)))
    }

    /// Returns the next lines as soon as their rows are processed; `None` at the end.
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
                    lines = self.filter.select(reported.report);
                }
                Some(Ok(None)) => self.end(&mut lines),
                Some(Err(error)) => {
                    let last_line = match error {
                        ImportError::Read(ReadError::UnclosedQuote { last, .. }) => Some(last),
                        _ => None,
                    };
                    self.stop(&mut lines, last_line, &problem(error));
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
        observe::response_aborted(self.info.as_deref(), problem);
        line::push_stopped(lines, self.last_line + 1, last_line, problem);
    }
}

/// Selects and counts the lines of a report.
pub(super) struct Filter {
    level: ReportLevel,
    tally: Tally,
}

impl Filter {
    fn new(level: ReportLevel) -> Self {
        Self { level, tally: Tally::default() }
    }

    /// Returns the lines of a complete import.
    pub(super) fn whole(level: ReportLevel, report: Vec<u8>) -> Vec<u8> {
        let mut filter = Self::new(level);
        let mut lines = filter.select(report);
        filter.summarize(&mut lines);
        lines
    }

    /// Selects lines of a report. The outcomes are counted from the lines, because nothing else is known of the rows of
    /// a stored report.
    fn select(&mut self, report: Vec<u8>) -> Vec<u8> {
        #[derive(Deserialize)]
        struct Line<'a> {
            outcome: &'a str,
        }

        if self.level == ReportLevel::All {
            return report;
        }
        let mut selected = Vec::new();
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
            if self.level == ReportLevel::Refused && outcome == "refused" {
                selected.extend_from_slice(line);
            }
        }
        selected
    }

    fn summarize(&self, lines: &mut Vec<u8>) {
        if self.level != ReportLevel::All {
            line::push_summary(lines, self.tally);
        }
    }
}

/// Lines that are buffered until all rows have been read: proxies and simple clients do not read the response before
/// they have sent the whole request.
pub(super) struct LineBuffer {
    lines: Encoder<'static, Vec<u8>>,
    length: u64,
    size: BufferedBytes,
}

/// The share of a buffer in [`TOTAL_BUFFERED`].
struct BufferedBytes(usize);

impl Drop for BufferedBytes {
    fn drop(&mut self) {
        TOTAL_BUFFERED.fetch_sub(self.0, Ordering::Relaxed);
    }
}

impl LineBuffer {
    pub(super) fn new() -> io::Result<Self> {
        // A higher compression level does not pay off: most of the bytes are random ids.
        Ok(Self { lines: Encoder::new(Vec::new(), 1)?, length: 0, size: BufferedBytes(0) })
    }

    pub(super) fn push(&mut self, lines: &[u8]) -> io::Result<()> {
        self.length += lines.len() as u64;
        self.lines.write_all(lines)?;
        let size = self.lines.get_ref().len();
        TOTAL_BUFFERED.fetch_add(size - self.size.0, Ordering::Relaxed);
        self.size.0 = size;
        Ok(())
    }

    pub(super) fn is_full(&self) -> bool {
        self.size.0 >= MAX_BUFFERED || TOTAL_BUFFERED.load(Ordering::Relaxed) >= MAX_TOTAL_BUFFERED
    }

    /// Returns the length of the lines in bytes, and the lines in chunks.
    pub(super) fn finish(self) -> io::Result<(u64, impl Iterator<Item = io::Result<Bytes>>)> {
        let compressed = io::Cursor::new(self.lines.finish()?);
        let mut lines = Decoder::with_buffer(compressed)?;
        let size = self.size;
        let chunks = std::iter::from_fn(move || {
            // The bytes count as buffered until all of them are sent.
            let _size = &size;
            let mut chunk = Vec::with_capacity(CHUNK_SIZE);
            match lines.by_ref().take(CHUNK_SIZE as u64).read_to_end(&mut chunk) {
                Ok(0) => None,
                Ok(_) => Some(Ok(chunk.into())),
                Err(error) => Some(Err(error)),
            }
        });
        Ok((self.length, chunks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffered_lines_are_sent_unchanged() {
        let mut buffer = LineBuffer::new().unwrap();
        let mut sent = String::new();
        for line in 0..50_000 {
            let line = format!("{{\"line\":{line},\"outcome\":\"created\"}}\n");
            buffer.push(line.as_bytes()).unwrap();
            sent.push_str(&line);
        }
        assert!(!buffer.is_full());
        let (length, chunks) = buffer.finish().unwrap();
        let chunks: Vec<Bytes> = chunks.collect::<Result<_, _>>().unwrap();
        assert_eq!(length, sent.len() as u64);
        assert!(chunks.len() > 10 && chunks.iter().all(|chunk| chunk.len() <= CHUNK_SIZE));
        assert_eq!(chunks.concat(), sent.as_bytes());
    }

    #[test]
    fn the_buffer_is_limited() {
        let mut buffer = LineBuffer::new().unwrap();
        let mut pushed = 0;
        let random =
            |seed: u64| (0..4096).map(move |n: u64| (seed + n).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        while !buffer.is_full() {
            buffer.push(&random(pushed).flatten().collect::<Vec<u8>>()).unwrap();
            pushed += 4096;
            assert!(pushed * 8 <= 64 * MAX_BUFFERED as u64);
        }
    }

    #[test]
    fn lines_are_selected_and_counted() {
        let report = concat!(
            "{\"line\":1,\"outcome\":\"created\",\"id\":\"x\"}\n",
            "{\"line\":2,\"outcome\":\"refused\",\"problem\":{\"code\":\"email-taken\"}}\n",
            "{\"line\":3,\"outcome\":\"unchanged\",\"id\":\"y\"}\n",
        );
        let summary =
            "{\"outcome\":\"summary\",\"created\":1,\"updated\":0,\"unchanged\":1,\"refused\":1,\"undone\":0}\n";
        let refused = report.lines().nth(1).unwrap();
        let lines = |level| String::from_utf8(Filter::whole(level, report.into())).unwrap();
        assert_eq!(lines(ReportLevel::All), report);
        assert_eq!(lines(ReportLevel::Refused), format!("{refused}\n{summary}"));
        assert_eq!(lines(ReportLevel::Summary), summary);
    }
}
