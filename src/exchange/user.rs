//! A user as clients see it: whole, or some members of it.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer, ser::SerializeMap};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::{User, ValidationError};

/// A user.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = User)]
pub struct UserBody<'a> {
    /// UUIDv7: ids sort by time of creation.
    #[schema(example = "019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40")]
    id: Uuid,
    /// 1 to 200 characters, trimmed, in NFC.
    #[schema(example = "Ann Example", min_length = 1, max_length = 200)]
    name: &'a str,
    /// As it was typed.
    #[schema(example = "Ann@example.com", format = "idn-email", max_length = 254)]
    email: &'a str,
    /// 1 at creation, one more with each change.
    #[schema(example = 1, minimum = 1)]
    version: i64,
    /// When the user was created: RFC 3339, UTC, microseconds.
    #[schema(example = "2026-11-21T10:15:30.123456Z")]
    #[serde(serialize_with = "microseconds")]
    created_at: DateTime<Utc>,
    /// When the user was last changed: RFC 3339, UTC, microseconds.
    #[schema(example = "2026-11-21T10:15:30.123456Z")]
    #[serde(serialize_with = "microseconds")]
    updated_at: DateTime<Utc>,
}

fn microseconds<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&written(*time))
}

/// A time as it is written everywhere.
pub(super) fn written(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

impl<'a> From<&'a User> for UserBody<'a> {
    fn from(user: &'a User) -> Self {
        Self {
            id: user.id.as_uuid(),
            name: &user.name,
            email: &user.email,
            version: user.version,
            created_at: user.created_at,
            updated_at: user.updated_at,
        }
    }
}

/// A line of an export: a user, all of it unless `fields` selects some members.
#[derive(ToSchema)]
#[schema(as = ExportedUser, rename_all = "camelCase")]
#[expect(dead_code, reason = "documents what `Selected` writes")]
pub struct ExportedBody {
    /// UUIDv7: ids sort by time of creation.
    #[schema(example = "019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40", value_type = Uuid, required = false)]
    id: Uuid,
    /// 1 to 200 characters, trimmed, in NFC.
    #[schema(example = "Ann Example", min_length = 1, max_length = 200, required = false)]
    name: String,
    /// As it was typed.
    #[schema(example = "Ann@example.com", format = "idn-email", max_length = 254, required = false)]
    email: String,
    /// 1 at creation, one more with each change.
    #[schema(example = 1, minimum = 1, required = false)]
    version: i64,
    /// When the user was created: RFC 3339, UTC, microseconds.
    #[schema(example = "2026-11-21T10:15:30.123456Z", required = false)]
    created_at: DateTime<Utc>,
    /// When the user was last changed: RFC 3339, UTC, microseconds.
    #[schema(example = "2026-11-21T10:15:30.123456Z", required = false)]
    updated_at: DateTime<Utc>,
    /// Continues the export after this user; only with `cursors=true`.
    #[schema(nullable = false)]
    cursor: Option<String>,
}

/// A member of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(as = UserField, rename_all = "camelCase")]
pub enum Field {
    /// `id`
    Id,
    /// `name`
    Name,
    /// `email`
    Email,
    /// `version`
    Version,
    /// `createdAt`
    CreatedAt,
    /// `updatedAt`
    UpdatedAt,
}

impl Field {
    /// All of them, in their order.
    pub const ALL: [Self; 6] = [Self::Id, Self::Name, Self::Email, Self::Version, Self::CreatedAt, Self::UpdatedAt];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Name => "name",
            Self::Email => "email",
            Self::Version => "version",
            Self::CreatedAt => "createdAt",
            Self::UpdatedAt => "updatedAt",
        }
    }
}

/// Some members of a user; all unless told otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    left_out: [bool; Field::ALL.len()],
}

impl Fields {
    /// Reads a list such as `id,email`. Their order is ours.
    ///
    /// # Errors
    ///
    /// A [`ValidationError`] with code `unknown-value`.
    pub fn parse(text: &str) -> Result<Self, ValidationError> {
        let mut fields = Self { left_out: [true; Field::ALL.len()] };
        for name in text.split(',') {
            let Some(field) = Field::ALL.into_iter().find(|field| field.name() == name) else {
                let names = Field::ALL.map(Field::name).join(", ");
                return Err(ValidationError::new(
                    "unknown-value",
                    format!("fields are some of {names}, with commas between"),
                ));
            };
            fields.left_out[field as usize] = false;
        }
        Ok(fields)
    }

    /// Those that are asked for.
    pub fn iter(self) -> impl Iterator<Item = Field> {
        Field::ALL.into_iter().filter(move |field| !self.left_out[*field as usize])
    }
}

/// Some members of a user.
#[derive(Clone, Copy, Debug)]
pub struct Selected<'a> {
    /// The user.
    pub user: &'a User,
    /// Which members.
    pub fields: Fields,
    /// A member more: where a list goes on behind this user.
    pub cursor: Option<&'a str>,
}

impl Serialize for Selected<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { user, fields, cursor } = self;
        let mut map = serializer.serialize_map(None)?;
        for field in fields.iter() {
            match field {
                Field::Id => map.serialize_entry(field.name(), &user.id.as_uuid())?,
                Field::Name => map.serialize_entry(field.name(), &user.name)?,
                Field::Email => map.serialize_entry(field.name(), &user.email)?,
                Field::Version => map.serialize_entry(field.name(), &user.version)?,
                Field::CreatedAt => map.serialize_entry(field.name(), &written(user.created_at))?,
                Field::UpdatedAt => map.serialize_entry(field.name(), &written(user.updated_at))?,
            }
        }
        if let Some(cursor) = cursor {
            map.serialize_entry("cursor", cursor)?;
        }
        map.end()
    }
}
