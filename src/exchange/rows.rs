//! Rows in, as they arrive: in pieces that end anywhere.

use super::{csv::CsvReader, ndjson::NdjsonReader};
use crate::{
    domain::{Email, Fault, Name},
    service::Draft,
};

/// Longest row, in bytes. A user takes less than two kilobytes.
pub(super) const LONGEST_ROW: usize = 16 * 1024;

/// Faults that are told of one row, and characters of a member's name that are repeated: a thousand rows that are all
/// wrong have an answer of two megabytes at the most.
pub(super) const MOST_FAULTS: usize = 10;
const LONGEST_NAME: usize = 64;

/// A text format for many users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object a line.
    Ndjson,
    /// Comma-separated values with a header (RFC 4180).
    Csv,
}

/// A row as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRow {
    /// The line that it begins in, from 1.
    pub line: u64,
    /// A user to write, or what is wrong with it.
    pub draft: Result<Draft, Vec<MemberFault>>,
}

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberFault {
    /// The member, the beginning of its name if that is long; empty if it is the row as a whole.
    pub member: String,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with all rows at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TableFault {
    /// A sentence for people.
    pub message: String,
}

/// Reads rows of one format.
#[derive(Debug)]
pub enum Reader {
    /// From NDJSON.
    Ndjson(NdjsonReader),
    /// From CSV.
    Csv(Box<CsvReader>),
}

impl Reader {
    /// A reader at the beginning.
    #[must_use]
    pub fn new(format: Format) -> Self {
        match format {
            Format::Ndjson => Self::Ndjson(NdjsonReader::default()),
            Format::Csv => Self::Csv(Box::default()),
        }
    }

    /// Reads the rows that end in this piece. Nothing more is read after an empty one, which is the end.
    ///
    /// # Errors
    ///
    /// [`TableFault`] if the columns are not those of users.
    pub fn read(&mut self, piece: &[u8], rows: &mut impl Extend<RawRow>) -> Result<(), TableFault> {
        match self {
            Self::Ndjson(reader) => {
                reader.read(piece, rows);
                Ok(())
            }
            Self::Csv(reader) => reader.read(piece, rows),
        }
    }
}

/// Members that a user has and a draft has not: an export may be imported as it is.
pub(super) const IGNORED: [&str; 5] = ["id", "version", "createdAt", "updatedAt", "cursor"];

impl MemberFault {
    pub(super) fn of_row(code: &'static str, message: impl Into<String>) -> Self {
        Self { member: String::new(), fault: Fault::new(code, message) }
    }

    pub(super) fn of(member: &str, fault: Fault) -> Self {
        let member = match member.char_indices().nth(LONGEST_NAME) {
            Some((end, _)) => format!("{}…", &member[..end]),
            None => member.to_owned(),
        };
        Self { member, fault }
    }
}

/// A draft of its texts, or all that is wrong with them.
pub(super) fn draft(name: &str, email: &str) -> Result<Draft, Vec<MemberFault>> {
    match (Name::parse(name), Email::parse(email)) {
        (Ok(name), Ok(email)) => Ok(Draft { name, email }),
        (name, email) => {
            let faults = [("name", name.err()), ("email", email.err())];
            Err(faults.into_iter().filter_map(|(member, fault)| Some(MemberFault::of(member, fault?))).collect())
        }
    }
}

pub(super) fn too_long() -> Vec<MemberFault> {
    vec![MemberFault::of_row("too-long", format!("a row has at most {LONGEST_ROW} bytes"))]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is read of a text that comes in pieces of this length.
    fn read(format: Format, text: &str, length: usize) -> Result<Vec<RawRow>, TableFault> {
        let (mut reader, mut rows) = (Reader::new(format), Vec::new());
        for piece in text.as_bytes().chunks(length) {
            reader.read(piece, &mut rows)?;
        }
        reader.read(&[], &mut rows)?;
        Ok(rows)
    }

    /// `line name` of each row, or `line member:code …`.
    fn told(rows: &[RawRow]) -> Vec<String> {
        let fault = |fault: &MemberFault| format!("{}:{}", fault.member, fault.fault.code);
        rows.iter()
            .map(|row| match &row.draft {
                Ok(draft) => format!("{} {}", row.line, draft.name.as_str()),
                Err(faults) => format!("{} {}", row.line, faults.iter().map(fault).collect::<Vec<_>>().join(" ")),
            })
            .collect()
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
            assert_eq!(told(&read(Format::Ndjson, text, length).unwrap()), expected, "{length}");
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
            "4 name:control-character",
            "6 :wrong-length",
            "7 =Dan",
            "8 '-Eve",
            "9 name:empty email:empty",
            "10 'Finn",
        ];
        for length in [1, 2, 3, 7, 4096] {
            assert_eq!(told(&read(Format::Csv, text, length).unwrap()), expected, "{length}");
        }
    }

    #[test]
    fn rows_have_a_longest_length() {
        let long = "x".repeat(2 * LONGEST_ROW);
        let ndjson = format!("{long}\n{{\"name\":\"Ann\",\"email\":\"ann@example.com\"}}\n{long}");
        let csv = format!("name,email\n{long},a@example.com\nAnn,ann@example.com\n\"{long}\",b\n{}\n", ",".repeat(99));
        for length in [1000, LONGEST_ROW, 1 << 20] {
            let told_of = |format, text| told(&read(format, text, length).unwrap());
            assert_eq!(told_of(Format::Ndjson, &ndjson), ["1 :too-long", "2 Ann", "3 :too-long"]);
            assert_eq!(told_of(Format::Csv, &csv), ["2 :too-long", "3 Ann", "4 :too-long", "5 :too-long"]);
        }
    }

    #[test]
    fn columns_are_those_of_users() {
        for (text, part) in [
            ("", "no header"),
            ("name\n", "email is missing"),
            ("name,email,phone\n", "\"phone\""),
            ("name,email,name\n", "twice"),
            (&format!("name,{}\n", "x".repeat(2 * LONGEST_ROW)), "at most 16384 bytes"),
        ] {
            let fault = read(Format::Csv, text, 4096).unwrap_err();
            assert!(fault.message.contains(part), "{text:.40}: {fault}");
        }
        assert_eq!(read(Format::Csv, "email,name", 4096), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_pieces_do_not_matter(bytes in any::<Vec<u8>>(), length in 1usize..9) {
            for format in [Format::Ndjson, Format::Csv] {
                let whole = |length: usize| {
                    let (mut reader, mut rows) = (Reader::new(format), Vec::new());
                    let pieces = bytes.chunks(length).chain([&[][..]]);
                    let outcome = pieces.map(|piece| reader.read(piece, &mut rows)).collect::<Result<Vec<_>, _>>().map(drop);
                    (outcome, rows)
                };
                prop_assert_eq!(whole(length), whole(usize::MAX >> 1));
            }
        }

        #[test]
        fn what_was_written_is_read(name in "[-=+@'A-Za-zé ]{1,20}", format in prop_oneof![Just(Format::Csv), Just(Format::Ndjson)]) {
            let Ok(parsed) = Name::parse(&name) else { return Ok(()) };
            let user = crate::domain::User {
                id: crate::domain::UserId::generate(chrono::DateTime::UNIX_EPOCH),
                name: parsed.as_str().to_owned(),
                email: "-o'hara+x@example.com".to_owned(),
                version: 1,
                created_at: chrono::DateTime::UNIX_EPOCH,
                updated_at: chrono::DateTime::UNIX_EPOCH,
            };
            let writer = super::super::Writer::new(format, super::super::Fields::default(), true);
            let mut text = Vec::new();
            writer.begin(&mut text);
            writer.user(&mut text, &user, Some("c"));
            let text = String::from_utf8(text).unwrap();
            let rows = read(format, &text, 4096).unwrap();
            let draft = Draft { name: parsed, email: Email::parse(&user.email).unwrap() };
            prop_assert_eq!(&rows[0].draft, &Ok(draft));
            // No cell is left that a spreadsheet would run.
            if format == Format::Csv {
                let is_formula = |cell: &str| cell.trim_start_matches('"').starts_with(['=', '+', '-', '@']);
                prop_assert!(!text.split(',').any(is_formula), "{}", text);
            }
        }
    }
}
