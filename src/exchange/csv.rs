//! CSV (RFC 4180) with a header.
//!
//! What RFC 4180 does not allow is refused, not interpreted: a row with a quote in a cell that is not enclosed in quotes, or
//! with text after a closing quote. The next row begins on the next line, unless a quoted cell is not closed: it holds line
//! ends until the input ends or the row is too long, or it is closed by a quote of another row, after which the quotes of a
//! line are odd in number. Then no line end can be trusted. The rest of the input is not read, and reported as such: a guess
//! could skip rows, or take the text of a cell for rows.
//!
//! No member of a user has line ends. A row that spans several lines is valid CSV and never a user, so each user that is
//! read is exactly one line of the input.

use super::{
    cell::unguarded,
    rows::{IGNORED, LONGEST_ROW, MemberError, RawRow, ReadError, draft, too_long},
};
use crate::{domain::ValidationError, service::Draft};

/// More columns than any table of users has.
const MOST_COLUMNS: usize = 64;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads users from CSV.
#[derive(Debug)]
pub struct CsvReader {
    /// How much of a byte order mark has been passed over.
    marked: usize,
    columns: Option<Columns>,
    state: State,
    record: Record,
    /// The line of the next byte, from 1.
    line: u64,
    /// The last byte.
    previous: u8,
}

/// Where the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between two records.
    Between,
    /// At the beginning of a cell.
    Begin,
    /// In a cell that is not enclosed in quotes.
    Bare,
    /// In a quoted cell.
    Quoted,
    /// After a quote in a quoted cell: the end of the cell, or the first of two quotes that stand for one.
    Quote,
    /// After a closing quote with text behind it.
    Broken,
    /// After a quote that is not closed. Only lines are counted.
    Unread,
}

/// The record that is being read.
#[derive(Debug, Default)]
struct Record {
    line: u64,
    /// The line of the last opening quote.
    quote_line: u64,
    /// Quotes of its quoted cells.
    quotes: u64,
    /// In bytes, and one more for the separator that the last cell has not.
    length: usize,
    /// The cells, one behind the other; no more than a row may have.
    cells: Vec<u8>,
    /// Where each cell ends.
    ends: Vec<usize>,
    /// What RFC 4180 does not allow in it.
    fault: Option<&'static str>,
}

/// Where the members of a draft stand.
#[derive(Clone, Copy, Debug)]
struct Columns {
    name: usize,
    email: usize,
    count: usize,
}

impl Default for CsvReader {
    fn default() -> Self {
        Self { marked: 0, columns: None, state: State::Between, record: Record::default(), line: 1, previous: 0 }
    }
}

impl CsvReader {
    pub(super) fn read(&mut self, piece: &[u8], rows: &mut impl Extend<RawRow>) -> Result<(), ReadError> {
        if piece.is_empty() {
            rows.extend(self.end()?);
            return Ok(());
        }
        let mut rest = piece;
        while let (Some(expected), Some(first)) = (BYTE_ORDER_MARK.get(self.marked), rest.first()) {
            if first != expected && self.marked > 0 {
                return Err(header("the header begins with no column of users"));
            }
            (self.marked, rest) =
                if first == expected { (self.marked + 1, &rest[1..]) } else { (BYTE_ORDER_MARK.len(), rest) };
        }
        while !rest.is_empty() {
            let (text, after) = rest.split_at(self.plain(rest));
            if let Some(last) = text.last() {
                self.previous = *last;
                if self.state != State::Unread {
                    self.record.push(text);
                }
            }
            let Some((&byte, after)) = after.split_first() else { break };
            rest = after;
            let line = self.line;
            // A line feed behind a carriage return ends no line by itself.
            self.line += u64::from(byte == b'\r' || byte == b'\n' && self.previous != b'\r');
            self.previous = byte;
            if let Some(row) = self.step(byte, line)? {
                rows.extend([row]);
            }
        }
        Ok(())
    }

    /// How many bytes change nothing but the cell.
    fn plain(&self, rest: &[u8]) -> usize {
        match self.state {
            State::Between | State::Begin | State::Quote => Some(0),
            State::Bare => rest.iter().position(|byte| matches!(byte, b',' | b'"' | b'\r' | b'\n')),
            State::Quoted | State::Broken => memchr::memchr3(b'"', b'\r', b'\n', rest),
            State::Unread => memchr::memchr2(b'\r', b'\n', rest),
        }
        .unwrap_or(rest.len())
    }

