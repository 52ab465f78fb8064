//! Rows on their way into the service: read while others are being written, and told of as soon as they are.

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

use super::rows::{Format, MemberError, RawRow, ReadError, Reader};
use crate::{
    domain::Email,
    service::{Draft, Error, KeyedRequest, KeyedResponse, Mode, Outcome, UserService, WriteOptions, Written},
};

/// Rows that are written in one transaction. Under a key each such piece is kept by itself, so it is a promise to those who
/// ask again after an update of this program that this number stays.
const AT_ONCE: usize = 1000;
/// The same while others are being served, and no key says otherwise: the database is done with them in a moment.
const AT_ONCE_GIVING_WAY: usize = 100;
/// Bytes that are read in one turn: some dozens of rows, a fraction of a millisecond.
const BYTES_A_TURN: usize = 4 * 1024;
/// Rows that are written in one transaction if it is to be all of them or none.
const MOST_ALL_OR_NONE: usize = 10_000;

/// Rows whose emails a dry run remembers: at most some tens of megabytes.
const MOST_SEEN: usize = 1_000_000;

/// Why a row was not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is no user.
    Invalid(Vec<MemberError>),
    /// Another user has the email.
    EmailTaken,
    /// It was valid, but another row was refused, and it was to be all of them or none.
    RolledBack,
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The line that it begins in, from 1.
    pub line: u64,
    /// The line that it ends in; another one only if it was refused.
    pub last_line: u64,
    /// What was written, or why nothing was.
    pub outcome: Result<Written, Refused>,
}

/// Makes the report of some rows: what is told of them, and what is kept under a key.
pub type Report = Arc<dyn Fn(&[Row]) -> Vec<u8> + Send + Sync>;

/// How rows are imported.
#[derive(Clone)]
pub struct Import {
    /// Where to.
    pub service: UserService,
    /// On what terms.
    pub terms: WriteOptions,
    /// By what it is known, if it is to be done keyed.
    pub keyed: Option<KeyedRequest>,
    /// Rows that begin before this line are passed over.
    pub from_line: u64,
    /// How rows are told of.
    pub report: Report,
}

/// Some rows that are done.
#[derive(Clone, Debug)]
pub struct ChunkReport {
    /// Their report.
    pub report: Vec<u8>,
    /// What became of them; nothing is known of those that were done before.
    pub tally: Tally,
    /// The line of the last one.
    pub last_line: u64,
    /// Whether they were done before, under the same key.
    pub is_replay: bool,
    /// Whether what was written was kept.
    pub is_kept: bool,
}

/// How many rows had which outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Users that were created.
    pub created: u64,
    /// Users that were changed.
    pub updated: u64,
    /// Users that were there, just so.
    pub unchanged: u64,
    /// Rows that were refused.
    pub refused: u64,
    /// Rows that were not written because others were refused.
    pub undone: u64,
}

/// Why an import ended before its end.
#[derive(Debug)]
pub enum ImportError {
    /// The input is not a table of users, or no longer.
    Read(ReadError),
    /// No more of the input came.
    Source(io::Error),
    /// The service could not write the next rows.
    Service(Error),
    /// There are more rows than can be written all or none.
    TooMany(usize),
    /// Nobody wants to be told of more.
    Unheard,
}

impl ImportError {
    /// The same, where rows from this one on were read but not written.
    fn with_unwritten(mut self, row: Option<&RawRow>) -> Self {
        if let (Self::Read(ReadError::UnclosedQuote { first, .. }), Some(row)) = (&mut self, row) {
            *first = row.line;
        }
        self
    }
}

impl Tally {
    fn of(rows: &[Row]) -> Self {
        let mut tally = Self::default();
        for row in rows {
            *match &row.outcome {
                Ok(Written::Created(_)) => &mut tally.created,
                Ok(Written::Updated(_)) => &mut tally.updated,
                Ok(Written::Unchanged(_)) => &mut tally.unchanged,
                Err(Refused::Invalid(_) | Refused::EmailTaken) => &mut tally.refused,
                Err(Refused::RolledBack) => &mut tally.undone,
            } += 1;
        }
        tally
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.created += other.created;
        self.updated += other.updated;
        self.unchanged += other.unchanged;
        self.refused += other.refused;
        self.undone += other.undone;
    }
}

