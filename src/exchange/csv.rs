//! CSV (RFC 4180) with a header.
//!
//! Rows that violate RFC 4180 are refused, not interpreted: a row with a quote in an unquoted cell, or with text after
//! a closing quote. The next row starts on the next line, unless a quoted cell is not closed: such a cell contains line
//! breaks until the input ends or the row is too long, or a quote of another row closes it, which leaves an odd number
//! of quotes on a line. Then no line break can be trusted. The rest of the input is not read, and is reported as
//! unread: a guess could skip rows, or mistake the text of a cell for rows.
//!
//! No member of a user contains a line break. A row that spans several lines is valid CSV but never a valid user, so
//! each user is exactly one line of the input.

use super::{
    cell::unescape_cell,
    row::{BYTE_ORDER_MARK, MAX_ROW_LENGTH, MemberError, RawRow, ReadError, is_member, too_long, validate},
};
use crate::service::Draft;

/// More columns than any file of users has.
const MAX_COLUMNS: usize = 64;

/// Reads users from CSV.
#[derive(Debug)]
pub struct CsvReader {
    /// How many bytes of a byte order mark have been skipped; all of them if there is none.
    mark_bytes: usize,
    columns: Option<Columns>,
    state: State,
    record: Record,
    /// The line of the next byte, from 1.
    line: u64,
    /// The previous byte.
    previous: u8,
}

/// The position of the next byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a record.
    RecordStart,
    /// At the start of a cell.
    CellStart,
    /// In an unquoted cell.
    Unquoted,
    /// In a quoted cell.
    Quoted,
    /// After a quote in a quoted cell: the end of the cell, or the first half of an escaped quote.
    Quote,
    /// In a record with text after a closing quote.
    Malformed,
    /// After an unclosed quote. Only lines are counted.
    Unread,
}

/// The record that is being read.
#[derive(Debug, Default)]
struct Record {
    line: u64,
    /// The line of the last opening quote.
    quote_line: u64,
    /// The number of quotes around and in quoted cells.
    quotes: u64,
    /// The length in bytes, plus one for the separator that the last cell does not have.
    length: usize,
    /// The text of all cells, up to the maximum length of a row.
    cells: Vec<u8>,
    /// The end of each cell in `cells`.
    ends: Vec<usize>,
    /// How it violates RFC 4180.
    error: Option<&'static str>,
}

/// The columns of a user's members.
#[derive(Clone, Copy, Debug)]
struct Columns {
    name: usize,
    email: usize,
    count: usize,
}

impl Default for CsvReader {
    fn default() -> Self {
        let record = Record::default();
        Self { mark_bytes: 0, columns: None, state: State::RecordStart, record, line: 1, previous: 0 }
    }
}

impl CsvReader {
    pub(super) fn read(&mut self, chunk: &[u8], rows: &mut impl Extend<RawRow>) -> Result<(), ReadError> {
        if chunk.is_empty() {
            rows.extend(self.end()?);
            return Ok(());
        }
        let mut rest = chunk;
        while let (Some(expected), Some(first)) = (BYTE_ORDER_MARK.get(self.mark_bytes), rest.first()) {
            if first != expected && self.mark_bytes > 0 {
                return Err(header("the header starts with an unknown column"));
            }
            (self.mark_bytes, rest) =
                if first == expected { (self.mark_bytes + 1, &rest[1..]) } else { (BYTE_ORDER_MARK.len(), rest) };
        }
        while !rest.is_empty() {
            let (text, after) = rest.split_at(self.plain_length(rest));
            if let Some(last) = text.last() {
                self.previous = *last;
                if self.state != State::Unread {
                    self.record.push(text);
                }
            }
            let Some((&byte, after)) = after.split_first() else { break };
            rest = after;
            let line = self.line;
            // A line feed after a carriage return is part of the same line break.
            self.line += u64::from(byte == b'\r' || byte == b'\n' && self.previous != b'\r');
            self.previous = byte;
            if let Some(row) = self.step(byte, line)? {
                rows.extend([row]);
            }
        }
        Ok(())
    }

    /// Returns the number of bytes that only add text to the cell.
    fn plain_length(&self, rest: &[u8]) -> usize {
        match self.state {
            State::RecordStart | State::CellStart | State::Quote => Some(0),
            State::Unquoted => rest.iter().position(|byte| matches!(byte, b',' | b'"' | b'\r' | b'\n')),
            State::Quoted | State::Malformed => memchr::memchr3(b'"', b'\r', b'\n', rest),
            State::Unread => memchr::memchr2(b'\r', b'\n', rest),
        }
        .unwrap_or(rest.len())
    }

    fn step(&mut self, byte: u8, line: u64) -> Result<Option<RawRow>, ReadError> {
        let ends_line = matches!(byte, b'\r' | b'\n');
        if self.state == State::RecordStart {
            if ends_line {
                return Ok(None);
            }
            self.record.reset(line);
            self.state = State::CellStart;
        }
        self.state = match (self.state, byte) {
            // A line break in a row that is too long: the quote was not closed, since no user contains line breaks.
            (State::Quoted, _) if ends_line && self.record.is_too_long() => State::Unread,
            (State::Malformed, _) if ends_line && self.record.has_unclosed_quote() => State::Unread,
            (State::CellStart | State::Unquoted | State::Quote | State::Malformed, _) if ends_line => {
                return self.record(line);
            }
            (State::CellStart, b'"') => {
                self.record.quote_line = line;
                self.record.quote();
                State::Quoted
            }
            (State::Quoted, b'"') => {
                self.record.quote();
                State::Quote
            }
            (State::Quote, b'"') => {
                self.record.quote();
                self.record.append(b"\"");
                State::Quoted
            }
            (State::Malformed, b'"') => {
                self.record.quote();
                State::Malformed
            }
            (State::CellStart | State::Unquoted | State::Quote, b',') => {
                self.record.end_cell();
                State::CellStart
            }
            (State::CellStart | State::Unquoted, _) => {
                if byte == b'"' {
                    self.record.error =
                        Some("a cell that contains a quote must be enclosed in quotes, and the quote doubled");
                }
                self.record.push(&[byte]);
                State::Unquoted
            }
            (State::Quote, _) => {
                self.record.error = Some("text follows the closing quote of a cell");
                State::Malformed
            }
            (state, _) => {
                self.record.push(&[byte]);
                state
            }
        };
        Ok(None)
    }