    fn step(&mut self, byte: u8, line: u64) -> Result<Option<RawRow>, ReadError> {
        let ends_line = matches!(byte, b'\r' | b'\n');
        if self.state == State::Between {
            if ends_line {
                return Ok(None);
            }
            self.record.begin(line);
            self.state = State::Begin;
        }
        self.state = match (self.state, byte) {
            // A user has no line ends. In a row that is too long this is a quote that was not closed.
            (State::Quoted, _) if ends_line && self.record.is_too_long() => State::Unread,
            (State::Broken, _) if ends_line && self.record.is_open() => State::Unread,
            (State::Begin | State::Bare | State::Quote | State::Broken, _) if ends_line => return self.record(line),
            (State::Begin, b'"') => {
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
                self.record.keep(b"\"");
                State::Quoted
            }
            (State::Broken, b'"') => {
                self.record.quote();
                State::Broken
            }
            (State::Begin | State::Bare | State::Quote, b',') => {
                self.record.end_cell();
                State::Begin
            }
            (State::Begin | State::Bare, _) => {
                if byte == b'"' {
                    self.record.fault =
                        Some("a cell with a quote in it must be enclosed in quotes, and the quote in it doubled");
                }
                self.record.push(&[byte]);
                State::Bare
            }
            (State::Quote, _) => {
                self.record.fault = Some("text follows the closing quote of a cell");
                State::Broken
            }
            (state, _) => {
                self.record.push(&[byte]);
                state
            }
        };
        Ok(None)
    }

    /// The input has ended.
    fn end(&mut self) -> Result<Option<RawRow>, ReadError> {
        let last = if matches!(self.previous, b'\r' | b'\n') { self.line - 1 } else { self.line };
        let row = match self.state {
            State::Between => None,
            State::Broken if !self.record.is_open() => self.record(last)?,
            State::Begin | State::Bare | State::Quote => self.record(last)?,
            State::Quoted | State::Broken | State::Unread => {
                let Record { line: first, quote_line: line, .. } = self.record;
                return Err(ReadError::UnclosedQuote { line, first, last });
            }
        };
        if self.columns.is_none() {
            return Err(header("there is no header; it names the columns, such as name,email"));
        }
        Ok(row)
    }

    /// The record that has been read to its end.
    fn record(&mut self, last_line: u64) -> Result<Option<RawRow>, ReadError> {
        self.state = State::Between;
        self.record.end_cell();
        let cells = self.record.cells();
        let Some(columns) = self.columns else {
            let names = cells.map_err(|faults| header(format!("the header: {}", faults[0].fault.message)))?;
            self.columns = Some(Columns::of(&names)?);
            return Ok(None);
        };
        let line = self.record.line;
        let draft = cells.and_then(|cells| columns.draft(&cells)).and_then(|draft| {
            let is_one_line = line == last_line;
            let fault = || vec![MemberError::of_row("control-character", "no cell of a user has line ends")];
            is_one_line.then_some(draft).ok_or_else(fault)
        });
        Ok(Some(RawRow { line, last_line, draft }))
    }
}

impl Record {
    fn begin(&mut self, line: u64) {
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
        self.keep(text);
    }

    fn keep(&mut self, text: &[u8]) {
        if !self.is_too_long() {
            self.cells.extend_from_slice(text);
        }
    }

    /// Notes a quote around a cell or in a quoted one.
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
        self.length > LONGEST_ROW + 1
    }

    /// Whether one of its quotes is the only one of its pair.
    fn is_open(&self) -> bool {
        self.quotes % 2 == 1
    }

    fn cells(&self) -> Result<Vec<&str>, Vec<MemberError>> {
        if let Some(fault) = self.fault {
            return Err(vec![MemberError::of_row("malformed", fault)]);
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
        cells.collect::<Result<_, _>>().map_err(|_| vec![MemberError::of_row("malformed", "a row must be UTF-8")])
    }
}

impl Columns {
    fn of(names: &[&str]) -> Result<Self, ReadError> {
        if names.len() > MOST_COLUMNS {
            return Err(header(format!("the header has {} columns; at most {MOST_COLUMNS} are read", names.len())));
        }
        let names: Vec<&str> = names.iter().map(|name| name.trim()).collect();
        for (place, name) in names.iter().enumerate() {
            if !["name", "email"].contains(name) && !IGNORED.contains(name) {
                // What a client sent is not repeated at any length.
                let name: String = name.chars().take(40).collect();
                return Err(header(format!("there is no column {name:?}; name and email are read")));
            }
            if names[..place].contains(name) {
                return Err(header(format!("the column {name} is there twice")));
            }
        }
        let find = |wanted: &str| {
            let place = names.iter().position(|name| *name == wanted);
            place.ok_or_else(|| header(format!("the column {wanted} is missing")))
        };
        Ok(Self { name: find("name")?, email: find("email")?, count: names.len() })
    }

    fn draft(self, cells: &[&str]) -> Result<Draft, Vec<MemberError>> {
        if cells.len() != self.count {
            let message = format!("the row has {} cells, the header has {}", cells.len(), self.count);
            return Err(vec![MemberError {
                member: String::new(),
                fault: ValidationError::new("wrong-length", message),
            }]);
        }
        draft(&unguarded(cells[self.name]), &unguarded(cells[self.email]))
    }
}

fn header(message: impl Into<String>) -> ReadError {
    ReadError::Header(message.into())
}
