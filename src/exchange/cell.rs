//! CSV cells, escaped so that no spreadsheet runs them as formulas.
//!
//! A spreadsheet runs a cell that starts with `=`, `+`, `-` or `@` as a formula (OWASP, "CSV Injection"). Quotes alone
//! do not prevent this: a spreadsheet that separates cells by `;`, as in most European locales, reads `id,"Ann;=1+1"`
//! as the cells `id,"Ann` and `=1+1"`. So a cell is split into parts at every character that may separate cells. A part
//! that could start a formula is written with a leading `'`, which is removed when it is read. A part that already
//! starts with such a `'` gets another one, so that every cell survives the round trip.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization;

/// Characters that start a formula, also as the compatibility decomposition (NFKD) of another character: `＝`, `﹢`.
const FORMULA: [char; 8] = ['=', '+', '-', '\u{2212}', '@', '\t', '\r', '\n'];
/// Characters that separate cells: the list separators of locales (the last one is Persian), and those of import
/// dialogs.
const SEPARATORS: [char; 5] = [',', ';', '\t', '|', '\u{61b}'];
/// Characters that, like letters and digits, need no quotes in any dialect.
const PLAIN: [char; 8] = [' ', '.', '-', '_', '@', '+', '\'', ':'];
const ESCAPE: char = '\'';

/// Whether a spreadsheet could read the part as a formula, before or after it was escaped. Spaces, quotes and other
/// punctuation before the formula are skipped, because some spreadsheets remove them.
fn needs_escape(part: &str) -> bool {
    let starts_formula =
        |c: char| FORMULA.contains(&c) || !c.is_ascii() && [c].into_iter().nfkd().any(|c| FORMULA.contains(&c));
    part.chars().take_while(|c| !c.is_alphanumeric()).any(starts_formula)
}

/// Returns a cell as it was before [`write_cell`] escaped it.
pub(super) fn unescape_cell(cell: &str) -> Cow<'_, str> {
    if !cell.contains(ESCAPE) {
        return Cow::Borrowed(cell);
    }
    let parts = cell.split_inclusive(SEPARATORS);
    Cow::Owned(parts.map(|part| part.strip_prefix(ESCAPE).filter(|_| needs_escape(part)).unwrap_or(part)).collect())
}

/// Writes a cell, escaped and enclosed in quotes unless all of its characters are plain.
pub(super) fn write_cell(out: &mut Vec<u8>, cell: &str) {
    if !needs_escape(cell) && cell.chars().all(|c| c.is_alphanumeric() || PLAIN.contains(&c)) {
        out.extend_from_slice(cell.as_bytes());
        return;
    }
    out.push(b'"');
    for part in cell.split_inclusive(SEPARATORS) {
        if needs_escape(part) {
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