    /// Returns the last row at the end of the input.
    fn end(&mut self) -> Result<Option<RawRow>, ReadError> {
        let last = if matches!(self.previous, b'\r' | b'\n') { self.line - 1 } else { self.line };
        let row = match self.state {
            State::RecordStart => None,
            State::Malformed if !self.record.has_unclosed_quote() => self.record(last)?,
            State::CellStart | State::Unquoted | State::Quote => self.record(last)?,
            State::Quoted | State::Malformed | State::Unread => {
                let Record { line: first, quote_line: line, .. } = self.record;
                return Err(ReadError::UnclosedQuote { line, first, last });
            }
        };
        if self.columns.is_none() {
            return Err(header("the header is missing; it names the columns, such as name,email"));
        }
        Ok(row)
    }

    /// Returns the row of a complete record; `None` for the header.
    fn record(&mut self, last_line: u64) -> Result<Option<RawRow>, ReadError> {
        self.state = State::RecordStart;
        self.record.end_cell();
        let cells = self.record.cells();
        let Some(columns) = self.columns else {
            let names = cells.map_err(|errors| header(format!("header: {}", errors[0].error.message)))?;
            self.columns = Some(Columns::of(&names)?);
            return Ok(None);
        };
        let line = self.record.line;
        let draft = cells.and_then(|cells| columns.draft(&cells)).and_then(|draft| {
            let is_one_line = line == last_line;
            let error = || vec![MemberError::of_row("control-character", "must not span several lines")];
            is_one_line.then_some(draft).ok_or_else(error)
        });
        Ok(Some(RawRow { line, last_line, draft }))
    }
}

impl Record {
    /// Starts a new record; its buffers are reused.
    fn reset(&mut self, line: u64) {
        self.cells.clear();
        self.ends.clear();
        *self = Self {
            line,
            cells: std::mem::take(&mut self.cells),
            ends: std::mem::take(&mut self.ends),
            ..Self::default()
        };
    }

    fn push(&mut self, text: &[u8]) {
        self.length += text.len();
        self.append(text);
    }

    fn append(&mut self, text: &[u8]) {
        if !self.is_too_long() {
            self.cells.extend_from_slice(text);
        }
    }

    /// Counts a quote around or in a quoted cell.
    fn quote(&mut self) {
        self.quotes += 1;
        self.length += 1;
    }

    fn end_cell(&mut self) {
        self.length += 1;
        if !self.is_too_long() {
            self.ends.push(self.cells.len());
        }
    }

    fn is_too_long(&self) -> bool {
        self.length > MAX_ROW_LENGTH + 1
    }

    /// Whether the number of quotes is odd.
    fn has_unclosed_quote(&self) -> bool {
        self.quotes % 2 == 1
    }

    fn cells(&self) -> Result<Vec<&str>, Vec<MemberError>> {
        if let Some(error) = self.error {
            return Err(vec![MemberError::of_row("malformed", error)]);
        }
        if self.is_too_long() {
            return Err(too_long());
        }
        let mut start = 0;
        let cells = self.ends.iter().map(|end| {
            let cell = &self.cells[start..*end];
            start = *end;
            str::from_utf8(cell)
        });
        cells.collect::<Result<_, _>>().map_err(|_| vec![MemberError::of_row("malformed", "must be UTF-8")])
    }
}

impl Columns {
    fn of(names: &[&str]) -> Result<Self, ReadError> {
        if names.len() > MAX_COLUMNS {
            return Err(header(format!("the header has {} columns; at most {MAX_COLUMNS} are allowed", names.len())));
        }
        let names: Vec<&str> = names.iter().map(|name| name.trim()).collect();
        for (position, name) in names.iter().enumerate() {
            if !is_member(name) {
                // The name comes from the client and may be of any length.
                let name: String = name.chars().take(40).collect();
                return Err(header(format!("unknown column {name:?}; required are name and email")));
            }
            if names[..position].contains(name) {
                return Err(header(format!("duplicate column {name}")));
            }
        }
        let find = |member: &str| {
            let position = names.iter().position(|name| *name == member);
            position.ok_or_else(|| header(format!("the column {member} is missing")))
        };
        Ok(Self { name: find("name")?, email: find("email")?, count: names.len() })
    }

    fn draft(self, cells: &[&str]) -> Result<Draft, Vec<MemberError>> {
        if cells.len() != self.count {
            let message = format!("the row has {} cells, the header has {}", cells.len(), self.count);
            return Err(vec![MemberError::of_row("wrong-length", message)]);
        }
        validate(&unescape_cell(cells[self.name]), &unescape_cell(cells[self.email]))
    }
}

fn header(message: impl Into<String>) -> ReadError {
    ReadError::Header(message.into())
}
