//! The import loop of `POST /users/bulk` and `users-api import`. The next rows are read while a chunk is written, and
//! each chunk is reported as soon as it is written.

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
    io,
    pin::pin,
    sync::Arc,
};

use futures_util::{
    Stream, StreamExt,
    future::{BoxFuture, Either, select},
};
use sha2::{Digest, Sha256};

use super::{
    outcome::{Refused, Row, Tally},
    reader::Reader,
    row::{Format, RawRow, ReadError},
};
use crate::{
    domain::{Author, Email},
    service::{
        BulkOutcome, Draft, Error, KeyedRequest, KeyedResponse, RowOutcome, UserService, WriteMode, WriteOptions,
    },
};

/// The number of rows in a chunk, which is written in one transaction. With an idempotency key each chunk is stored, so
/// this number must stay the same: a client may retry after an update of this program.
const CHUNK_ROWS: usize = 1000;
/// The same without a key while other requests are being served: such a chunk occupies the database only briefly.
const CHUNK_ROWS_UNDER_LOAD: usize = 100;
/// Bytes read before the task yields: some dozens of rows, a fraction of a millisecond.
const BYTES_PER_YIELD: usize = 4 * 1024;
/// The maximum number of rows of an import that writes all rows or none.
const MAX_ATOMIC_ROWS: usize = 10_000;
/// The number of email addresses that a dry run remembers: some tens of megabytes at most.
const MAX_SEEN_EMAILS: usize = 1_000_000;

/// Formats the report of some rows. With an idempotency key the report is stored.
pub type Report = Arc<dyn Fn(&[Row]) -> Vec<u8> + Send + Sync>;

/// The options of an import.
#[derive(Clone)]
pub struct Import {
    /// The service that writes the rows.
    pub service: UserService,
    /// How the rows are written.
    pub options: WriteOptions,
    /// The author of the import.
    pub author: Author,
    /// The idempotency key, if there is one.
    pub keyed: Option<KeyedRequest>,
    /// Rows that start before this line are skipped.
    pub from_line: u64,
    /// Formats the report of each chunk.
    pub report: Report,
}

/// The result of a chunk.
#[derive(Clone, Debug)]
pub struct ChunkReport {
    /// The report of its rows.
    pub report: Vec<u8>,
    /// The outcomes of its rows; zero if the report is a stored one.
    pub tally: Tally,
    /// The last line of its last row.
    pub last_line: u64,
    /// Whether the report is a stored one: the chunk had been written before, with the same key.
    pub is_replay: bool,
    /// Whether the transaction was committed.
    pub is_committed: bool,
}

/// An error that stops an import before the end of its pending.
#[derive(Debug)]
pub enum ImportError {
    /// The input cannot be parsed any further.
    Read(ReadError),
    /// The input could not be read.
    Source(io::Error),
    /// The service could not write a chunk.
    Service(Error),
    /// There are more rows than can be written in one transaction.
    TooMany(usize),
    /// The receiver of the reports has disconnected.
    Disconnected,
}

impl ImportError {
    /// Extends the range of unread lines to rows that were read but not written, from this one on.
    fn with_unwritten(mut self, row: Option<&RawRow>) -> Self {
        if let (Self::Read(ReadError::UnclosedQuote { first, .. }), Some(row)) = (&mut self, row) {
            *first = row.line;
        }
        self
    }
}

