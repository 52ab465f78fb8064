//! NDJSON: an object a line.

use std::borrow::Cow;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::rows::{IGNORED, LONGEST_ROW, MOST_FAULTS, MemberError, RawRow, draft, too_long};
use crate::{domain::ValidationError, service::Draft};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads users from NDJSON.
#[derive(Debug, Default)]
pub struct NdjsonReader {
    /// The beginning of a line whose end has not come yet; not more of it than a row may have.
    begun: Vec<u8>,
    lines: u64,
}

impl NdjsonReader {
    pub(super) fn read(&mut self, piece: &[u8], rows: &mut impl Extend<RawRow>) {
        let mut rest = piece;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            if self.begun.is_empty() {
                self.line(line, rows);
            } else {
                self.begin(line);
                let begun = std::mem::take(&mut self.begun);
                self.line(&begun, rows);
            }
            rest = after;
        }
        self.begin(rest);
        if piece.is_empty() && !self.begun.is_empty() {
            let begun = std::mem::take(&mut self.begun);
            self.line(&begun, rows);
        }
    }

    fn begin(&mut self, bytes: &[u8]) {
        // One byte more than is allowed tells that it is too long.
        let room = (LONGEST_ROW + 1).saturating_sub(self.begun.len());
        self.begun.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn line(&mut self, mut line: &[u8], rows: &mut impl Extend<RawRow>) {
        self.lines += 1;
        if self.lines == 1 {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        // Of a line that is too long the rest may not be known, so it is not blank.
        let is_too_long = line.len() > LONGEST_ROW;
        if !is_too_long && line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let draft = if is_too_long { Err(too_long()) } else { understand(line) };
        rows.extend([RawRow { line: self.lines, last_line: self.lines, draft }]);
    }
}

/// What nearly every row looks like.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Plain<'a> {
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

fn understand(line: &[u8]) -> Result<Draft, Vec<MemberError>> {
    // A derived reader takes an array for an object, too.
    let is_object = line.trim_ascii_start().first() == Some(&b'{');
    match serde_json::from_slice::<Plain>(line) {
        Ok(plain) if is_object => draft(&plain.name, &plain.email),
        _ => Err(faults(line)),
    }
}

/// What is wrong with a line, in every detail.
fn faults(line: &[u8]) -> Vec<MemberError> {
    let members = match serde_json::from_slice::<Value>(line) {
        Ok(Value::Object(members)) => members,
        Ok(_) => return vec![MemberError::of_row("wrong-type", "a row must be a JSON object")],
        Err(error) => {
            let message = format!("not valid JSON at column {}", error.column());
            return vec![MemberError::of_row("malformed", message)];
        }
    };
    let mut faults = Vec::new();
    let mut text = |name: &str| {
        let fault = match members.get(name) {
            Some(Value::String(text)) => return text.as_str(),
            None | Some(Value::Null) => ValidationError::new("required", format!("{name} is needed")),
            Some(_) => ValidationError::new("wrong-type", format!("{name} must be a string")),
        };
        faults.push(MemberError::of(name, fault));
        ""
    };
    let (name, email) = (text("name"), text("email"));
    let told: Vec<String> = faults.iter().map(|fault| fault.member.clone()).collect();
    let others = draft(name, email).err().unwrap_or_default();
    faults.extend(others.into_iter().filter(|fault| !told.contains(&fault.member)));
    for name in members.keys() {
        if faults.len() < MOST_FAULTS
            && !["name", "email"].contains(&name.as_str())
            && !IGNORED.contains(&name.as_str())
        {
            faults.push(MemberError::of(name, ValidationError::new("unknown-member", "there is no such member")));
        }
    }
    if faults.is_empty() {
        faults.push(MemberError::of_row("duplicate-member", "a member is given more than once"));
    }
    faults
}
