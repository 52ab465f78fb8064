//! Writes users as NDJSON or CSV.

use super::{
    cell::write_cell,
    row::Format,
    user::{CURSOR, Field, Fields, Selected, format_time},
};
use crate::domain::User;

/// Writes users in one format.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    format: Format,
    fields: Fields,
    has_cursors: bool,
}

impl Writer {
    /// Returns a writer of these members, and of a cursor for each user if `has_cursors`.
    #[must_use]
    pub fn new(format: Format, fields: Fields, has_cursors: bool) -> Self {
        Self { format, fields, has_cursors }
    }

    /// Writes the header of CSV; nothing for NDJSON.
    pub fn begin(&self, out: &mut Vec<u8>) {
        if self.format == Format::Ndjson {
            return;
        }
        let names = self.fields.iter().map(Field::name).chain(self.has_cursors.then_some(CURSOR));
        out.extend_from_slice(names.collect::<Vec<_>>().join(",").as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    /// Writes a user.
    pub fn user(&self, out: &mut Vec<u8>, user: &User, cursor: Option<&str>) {
        match self.format {
            Format::Ndjson => {
                // Strings and numbers always serialize, and writing to a Vec does not fail.
                let _ = serde_json::to_writer(&mut *out, &Selected { user, fields: self.fields, cursor });
                out.push(b'\n');
            }
            Format::Csv => {
                for (index, field) in self.fields.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    match field {
                        Field::Id => write_cell(out, &user.id.to_string()),
                        Field::Name => write_cell(out, user.name.as_str()),
                        Field::Email => write_cell(out, user.email.as_str()),
                        Field::Version => write_cell(out, &user.version.to_string()),
                        Field::CreatedAt => write_cell(out, &format_time(user.created_at)),
                        Field::UpdatedAt => write_cell(out, &format_time(user.updated_at)),
                    }
                }
                if let Some(cursor) = cursor {
                    out.push(b',');
                    out.extend_from_slice(cursor.as_bytes());
                }
                out.extend_from_slice(b"\r\n");
            }
        }
    }
}