/// Imports all rows of a source. `on_chunk` receives the report of each chunk as soon as it is written, and returns
/// whether to continue.
///
/// While a chunk is written, only the next one is read, so that a client that sends faster than the database writes is
/// slowed down (back-pressure). Without a key, a chunk is what has arrived in the meantime; with a key, it always has
/// the same rows.
///
/// # Errors
///
/// [`ImportError`]. The chunks that were reported before are written.
pub async fn import<B: AsRef<[u8]>>(
    import: &Import,
    format: Format,
    source: impl Stream<Item = io::Result<B>>,
    mut on_chunk: impl AsyncFnMut(ChunkReport) -> bool,
) -> Result<(), ImportError> {
    let mut source = pin!(source);
    let mut pending = PendingRows { reader: Reader::new(format), rows: VecDeque::new(), end: None };
    let mut chunks = Chunks::start(import).await.map_err(ImportError::Service)?;
    let mut writing: Option<BoxFuture<'static, Result<ChunkReport, Error>>> = None;
    loop {
        if writing.is_none() && pending.has_chunk(import) {
            writing = Some(chunks.write_next(&mut pending.rows).map_err(ImportError::Service)?);
        }
        let may_read = pending.end.is_none() && pending.rows.len() < CHUNK_ROWS;
        let read = match (writing.take(), may_read) {
            (None, true) => source.next().await,
            (None, false) => {
                if let Some(Err(error)) = pending.end {
                    return Err(error.with_unwritten(pending.rows.front()));
                }
                return chunks.finish().await.map_err(ImportError::Service);
            }
            (Some(work), may_read) => {
                let next = async { if may_read { source.next().await } else { std::future::pending().await } };
                match select(work, pin!(next)).await {
                    Either::Left((written, _)) => {
                        if !on_chunk(written.map_err(ImportError::Service)?).await {
                            return Err(ImportError::Disconnected);
                        }
                        continue;
                    }
                    Either::Right((read, work)) => {
                        writing = Some(work);
                        read
                    }
                }
            }
        };
        pending.push(read, import.from_line).await;
    }
}

/// The rows that have been read and are not being written yet.
struct PendingRows {
    reader: Reader,
    rows: VecDeque<RawRow>,
    /// Set once nothing more can be read.
    end: Option<Result<(), ImportError>>,
}

impl PendingRows {
    /// Returns whether the next chunk can be written.
    fn has_chunk(&self, import: &Import) -> bool {
        let is_complete = self.rows.len() >= CHUNK_ROWS || import.keyed.is_none() || matches!(self.end, Some(Ok(())));
        is_complete && !self.rows.is_empty()
    }

    /// Adds what the source has returned.
    async fn push<B: AsRef<[u8]>>(&mut self, read: Option<io::Result<B>>, from_line: u64) {
        self.end = match read {
            Some(Ok(bytes)) => read_rows(&mut self.reader, bytes.as_ref(), &mut self.rows).await.err().map(Err),
            // The rows that have arrived are not written either: the input may be cut off inside a row, and the client
            // sends it again.
            Some(Err(error)) => {
                self.rows.clear();
                Some(Err(ImportError::Source(error)))
            }
            None => Some(self.reader.read(&[], &mut self.rows).map_err(ImportError::Read)),
        };
        while self.rows.front().is_some_and(|row| row.line < from_line) {
            self.rows.pop_front();
        }
    }
}

/// The chunks of an import, in order. With a key, an import that is repeated must have the same ones.
struct Chunks<'a> {
    import: &'a Import,
    /// The number of chunks so far.
    count: u64,
    /// The number of chunks of a completed import with this key.
    stored_count: Option<u64>,
    seen: Option<SeenEmails>,
}

impl<'a> Chunks<'a> {
    async fn start(import: &'a Import) -> Result<Self, Error> {
        let stored_count = match import.keyed {
            Some(keyed) => import.service.stored_chunk_count(keyed).await?,
            None => None,
        };
        let needs_seen = import.options.dry_run && import.options.mode == WriteMode::Insert;
        Ok(Self { import, count: 0, stored_count, seen: needs_seen.then(SeenEmails::default) })
    }