/// Imports all rows of a source. `tell` hears of each piece as soon as it is written, and says whether to go on.
///
/// While one piece is written the next one is read, and no more: whoever sends faster than the database writes is made to
/// wait. Without a key a piece is what has come meanwhile; with one it is always the same rows.
///
/// # Errors
///
/// [`ImportError`]. What was told of before is done.
pub async fn import<B: AsRef<[u8]>>(
    import: &Import,
    format: Format,
    source: impl Stream<Item = io::Result<B>>,
    mut tell: impl AsyncFnMut(ChunkReport) -> bool,
) -> Result<(), ImportError> {
    let mut source = pin!(source);
    let mut reader = Reader::new(format);
    let mut waiting: VecDeque<RawRow> = VecDeque::new();
    let mut working: Option<BoxFuture<'static, Result<ChunkReport, Error>>> = None;
    let mut ended: Option<Result<(), ImportError>> = None;
    let mut pieces = 0;
    let mut seen = (import.terms.dry_run && import.terms.mode == Mode::Insert).then(Seen::default);
    // Under its key it may have come to its end before.
    let all_pieces = match import.keyed {
        Some(keyed) => import.service.pieces_of(keyed).await.map_err(ImportError::Service)?,
        None => None,
    };
    loop {
        if working.is_none() {
            let is_piece = waiting.len() >= AT_ONCE || import.keyed.is_none() || matches!(ended, Some(Ok(())));
            if is_piece && !waiting.is_empty() {
                if all_pieces == Some(pieces) {
                    return Err(ImportError::Service(Error::KeyReused));
                }
                let gives_way = import.keyed.is_none() && import.service.gives_way();
                let most = if gives_way { AT_ONCE_GIVING_WAY } else { AT_ONCE };
                let rows = waiting.drain(..waiting.len().min(most)).map(|row| Candidate::of(row, &mut seen)).collect();
                working = Some(Box::pin(import.clone().write(rows, pieces)));
                pieces += 1;
            }
        }
        let reads = ended.is_none() && waiting.len() < AT_ONCE;
        let read = match (working.take(), reads) {
            (None, true) => source.next().await,
            (None, false) => {
                if let Some(Err(stop)) = ended {
                    return Err(stop.with_unwritten(waiting.front()));
                }
                return match (import.keyed, all_pieces) {
                    (Some(_), Some(all)) if all != pieces => Err(ImportError::Service(Error::KeyReused)),
                    (Some(keyed), None) => {
                        import.service.keep_pieces(keyed, pieces).await.map_err(ImportError::Service)
                    }
                    _ => Ok(()),
                };
            }
            (Some(work), reads) => {
                let next = async { if reads { source.next().await } else { std::future::pending().await } };
                match select(work, pin!(next)).await {
                    Either::Left((done, _)) => {
                        if !tell(done.map_err(ImportError::Service)?).await {
                            return Err(ImportError::Unheard);
                        }
                        continue;
                    }
                    Either::Right((read, work)) => {
                        working = Some(work);
                        read
                    }
                }
            }
        };
        ended = match read {
            Some(Ok(piece)) => read_on(&mut reader, piece.as_ref(), &mut waiting).await.err().map(Err),
            // What has come is not written either: it may be cut off within a row, and is sent again anyway.
            Some(Err(error)) => {
                waiting.clear();
                Some(Err(ImportError::Source(error)))
            }
            None => Some(reader.read(&[], &mut waiting).map_err(ImportError::Read)),
        };
        while waiting.front().is_some_and(|row| row.line < import.from_line) {
            waiting.pop_front();
        }
    }
}

/// Imports all rows of a source in one transaction.
///
/// # Errors
///
/// [`ImportError`]; then nothing was written.
pub async fn import_all_or_none<B: AsRef<[u8]>>(
    import: &Import,
    format: Format,
    source: impl Stream<Item = io::Result<B>>,
) -> Result<ChunkReport, ImportError> {
    let mut source = pin!(source);
    let mut reader = Reader::new(format);
    let mut rows: Vec<RawRow> = Vec::new();
    while let Some(piece) = source.next().await {
        let piece = piece.map_err(ImportError::Source)?;
        read_on(&mut reader, piece.as_ref(), &mut rows).await?;
        if rows.len() > MOST_ALL_OR_NONE {
            break;
        }
    }
    reader.read(&[], &mut rows).map_err(ImportError::Read)?;
    if rows.len() > MOST_ALL_OR_NONE {
        return Err(ImportError::TooMany(MOST_ALL_OR_NONE));
    }
    let rows = rows.into_iter().map(|row| Candidate::of(row, &mut None)).collect();
    import.clone().write(rows, 0).await.map_err(ImportError::Service)
}

