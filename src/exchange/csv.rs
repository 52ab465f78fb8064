//! CSV (RFC 4180) with a header.
//!
//! A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@` for a formula and runs it. Such cells are written with a
//! `'` before them, and read without it; so are those that begin with such a `'` already, so that nothing is lost.

use csv_core::ReadRecordResult;

use super::rows::{IGNORED, LONGEST_ROW, MemberFault, RawRow, TableFault, draft, too_long};
use crate::{domain::Fault, service::Draft};

/// More columns than any table of users has.
const MOST_COLUMNS: usize = 64;
/// What makes a formula of a cell.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const MARK: char = '\'';

/// Reads users from CSV.
#[derive(Debug)]
pub struct CsvReader {
    parser: csv_core::Reader,
    /// How much of a byte order mark has been passed over.
    marked: usize,
    columns: Option<Columns>,
    cells: Vec<u8>,
    ends: Vec<usize>,
    /// How much of both is filled by the record that has been begun.
    filled: (usize, usize),
    /// The line that this record begins in, and the one that is being read; from 1.
    line: u64,
    now: u64,
    is_begun: bool,
    is_too_long: bool,
    /// Whether the last byte was a carriage return.
    is_after_return: bool,
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
        Self {
            parser: csv_core::Reader::new(),
            marked: 0,
            columns: None,
            cells: vec![0; LONGEST_ROW],
            ends: vec![0; MOST_COLUMNS],
            filled: (0, 0),
            line: 1,
            now: 1,
            is_begun: false,
            is_too_long: false,
            is_after_return: false,
        }
    }
}

impl CsvReader {
    pub(super) fn read(&mut self, piece: &[u8], rows: &mut impl Extend<RawRow>) -> Result<(), TableFault> {
        let mut rest = piece;
        while let (Some(expected), Some(first)) = (BYTE_ORDER_MARK.get(self.marked), rest.first()) {
            if first != expected && self.marked > 0 {
                return Err(table("the header begins with no column of users"));
            }
            // The parser takes a piece that is only a mark for the end.
            (self.marked, rest) =
                if first == expected { (self.marked + 1, &rest[1..]) } else { (BYTE_ORDER_MARK.len(), rest) };
        }
        if rest.is_empty() && !piece.is_empty() {
            return Ok(());
        }
        loop {
            if !self.is_begun {
                // These line ends belong to the last record.
                let ends = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                self.pass(&rest[..ends]);
                rest = &rest[ends..];
                if rest.is_empty() && !piece.is_empty() {
                    return Ok(());
                }
                self.line = self.now;
                self.is_begun = true;
            }
            let (cells, ends) = self.filled;
            let (result, read, written, ended) =
                self.parser.read_record(rest, &mut self.cells[cells..], &mut self.ends[ends..]);
            self.pass(&rest[..read]);
            rest = &rest[read..];
            self.filled = (cells + written, ends + ended);
            match result {
                ReadRecordResult::InputEmpty => return Ok(()),
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                    self.is_too_long = true;
                    self.filled = (0, 0);
                }
                ReadRecordResult::Record => {
                    let row = self.record();
                    self.filled = (0, 0);
                    self.is_too_long = false;
                    self.is_begun = false;
                    if let Some(row) = row? {
                        rows.extend([row]);
                    }
                }
                ReadRecordResult::End => {
                    if self.columns.is_none() {
                        return Err(table("there is no header; it names the columns, such as name,email"));
                    }
                    return Ok(());
                }
            }
            // An empty piece ends the input; the parser may still hold records.
            if rest.is_empty() && !piece.is_empty() {
                return Ok(());
            }
        }
    }

    /// Counts the lines that end here.
    fn pass(&mut self, read: &[u8]) {
        for place in memchr::memchr2_iter(b'\r', b'\n', read) {
            let is_after_return = if place == 0 { self.is_after_return } else { read[place - 1] == b'\r' };
            // A line feed behind a carriage return ends no line of its own.
            self.now += u64::from(read[place] == b'\r' || !is_after_return);
        }
        if let Some(last) = read.last() {
            self.is_after_return = *last == b'\r';
        }
    }

    /// The record that has been read to its end.
    fn record(&mut self) -> Result<Option<RawRow>, TableFault> {
        let cells = if self.is_too_long { Err(too_long()) } else { self.cells() };
        let Some(columns) = self.columns else {
            let names = cells.map_err(|faults| table(format!("the header: {}", faults[0].fault.message)))?;
            self.columns = Some(Columns::of(&names)?);
            return Ok(None);
        };
        let draft = cells.and_then(|cells| columns.draft(&cells));
        Ok(Some(RawRow { line: self.line, draft }))
    }

    fn cells(&self) -> Result<Vec<&str>, Vec<MemberFault>> {
        let mut start = 0;
        let cells = self.ends[..self.filled.1].iter().map(|end| {
            let cell = &self.cells[start..*end];
            start = *end;
            str::from_utf8(cell)
        });
        cells.collect::<Result<_, _>>().map_err(|_| vec![MemberFault::of_row("malformed", "a row must be UTF-8")])
    }
}

impl Columns {
    fn of(names: &[&str]) -> Result<Self, TableFault> {
        let names: Vec<&str> = names.iter().map(|name| name.trim()).collect();
        for (place, name) in names.iter().enumerate() {
            if !["name", "email"].contains(name) && !IGNORED.contains(name) {
                // What a client sent is not repeated at any length.
                let name: String = name.chars().take(40).collect();
                return Err(table(format!("there is no column {name:?}; name and email are read")));
            }
            if names[..place].contains(name) {
                return Err(table(format!("the column {name} is there twice")));
            }
        }
        let find = |wanted: &str| {
            let place = names.iter().position(|name| *name == wanted);
            place.ok_or_else(|| table(format!("the column {wanted} is missing")))
        };
        Ok(Self { name: find("name")?, email: find("email")?, count: names.len() })
    }

    fn draft(self, cells: &[&str]) -> Result<Draft, Vec<MemberFault>> {
        if cells.len() != self.count {
            let message = format!("a row has as many cells as the header, {}, and not {}", self.count, cells.len());
            return Err(vec![MemberFault { member: String::new(), fault: Fault::new("wrong-length", message) }]);
        }
        draft(unguarded(cells[self.name]), unguarded(cells[self.email]))
    }
}

fn table(message: impl Into<String>) -> TableFault {
    TableFault { message: message.into() }
}

/// Whether a spreadsheet would take the cell for a formula, or whether it looks as if that had been prevented.
fn is_dangerous(cell: &str) -> bool {
    cell.trim_start_matches(MARK).starts_with(FORMULA)
}

/// A cell as it was before [`write_cell`] made it safe.
fn unguarded(cell: &str) -> &str {
    match cell.strip_prefix(MARK) {
        Some(rest) if is_dangerous(cell) => rest,
        _ => cell,
    }
}

/// Writes a cell, safe and in quotes where it has to be.
pub(super) fn write_cell(out: &mut Vec<u8>, cell: &str) {
    let guard = is_dangerous(cell);
    if guard || cell.contains([',', '"', '\n', '\r']) {
        out.push(b'"');
        if guard {
            out.push(b'\'');
        }
        for part in cell.split_inclusive('"') {
            out.extend_from_slice(part.as_bytes());
            if part.ends_with('"') {
                out.push(b'"');
            }
        }
        out.push(b'"');
    } else {
        out.extend_from_slice(cell.as_bytes());
    }
}
