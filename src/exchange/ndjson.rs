//! NDJSON: one JSON object per line.

use std::borrow::Cow;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::row::{IGNORED_MEMBERS, MAX_ERRORS, MAX_ROW_LENGTH, MemberError, RawRow, too_long, validate};
use crate::{domain::ValidationError, service::Draft};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads users from NDJSON.
#[derive(Debug, Default)]
pub struct NdjsonReader {
    /// The start of an incomplete line, up to one byte more than the maximum length of a row.
    partial: Vec<u8>,
    lines: u64,
}

impl NdjsonReader {
    pub(super) fn read(&mut self, chunk: &[u8], rows: &mut impl Extend<RawRow>) {
        let mut rest = chunk;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            if self.partial.is_empty() {
                self.line(line, rows);
            } else {
                self.buffer(line);
                let line = std::mem::take(&mut self.partial);
                self.line(&line, rows);
            }
            rest = after;
        }
        self.buffer(rest);
        if chunk.is_empty() && !self.partial.is_empty() {
            let line = std::mem::take(&mut self.partial);
            self.line(&line, rows);
        }
    }

    fn buffer(&mut self, bytes: &[u8]) {
        // One byte more than is allowed shows that the line is too long.
        let capacity = (MAX_ROW_LENGTH + 1).saturating_sub(self.partial.len());
        self.partial.extend_from_slice(&bytes[..bytes.len().min(capacity)]);
    }

    fn line(&mut self, mut line: &[u8], rows: &mut impl Extend<RawRow>) {
        self.lines += 1;
        if self.lines == 1 {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        // The end of a line that is too long may be missing, so the line does not count as blank.
        let is_too_long = line.len() > MAX_ROW_LENGTH;
        if !is_too_long && line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let draft = if is_too_long { Err(too_long()) } else { parse(line) };
        rows.extend([RawRow { line: self.lines, last_line: self.lines, draft }]);
    }
}

/// A row with no unusual members, as nearly all rows are.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct UserRow<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    email: Cow<'a, str>,
    #[serde(default, rename = "id")]
    _id: Option<IgnoredAny>,
    #[serde(default, rename = "version")]
    _version: Option<IgnoredAny>,
    #[serde(default, rename = "createdAt")]
    _created_at: Option<IgnoredAny>,
    #[serde(default, rename = "updatedAt")]
    _updated_at: Option<IgnoredAny>,
    #[serde(default, rename = "cursor")]
    _cursor: Option<IgnoredAny>,
}

fn parse(line: &[u8]) -> Result<Draft, Vec<MemberError>> {
    // A derived `Deserialize` also accepts an array.
    let is_object = line.trim_ascii_start().first() == Some(&b'{');
    match serde_json::from_slice::<UserRow>(line) {
        Ok(row) if is_object => validate(&row.name, &row.email),
        _ => Err(errors(line)),
    }
}

/// Returns all validation errors of a line that is not a [`UserRow`].
fn errors(line: &[u8]) -> Vec<MemberError> {
    let members = match serde_json::from_slice::<Value>(line) {
        Ok(Value::Object(members)) => members,
        Ok(_) => return vec![MemberError::of_row("wrong-type", "must be a JSON object")],
        Err(error) => {
            let message = format!("not valid JSON at column {}", error.column());
            return vec![MemberError::of_row("malformed", message)];
        }
    };
    let mut errors = Vec::new();
    let mut text = |name: &str| {
        let error = match members.get(name) {
            Some(Value::String(text)) => return text.as_str(),
            None => ValidationError::new("required", "is required"),
            Some(Value::Null) => ValidationError::new("required", "must not be null"),
            Some(_) => ValidationError::new("wrong-type", "must be a string"),
        };
        errors.push(MemberError::of_member(name, error));
        ""
    };
    let (name, email) = (text("name"), text("email"));
    let reported: Vec<String> = errors.iter().map(|error| error.member.clone()).collect();
    let invalid = validate(name, email).err().unwrap_or_default();
    errors.extend(invalid.into_iter().filter(|error| !reported.contains(&error.member)));
    for name in members.keys() {
        if errors.len() < MAX_ERRORS
            && !["name", "email"].contains(&name.as_str())
            && !IGNORED_MEMBERS.contains(&name.as_str())
        {
            errors.push(MemberError::of_member(name, ValidationError::new("unknown-member", "unknown member")));
        }
    }
    if errors.is_empty() {
        errors.push(MemberError::of_row("duplicate-member", "each member must be given only once"));
    }
    errors
}