/// Reads a piece, and lets others have their turn meanwhile: they share the thread.
async fn read_on(reader: &mut Reader, piece: &[u8], rows: &mut impl Extend<RawRow>) -> Result<(), ImportError> {
    for slice in piece.chunks(BYTES_A_TURN) {
        reader.read(slice, rows).map_err(ImportError::Read)?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// The emails that a dry run has met: of what it finds free in one piece nothing is there in the next.
#[derive(Default)]
struct Seen {
    emails: HashSet<u64>,
    hasher: RandomState,
}

impl Seen {
    fn is_new(&mut self, email: &Email) -> bool {
        let hash = self.hasher.hash_one(email.key());
        if self.emails.len() < MOST_SEEN { self.emails.insert(hash) } else { !self.emails.contains(&hash) }
    }
}

/// A row that may be written, or why it will not.
struct Candidate {
    line: u64,
    last_line: u64,
    draft: Result<Draft, Refused>,
}

impl Candidate {
    fn of(row: RawRow, seen: &mut Option<Seen>) -> Self {
        let mut is_new = |draft: &Draft| seen.as_mut().is_none_or(|seen| seen.is_new(&draft.email));
        let draft = match row.draft {
            Ok(draft) if is_new(&draft) => Ok(draft),
            Ok(_) => Err(Refused::EmailTaken),
            Err(faults) => Err(Refused::Invalid(faults)),
        };
        Self { line: row.line, last_line: row.last_line, draft }
    }
}

impl Import {
    /// Writes some rows in one transaction.
    async fn write(mut self, rows: Vec<Candidate>, piece: u64) -> Result<ChunkReport, Error> {
        let last_line = rows.last().map_or(0, |row| row.last_line);
        let keyed = self.keyed.map(|keyed| of_piece(keyed, self.terms, piece, &rows));
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
        let all_or_none = self.terms.all_or_none;
        // Those who are all right are not written if another is not.
        self.terms.dry_run |= all_or_none && rows.iter().any(|(_, _, refused)| refused.is_some());
        let told = move |written: &[Option<Written>]| rows_of(&rows, written, all_or_none);
        let keyed = keyed.filter(|_| !self.terms.dry_run);
        let (report, rows, is_replay, is_kept) = match keyed {
            None => {
                let Outcome { written, is_kept } = self.service.write_many(drafts, self.terms).await?;
                let rows = told(&written);
                ((self.report)(&rows), rows, false, is_kept)
            }
            Some(keyed) => {
                let told = Arc::new(told);
                let (seal, report) = (Arc::clone(&told), Arc::clone(&self.report));
                let seal = move |written: &[Option<Written>]| report(&seal(written));
                match self.service.write_many_once(drafts, self.terms, keyed, seal).await? {
                    (KeyedResponse::Fresh(report), Outcome { written, is_kept }) => {
                        (report, told(&written), false, is_kept)
                    }
                    (KeyedResponse::Replayed(report), _) => (report, Vec::new(), true, true),
                }
            }
        };
        Ok(ChunkReport { report, tally: Tally::of(&rows), last_line, is_replay, is_kept })
    }
}

/// What became of rows: some are wrong, the others were written.
fn rows_of(rows: &[(u64, u64, Option<Refused>)], written: &[Option<Written>], all_or_none: bool) -> Vec<Row> {
    let is_refused = written.contains(&None) || rows.iter().any(|(_, _, refused)| refused.is_some());
    let is_undone = all_or_none && is_refused;
    let mut written = written.iter();
    rows.iter()
        .map(|(line, last_line, refused)| {
            let outcome = match refused {
                Some(refused) => Err(refused.clone()),
                None => match written.next().copied().flatten() {
                    None => Err(Refused::EmailTaken),
                    Some(_) if is_undone => Err(Refused::RolledBack),
                    Some(written) => Ok(written),
                },
            };
            Row { line: *line, last_line: *last_line, outcome }
        })
        .collect()
}

/// By what a piece of an import is known.
fn of_piece(keyed: KeyedRequest, terms: WriteOptions, piece: u64, rows: &[Candidate]) -> KeyedRequest {
    let mut key = Sha256::new();
    key.update(keyed.key);
    key.update(piece.to_be_bytes());
    let mut fingerprint = Sha256::new();
    fingerprint.update([u8::from(terms.mode == Mode::Upsert), u8::from(terms.all_or_none)]);
    for row in rows {
        fingerprint.update(row.line.to_be_bytes());
        // Nearly all rows end where they begin: their fingerprints stay what they were before there was a last line.
        if row.last_line != row.line {
            fingerprint.update(row.last_line.to_be_bytes());
        }
        let texts: Vec<&str> = match &row.draft {
            Ok(Draft { name, email }) => vec![name.as_str(), email.as_str()],
            Err(Refused::EmailTaken | Refused::RolledBack) => Vec::new(),
            // What is told of it.
            Err(Refused::Invalid(faults)) => {
                faults.iter().flat_map(|it| [&*it.member, it.fault.code, &*it.fault.message]).collect()
            }
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
