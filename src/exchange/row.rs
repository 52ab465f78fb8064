//! A row of an import: its types, and the validation that both formats share.

use super::user::{CURSOR, Field};
use crate::{
    domain::{Email, Name, ValidationError},
    service::Draft,
};

/// The maximum length of a row in bytes. A user takes less than two kilobytes.
pub(super) const MAX_ROW_LENGTH: usize = 16 * 1024;

/// The maximum number of errors reported per row. Together with [`MAX_MEMBER_NAME`] it limits the response for a
/// thousand invalid rows to two megabytes.
pub(super) const MAX_ERRORS: usize = 10;
/// The number of characters of an unknown member's name that are repeated in an error.
const MAX_MEMBER_NAME: usize = 64;

/// What a file may begin with.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Returns whether a row may have this member: those of an exported user, so that an export can be imported unchanged.
/// All but `name` and `email` are ignored.
pub(super) fn is_member(name: &str) -> bool {
    name == CURSOR || Field::ALL.iter().any(|field| field.name() == name)
}

/// A text format for many users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Ndjson,
    /// Comma-separated values with a header (RFC 4180).
    Csv,
}

/// A parsed row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRow {
    /// The line on which the row starts, from 1.
    pub line: u64,
    /// The line on which the row ends.
    pub last_line: u64,
    /// The user to write, or the validation errors.
    pub draft: Result<Draft, Vec<MemberError>>,
}

/// A validation error of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberError {
    /// The name of the member, shortened if it is long; empty if the error concerns the whole row.
    pub member: String,
    /// The error of its value.
    pub error: ValidationError,
}

/// An error after which no more rows can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The header is missing or invalid.
    #[error("{0}")]
    Header(String),
    /// A quoted cell is not closed: after its quote, rows cannot be distinguished from the text of the cell.
    #[error("line {line}: a quoted cell is not closed; lines {first} to {last} were not read")]
    UnclosedQuote {
        /// The line of the opening quote.
        line: u64,
        /// The first line that was not read.
        first: u64,
        /// The last line of the input.
        last: u64,
    },
}

impl MemberError {
    pub(super) fn of_row(code: &'static str, message: impl Into<String>) -> Self {
        Self { member: String::new(), error: ValidationError::new(code, message) }
    }

    pub(super) fn of_member(name: &str, error: ValidationError) -> Self {
        let member = match name.char_indices().nth(MAX_MEMBER_NAME) {
            Some((end, _)) => format!("{}…", &name[..end]),
            None => name.to_owned(),
        };
        Self { member, error }
    }
}

/// Returns a draft with these values, or all validation errors.
pub(super) fn validate(name: &str, email: &str) -> Result<Draft, Vec<MemberError>> {
    match (Name::parse(name), Email::parse(email)) {
        (Ok(name), Ok(email)) => Ok(Draft { name, email }),
        (name, email) => {
            let errors = [("name", name.err()), ("email", email.err())];
            Err(errors.into_iter().filter_map(|(name, error)| Some(MemberError::of_member(name, error?))).collect())
        }
    }
}

/// Returns the error of a row longer than [`MAX_ROW_LENGTH`].
pub(super) fn too_long() -> Vec<MemberError> {
    vec![MemberError::of_row("too-long", format!("must be at most {MAX_ROW_LENGTH} bytes"))]
}