    /// Returns the work of writing the first rows of `rows`.
    fn write_next(
        &mut self,
        rows: &mut VecDeque<RawRow>,
    ) -> Result<BoxFuture<'static, Result<ChunkReport, Error>>, Error> {
        if self.stored_count == Some(self.count) {
            return Err(Error::KeyReused);
        }
        let is_under_load = self.import.keyed.is_none() && self.import.service.is_under_load();
        let max = if is_under_load { CHUNK_ROWS_UNDER_LOAD } else { CHUNK_ROWS };
        let rows = rows.drain(..rows.len().min(max)).map(|row| Candidate::of(row, &mut self.seen)).collect();
        let work = self.import.clone().write(rows, self.count);
        self.count += 1;
        Ok(Box::pin(work))
    }

    /// Stores or compares the number of chunks once all are written.
    async fn finish(self) -> Result<(), Error> {
        match (self.import.keyed, self.stored_count) {
            (Some(_), Some(stored)) if stored != self.count => Err(Error::KeyReused),
            (Some(keyed), None) => self.import.service.store_chunk_count(keyed, self.count).await,
            _ => Ok(()),
        }
    }
}

/// Imports all rows of a source in one transaction.
///
/// # Errors
///
/// [`ImportError`]; then nothing was written.
pub async fn import_atomically<B: AsRef<[u8]>>(
    import: &Import,
    format: Format,
    source: impl Stream<Item = io::Result<B>>,
) -> Result<ChunkReport, ImportError> {
    let mut source = pin!(source);
    let mut reader = Reader::new(format);
    let mut rows: Vec<RawRow> = Vec::new();
    while let Some(bytes) = source.next().await {
        let bytes = bytes.map_err(ImportError::Source)?;
        read_rows(&mut reader, bytes.as_ref(), &mut rows).await?;
        if rows.len() > MAX_ATOMIC_ROWS {
            break;
        }
    }
    reader.read(&[], &mut rows).map_err(ImportError::Read)?;
    if rows.len() > MAX_ATOMIC_ROWS {
        return Err(ImportError::TooMany(MAX_ATOMIC_ROWS));
    }
    let rows = rows.into_iter().map(|row| Candidate::of(row, &mut None)).collect();
    import.clone().write(rows, 0).await.map_err(ImportError::Service)
}

