//! Cells of CSV that no spreadsheet runs.
//!
//! A spreadsheet runs a cell that begins with `=`, `+`, `-` or `@` as a formula (OWASP, "CSV Injection"). Quotes alone do not
//! help: a spreadsheet that separates cells by `;`, as most of Europe's do, sees `id,"Ann;=1+1"` as the cells `id,"Ann` and
//! `=1+1"`. So a cell is taken as parts, with anything that may separate cells between them, and each part that could begin a
//! formula is written with a `'` before it, and read without it. So are parts that begin with such a `'` already, so that what
//! was written is read back as it was.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization;

/// Begins a formula, as itself or as what compatibility decomposition (NFKD) makes of a character: `＝`, `﹢`.
const FORMULA: [char; 8] = ['=', '+', '-', '\u{2212}', '@', '\t', '\r', '\n'];
/// Separates cells: the list separators of locales (the last one is Persian), and those that import dialogs offer.
const SEPARATORS: [char; 5] = [',', ';', '\t', '|', '\u{61b}'];
/// With letters and digits, the characters of cells that need no quotes in any dialect.
const PLAIN: [char; 8] = [' ', '.', '-', '_', '@', '+', '\'', ':'];
const MARK: char = '\'';

/// Whether a spreadsheet could take the part for a formula, or whether it looks as if that had been prevented. Spaces,
/// quotes and the like before the formula do not count: some spreadsheets remove them.
fn is_dangerous(part: &str) -> bool {
    let begins_formula =
        |c: char| FORMULA.contains(&c) || !c.is_ascii() && [c].into_iter().nfkd().any(|c| FORMULA.contains(&c));
    part.chars().take_while(|c| !c.is_alphanumeric()).any(begins_formula)
}

/// A cell as it was before [`write_cell`] made it safe.
pub(super) fn unguarded(cell: &str) -> Cow<'_, str> {
    if !cell.contains(MARK) {
        return Cow::Borrowed(cell);
    }
    let parts = cell.split_inclusive(SEPARATORS);
    Cow::Owned(parts.map(|part| part.strip_prefix(MARK).filter(|_| is_dangerous(part)).unwrap_or(part)).collect())
}

/// Writes a cell, safe and in quotes unless all of it is plain.
pub(super) fn write_cell(out: &mut Vec<u8>, cell: &str) {
    if !is_dangerous(cell) && cell.chars().all(|c| c.is_alphanumeric() || PLAIN.contains(&c)) {
        out.extend_from_slice(cell.as_bytes());
        return;
    }
    out.push(b'"');
    for part in cell.split_inclusive(SEPARATORS) {
        if is_dangerous(part) {
            out.push(b'\'');
        }
        for byte in part.bytes() {
            if byte == b'"' {
                out.push(b'"');
            }
            out.push(byte);
        }
    }
    out.push(b'"');
}
