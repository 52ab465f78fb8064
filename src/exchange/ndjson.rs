//! NDJSON: one JSON object per line.

use std::borrow::Cow;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::row::{BYTE_ORDER_MARK, MAX_ERRORS, MAX_ROW_LENGTH, MemberError, RawRow, is_member, too_long, validate};
use crate::{domain::ValidationError, service::Draft};

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
            None => ValidationError::missing(),
            Some(Value::Null) => ValidationError::null(),
            Some(_) => ValidationError::not_a_string(),
        };
        errors.push(MemberError::of_member(name, error));
        ""
    };
    let (name, email) = (text("name"), text("email"));
    let reported: Vec<String> = errors.iter().map(|error| error.member.clone()).collect();
    let invalid = validate(name, email).err().unwrap_or_default();
    errors.extend(invalid.into_iter().filter(|error| !reported.contains(&error.member)));
    for name in members.keys() {
        if errors.len() < MAX_ERRORS && !is_member(name) {
            errors.push(MemberError::of_member(name, ValidationError::unknown_member()));
        }
    }
    if errors.is_empty() {
        errors.push(MemberError::of_row("duplicate-member", "each member must be given only once"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::{Field, user::CURSOR};

    #[test]
    fn an_exported_user_is_a_row_without_unusual_members() {
        let members = Field::ALL.map(Field::name).into_iter().chain([CURSOR]);
        let user: serde_json::Map<String, Value> =
            members.map(|name| (name.to_owned(), "ann@example.com".into())).collect();
        let line = Value::Object(user).to_string();
        let row = serde_json::from_str::<UserRow>(&line);
        assert!(row.is_ok(), "{line}: {:?}", row.err());
    }

    #[test]
    fn members_of_an_exported_user_are_not_reported() {
        let line = br#"{"id": 1, "version": 1, "createdAt": 1, "updatedAt": 1, "cursor": 1, "age": 1}"#;
        let errors = parse(line).unwrap_err();
        let members: Vec<&str> = errors.iter().map(|error| error.member.as_str()).collect();
        assert_eq!(members, ["name", "email", "age"]);
    }
}
