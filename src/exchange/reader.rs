//! Reads rows from chunks of input. Chunks may end anywhere.

use super::{
    csv::CsvReader,
    ndjson::NdjsonReader,
    row::{Format, RawRow, ReadError},
};

/// Reads rows in one format.
#[derive(Debug)]
pub enum Reader {
    /// Reads NDJSON.
    Ndjson(NdjsonReader),
    /// Reads CSV.
    Csv(Box<CsvReader>),
}

impl Reader {
    /// Returns a reader for a new input.
    #[must_use]
    pub fn new(format: Format) -> Self {
        match format {
            Format::Ndjson => Self::Ndjson(NdjsonReader::default()),
            Format::Csv => Self::Csv(Box::default()),
        }
    }

    /// Reads the rows that end in this chunk. An empty chunk is the end of the input.
    ///
    /// # Errors
    ///
    /// [`ReadError`]. The rows before the error have been added to `rows`.
    pub fn read(&mut self, chunk: &[u8], rows: &mut impl Extend<RawRow>) -> Result<(), ReadError> {
        match self {
            Self::Ndjson(reader) => {
                reader.read(chunk, rows);
                Ok(())
            }
            Self::Csv(reader) => reader.read(chunk, rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        domain::{Email, Name, User, UserId, Version},
        exchange::{
            Fields, Writer,
            row::{MAX_ROW_LENGTH, MemberError},
        },
        service::Draft,
    };

    /// Reads a text in chunks of this length.
    fn read(format: Format, text: &str, length: usize) -> Result<Vec<RawRow>, ReadError> {
        let (mut reader, mut rows) = (Reader::new(format), Vec::new());
        for chunk in text.as_bytes().chunks(length) {
            reader.read(chunk, &mut rows)?;
        }
        reader.read(&[], &mut rows)?;
        Ok(rows)
    }

    /// Formats each row as `lines name`, or as `lines member:code …` if it is invalid.
    fn summaries(rows: &[RawRow]) -> Vec<String> {
        let summary = |it: &MemberError| format!("{}:{}", it.member, it.error.code);
        rows.iter()
            .map(|row| {
                let lines = if row.line == row.last_line {
                    row.line.to_string()
                } else {
                    format!("{}-{}", row.line, row.last_line)
                };
                match &row.draft {
                    Ok(draft) => format!("{lines} {}", draft.name.as_str()),
                    Err(errors) => format!("{lines} {}", errors.iter().map(summary).collect::<Vec<_>>().join(" ")),
                }
            })
            .collect()
    }

    /// Returns the cells of each row as a lenient CSV reader with this separator reads them.
    fn cells_of(text: &str, separator: u8) -> Vec<Vec<String>> {
        let mut reader = csv_core::ReaderBuilder::new().delimiter(separator).build();
        let (mut cells, mut ends) = (vec![0; text.len() + 1], vec![0; text.len() + 1]);
        let (mut rest, mut rows) = (text.as_bytes(), Vec::new());
        loop {
            let (result, read, _, count) = reader.read_record(rest, &mut cells, &mut ends);
            rest = &rest[read..];
            if result == csv_core::ReadRecordResult::End {
                return rows;
            }
            if result == csv_core::ReadRecordResult::InputEmpty {
                continue;
            }
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let spans = starts.zip(&ends[..count]);
            rows.push(spans.map(|(start, end)| String::from_utf8_lossy(&cells[start..*end]).into_owned()).collect());
        }
    }

    #[test]
    fn ndjson_is_read_line_by_line() {
        let text = concat!(
            "\u{feff}{\"name\":\"Ann\",\"email\":\"ann@example.com\"}\r\n",
            "\n",
            "  \t\n",
            "{\"email\":\"b\\u00e9@example.com\",\"name\":\"B\\u00e9\",\"id\":1,\"version\":2,\"createdAt\":null,\"updatedAt\":[]}\n",
            "{\"name\":\"\",\"email\":1}\n",
            "{\"name\":\"Ann\",\"mail\":\"x\"}\n",
            "[1]\n",
            "{\n",
            "{\"name\":\"A\",\"name\":\"B\",\"email\":\"c@example.com\"}\n",
            "{\"name\":\"Zoe\",\"email\":\"z@example.com\"}",
        );
        let expected = [
            "1 Ann",
            "4 Bé",
            "5 email:wrong-type name:empty",
            "6 email:required mail:unknown-member",
            "7 :wrong-type",
            "8 :malformed",
            "9 :duplicate-member",
            "10 Zoe",
        ];
        for length in [1, 2, 3, 7, 4096] {
            assert_eq!(summaries(&read(Format::Ndjson, text, length).unwrap()), expected, "{length}");
        }
    }

    #[test]
    fn csv_is_read_record_by_record() {
        let text = concat!(
            "\u{feff}id,email,name,version\r\n",
            "1,ann@example.com,\"Ann \"\"the\"\" Example\",1\r\n",
            "\r\n",
            "1,b@example.com,\"two\nlines\",1\n",
            "1,c@example.com,Carl\n",
            "1,\"d@example.com\",'=Dan,1\n",
            "1,'e@example.com,''-Eve,1\n",
            "1,,,\n",
            "1,f@example.com,'Finn,1",
        );
        let expected = [
            "2 Ann \"the\" Example",
            "4-5 name:control-character",
            "6 :wrong-length",
            "7 =Dan",
            "8 '-Eve",
            "9 name:empty email:empty",
            "10 'Finn",
        ];
        for length in [1, 2, 3, 7, 4096] {
            assert_eq!(summaries(&read(Format::Csv, text, length).unwrap()), expected, "{length}");
        }
    }

    #[test]
    fn rows_that_are_too_long_are_refused() {
        let long = "x".repeat(2 * MAX_ROW_LENGTH);
        let ndjson = format!("{long}\n{{\"name\":\"Ann\",\"email\":\"ann@example.com\"}}\n{long}");
        let csv = format!("name,email\n{long},a@example.com\nAnn,ann@example.com\n\"{long}\",b\n{}\n", ",".repeat(99));
        for length in [1000, MAX_ROW_LENGTH, 1 << 20] {
            let summaries_of = |format, text| summaries(&read(format, text, length).unwrap());
            assert_eq!(summaries_of(Format::Ndjson, &ndjson), ["1 :too-long", "2 Ann", "3 :too-long"]);
            assert_eq!(summaries_of(Format::Csv, &csv), ["2 :too-long", "3 Ann", "4 :too-long", "5 :wrong-length"]);
        }
    }

    #[test]
    fn a_row_of_the_maximum_length_is_read() {
        for (length, expected) in [(MAX_ROW_LENGTH, "2 name:too-long"), (MAX_ROW_LENGTH + 1, "2 :too-long")] {
            let email = "ann@example.com";
            let bare = format!("{},{email}", "x".repeat(length - email.len() - 1));
            let quoted = format!("\"{}\"\"\",{email}", "x".repeat(length - email.len() - 5));
            for row in [bare, quoted] {
                assert_eq!(row.len(), length);
                for text in [format!("name,email\n{row}"), format!("name,email\r\n{row}\r\n")] {
                    assert_eq!(summaries(&read(Format::Csv, &text, 1000).unwrap()), [expected], "{length}");
                }
            }
        }
        // A long line that starts with spaces is not blank, although its end is not stored.
        let blank = format!("{}{{}}", " ".repeat(MAX_ROW_LENGTH + 1));
        for length in [1000, 1 << 20] {
            assert_eq!(summaries(&read(Format::Ndjson, &blank, length).unwrap()), ["1 :too-long"]);
        }
    }

    #[test]
    fn violations_of_rfc_4180_are_refused() {
        let text = concat!(
            "name,email\n",
            "\"Ann\" x,a@example.com\n",
            "A\"nn,a@example.com\n",
            " \"Ann\",a@example.com\n",
            "\"Ann\" ,a@example.com\r\n",
            "Ann,\"a@example.com\"\"x\"y\"\"\n",
            "\"Ann\nBob,b@example.com\nCarl\"x\"\",c@example.com\n",
            "Ann,a@example.com\"\"\n",
            "\"Ann\",\"a@example.com\"",
        );
        let expected = [
            "2 :malformed",
            "3 :malformed",
            "4 :malformed",
            "5 :malformed",
            "6 :malformed",
            "7-9 :malformed",
            "10 :malformed",
            "11 Ann",
        ];
        for length in [1, 2, 3, 7, 4096] {
            assert_eq!(summaries(&read(Format::Csv, text, length).unwrap()), expected, "{length}");
        }
    }

    #[test]
    fn nothing_is_read_after_an_unclosed_quote() {
        let long = "Bob,b@example.com\r\n".repeat(2000);
        for (text, unread) in [
            ("a\n\"Ann,a@example.com\n", (3, 3, 3)),
            ("\"Ann,a@example.com\r\n\r\nBob,b@example.com", (2, 2, 4)),
            // Closed by a quote of another row.
            ("\n\"Ann,a@example.com\nBob,b@example.com\n\"Carl\",c@example.com\n\n\"Dora\",d@example.com\n", (3, 3, 7)),
            ("Ann,\"a\"b\"\nBob,b@example.com\r", (2, 2, 3)),
            ("\"two\nlines\",\"Ann\r\rBob", (3, 2, 5)),
            (&format!("\"Ann,a@example.com\r\n{long}\"Carl\",c@example.com\n"), (2, 2, 2003)),
        ] {
            let (line, first, last) = unread;
            for length in [1, 3, 4096, 1 << 20] {
                let text = format!("name,email\n{text}");
                let expected = ReadError::UnclosedQuote { line, first, last };
                assert_eq!(read(Format::Csv, &text, length), Err(expected), "{text:.60}");
            }
        }
        let header = ReadError::UnclosedQuote { line: 1, first: 1, last: 2 };
        assert_eq!(read(Format::Csv, "name,\"email\nAnn,a@example.com\n", 4096), Err(header));
    }

    #[test]
    fn invalid_headers_are_refused() {
        for (text, part) in [
            ("", "the header is missing"),
            ("name\n", "the column email is missing"),
            ("name,email,phone\n", "unknown column \"phone\""),
            ("name,email,name\n", "duplicate column name"),
            (&format!("name{}\n", ",x".repeat(69)), "70 columns; at most 64"),
            ("name,e\"mail\n", "header: a cell that contains a quote"),
            ("name,\"email\" \n", "header: text follows"),
            (&format!("name,{}\n", "x".repeat(2 * MAX_ROW_LENGTH)), "at most 16384 bytes"),
        ] {
            let error = read(Format::Csv, text, 4096).unwrap_err();
            assert!(error.to_string().contains(part), "{text:.40}: {error}");
        }
        assert_eq!(read(Format::Csv, "email,name", 4096), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_chunk_boundaries_do_not_matter(bytes in any::<Vec<u8>>(), length in 1usize..9) {
            for format in [Format::Ndjson, Format::Csv] {
                let read_all = |length: usize| {
                    let (mut reader, mut rows) = (Reader::new(format), Vec::new());
                    let chunks = bytes.chunks(length).chain([&[][..]]);
                    let outcome = chunks.map(|chunk| reader.read(chunk, &mut rows)).collect::<Result<Vec<_>, _>>().map(drop);
                    (outcome, rows)
                };
                prop_assert_eq!(read_all(length), read_all(usize::MAX >> 1));
            }
        }

        #[test]
        fn each_line_belongs_to_a_row_or_is_reported_as_unread(
            text in "(name,email\n)?([ab,\"\r\n{}]|\"\"|a,b@example\\.com){0,40}",
            has_long in any::<bool>(),
        ) {
            let text = if has_long { text.replace('b', &"b".repeat(MAX_ROW_LENGTH / 2)) } else { text };
            for format in [Format::Ndjson, Format::Csv] {
                let (mut reader, mut rows) = (Reader::new(format), Vec::new());
                let outcome = reader.read(text.as_bytes(), &mut rows).and_then(|()| reader.read(&[], &mut rows));
                let mut known: Vec<(u64, u64)> = rows.iter().map(|row| (row.line, row.last_line)).collect();
                prop_assert!(rows.iter().all(|row| row.draft.is_err() || row.line == row.last_line));
                match outcome {
                    Ok(()) => {}
                    Err(ReadError::Header(_)) => continue,
                    Err(ReadError::UnclosedQuote { line, first, last }) => {
                        prop_assert!(first <= line && line <= last);
                        known.push((first, last));
                    }
                }
                prop_assert!(known.is_sorted_by(|one, two| one.1 < two.0), "{:?}", known);
                let text = if format == Format::Csv { text.replace("\r\n", "\n").replace('\r', "\n") } else { text.clone() };
                let is_blank = |line: &str| line.is_empty() || format == Format::Ndjson && line.trim().is_empty();
                let mut is_header = format == Format::Csv;
                for (line, text) in (1..).zip(text.split('\n')).filter(|(_, text)| !is_blank(text)) {
                    let is_known = known.iter().any(|(first, last)| (first..=last).contains(&&line));
                    prop_assert!(is_known || std::mem::take(&mut is_header), "line {}, {:?}, in {:?}", line, text, known);
                    is_header = false;
                }
                if let Some((_, last)) = known.last() {
                    prop_assert!(*last <= text.split('\n').count() as u64);
                }
            }
        }

        #[test]
        fn other_readers_read_the_same_cells(cells in "[ab\",; ]{0,12}") {
            let text = format!("name,email\n{cells},a@example.com\n");
            if let Ok(rows) = read(Format::Csv, &text, 4096)
                && let Ok(draft) = &rows[0].draft
            {
                let cells = cells_of(&text, b',');
                prop_assert_eq!(cells.len(), 2);
                prop_assert_eq!(cells[1].len(), 2);
                prop_assert_eq!(cells[1][0].trim(), draft.name.as_str());
            }
        }

        #[test]
        fn written_users_can_be_read(name in "[-=+@＝＋－＠﹢;,|\"'()A-Zaé \u{61b}]{1,20}", format in prop_oneof![Just(Format::Csv), Just(Format::Ndjson)]) {
            let Ok(parsed) = Name::parse(&name) else { return Ok(()) };
            let user = User {
                id: UserId::generate(chrono::DateTime::UNIX_EPOCH),
                name: parsed.clone(),
                email: Email::parse("-o'hara+x@example.com").unwrap(),
                version: Version::FIRST,
                created_at: chrono::DateTime::UNIX_EPOCH,
                updated_at: chrono::DateTime::UNIX_EPOCH,
            };
            let writer = Writer::new(format, Fields::default(), true);
            let mut text = Vec::new();
            writer.begin(&mut text);
            writer.user(&mut text, &user, Some("c"));
            let text = String::from_utf8(text).unwrap();
            let rows = read(format, &text, 4096).unwrap();
            let draft = Draft { name: parsed, email: user.email };
            prop_assert_eq!(&rows[0].draft, &Ok(draft));
            // No spreadsheet runs a cell as a formula, whatever its separator, and even if it ignores quotes.
            if format == Format::Csv {
                let is_formula = |cell: &str| {
                    let cell = cell.trim_start_matches(|c: char| c.is_whitespace() || "\"()".contains(c));
                    cell.starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠', '﹢'])
                };
                for separator in [b',', b';', b'\t', b'|'] {
                    let cells = cells_of(&text, separator);
                    prop_assert!(!cells.iter().flatten().any(|cell| is_formula(cell)), "{}", text);
                }
                prop_assert!(!text.split([',', ';', '\t', '|', '\u{61b}', '\n']).any(is_formula), "{}", text);
            }
        }
    }
}
