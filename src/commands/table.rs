//! Tables. They are coloured if the output is a terminal and `NO_COLOR` is not set.

use std::{fmt::Write as _, io};

use anstream::{AutoStream, ColorChoice, adapter::strip_str};
use anstyle::{AnsiColor, Effects, Style};

const HEADER: Style = Style::new().effects(Effects::BOLD);
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
pub(super) const WARNING: Style = AnsiColor::Yellow.on_default();
pub(super) const BAD: Style = AnsiColor::Red.on_default();
const GAP: &str = "  ";

/// A cell.
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self::styled(text, Style::new())
    }

    pub(super) fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }
}

/// Returns a table with a header. The text of the last column may have any width.
pub(super) fn table<const N: usize>(header: [&str; N], rows: Vec<[Cell; N]>) -> String {
    let colours = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
    render(header, rows, colours)
}

fn render<const N: usize>(header: [&str; N], rows: Vec<[Cell; N]>, colours: bool) -> String {
    let header = header.map(|name| Cell::styled(name, HEADER));
    let rows: Vec<[Cell; N]> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].text.chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        for (at, (Cell { text: content, style }, width)) in row.iter().zip(widths).enumerate() {
            let is_last = at + 1 == N;
            let padding = if is_last { 0 } else { width - content.chars().count() };
            let end = if is_last { "\n" } else { GAP };
            // Writing into a String does not fail.
            let _ = write!(text, "{style}{content}{style:#}{:padding$}{end}", "");
        }
    }
    if colours { text } else { strip_str(&text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_with_and_without_colours() {
        let rows = || {
            let row = |name: &str, state, style| [Cell::new(name), Cell::styled(state, style), Cell::new("any width")];
            vec![row("a", "applied", GOOD), row("äöü", "pending!", WARNING)]
        };
        let plain = render(["NAME", "STATE", "TEXT"], rows(), false);
        assert_eq!(plain, "NAME  STATE     TEXT\na     applied   any width\näöü   pending!  any width\n");
        let coloured = render(["NAME", "STATE", "TEXT"], rows(), true);
        assert!(coloured.contains("\u{1b}[32mapplied\u{1b}[0m   any"), "{coloured:?}");
        assert_eq!(strip_str(&coloured).to_string(), plain);
    }
}