/// Reads rows from `bytes`, and yields regularly to the other tasks of the thread.
async fn read_rows(reader: &mut Reader, bytes: &[u8], rows: &mut impl Extend<RawRow>) -> Result<(), ImportError> {
    for part in bytes.chunks(BYTES_PER_YIELD) {
        reader.read(part, rows).map_err(ImportError::Read)?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// The email addresses of a dry run so far. The database does not have them: each chunk of a dry run is rolled back.
#[derive(Default)]
struct SeenEmails {
    hashes: HashSet<u64>,
    hasher: RandomState,
}

impl SeenEmails {
    fn is_new(&mut self, email: &Email) -> bool {
        let hash = self.hasher.hash_one(email.key());
        if self.hashes.len() < MAX_SEEN_EMAILS { self.hashes.insert(hash) } else { !self.hashes.contains(&hash) }
    }
}

/// A row to be written, or the reason why it is refused.
struct Candidate {
    line: u64,
    last_line: u64,
    draft: Result<Draft, Refused>,
}

impl Candidate {
    fn of(row: RawRow, seen: &mut Option<SeenEmails>) -> Self {
        let mut is_new = |draft: &Draft| seen.as_mut().is_none_or(|seen| seen.is_new(&draft.email));
        let draft = match row.draft {
            Ok(draft) if is_new(&draft) => Ok(draft),
            Ok(_) => Err(Refused::EmailTaken),
            Err(errors) => Err(Refused::Invalid(errors)),
        };
        Self { line: row.line, last_line: row.last_line, draft }
    }
}

impl Import {
    /// Writes a chunk in one transaction.
    async fn write(mut self, rows: Vec<Candidate>, chunk: u64) -> Result<ChunkReport, Error> {
        let last_line = rows.last().map_or(0, |row| row.last_line);
        let keyed = self.keyed.map(|keyed| keyed_chunk(keyed, self.options, chunk, &rows));
        let mut drafts = Vec::with_capacity(rows.len());
        let rows: Vec<(u64, u64, Option<Refused>)> = rows
            .into_iter()
            .map(|row| match row.draft {
                Ok(draft) => {
                    drafts.push(draft);
                    (row.line, row.last_line, None)
                }
                Err(refused) => (row.line, row.last_line, Some(refused)),
            })
            .collect();
        let atomic = self.options.atomic;
        // One refused row is enough to write none of them.
        self.options.dry_run |= atomic && rows.iter().any(|(_, _, refused)| refused.is_some());
        let outcomes = move |written: &[Option<RowOutcome>]| row_outcomes(&rows, written, atomic);
        let keyed = keyed.filter(|_| !self.options.dry_run);
        let (report, rows, is_replay, is_committed) = match keyed {
            None => {
                let BulkOutcome { written, is_committed } =
                    self.service.write_many(drafts, self.options, self.author).await?;
                let rows = outcomes(&written);
                ((self.report)(&rows), rows, false, is_committed)
            }
            Some(keyed) => {
                let outcomes = Arc::new(outcomes);
                let serialize = {
                    let (outcomes, report) = (Arc::clone(&outcomes), Arc::clone(&self.report));
                    move |written: &[Option<RowOutcome>]| report(&outcomes(written))
                };
                match self.service.write_many_once(drafts, self.options, self.author, keyed, serialize).await? {
                    (KeyedResponse::Fresh(report), BulkOutcome { written, is_committed }) => {
                        (report, outcomes(&written), false, is_committed)
                    }
                    (KeyedResponse::Replayed(report), _) => (report, Vec::new(), true, true),
                }
            }
        };
        Ok(ChunkReport { report, tally: Tally::of(&rows), last_line, is_replay, is_committed })
    }
}

/// Returns the outcome of each row. `written` has an entry for each row that is not refused in `rows`.
fn row_outcomes(rows: &[(u64, u64, Option<Refused>)], written: &[Option<RowOutcome>], atomic: bool) -> Vec<Row> {
    let is_any_refused = written.contains(&None) || rows.iter().any(|(_, _, refused)| refused.is_some());
    let is_rolled_back = atomic && is_any_refused;
    let mut written = written.iter();
    rows.iter()
        .map(|(line, last_line, refused)| {
            let outcome = match refused {
                Some(refused) => Err(refused.clone()),
                None => match written.next().copied().flatten() {
                    None => Err(Refused::EmailTaken),
                    Some(_) if is_rolled_back => Err(Refused::RolledBack),
                    Some(written) => Ok(written),
                },
            };
            Row { line: *line, last_line: *last_line, outcome }
        })
        .collect()
}

/// Returns the key and the fingerprint of a chunk.
fn keyed_chunk(keyed: KeyedRequest, options: WriteOptions, chunk: u64, rows: &[Candidate]) -> KeyedRequest {
    let mut key = Sha256::new();
    key.update(keyed.key);
    key.update(chunk.to_be_bytes());
    let mut fingerprint = Sha256::new();
    fingerprint.update([u8::from(options.mode == WriteMode::Upsert), u8::from(options.atomic)]);
    for row in rows {
        fingerprint.update(row.line.to_be_bytes());
        // Omitted for rows of one line, whose fingerprints must match those of versions without `last_line`.
        if row.last_line != row.line {
            fingerprint.update(row.last_line.to_be_bytes());
        }
        let texts: Vec<&str> = match &row.draft {
            Ok(Draft { name, email }) => vec![name.as_str(), email.as_str()],
            Err(Refused::EmailTaken | Refused::RolledBack) => Vec::new(),
            // The reported errors stand for an invalid row. Without their messages, which may change between versions.
            Err(Refused::Invalid(errors)) => errors.iter().flat_map(|it| [&*it.member, it.error.code]).collect(),
        };
        fingerprint.update([u8::from(row.draft.is_ok())]);
        fingerprint.update((texts.len() as u64).to_be_bytes());
        for text in texts {
            fingerprint.update((text.len() as u64).to_be_bytes());
            fingerprint.update(text);
        }
    }
    KeyedRequest { key: key.finalize().into(), fingerprint: fingerprint.finalize().into(), retention: keyed.retention }
}
