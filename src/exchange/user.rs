//! A user as JSON, with all members or some of them.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer, ser::SerializeMap};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};
use uuid::Uuid;

use crate::{
    domain::{Email, Name, User, ValidationError, Version},
    exchange::{TextValue, described},
};

/// The member of an exported user that resumes the export after it.
pub(super) const CURSOR: &str = "cursor";

/// A user.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = User)]
pub struct UserBody<'a> {
    /// UUIDv7: ids sort by time of creation.
    #[schema(example = "019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40")]
    id: Uuid,
    #[schema(schema_with = name)]
    name: &'a str,
    #[schema(schema_with = email)]
    email: &'a str,
    #[schema(schema_with = version)]
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

fn name() -> RefOr<Schema> {
    described(Name::schema(), "Trimmed, and in NFC.", Some("Ann Example".into()))
}

fn email() -> RefOr<Schema> {
    described(Email::schema(), "The email address as it was entered.", Some("Ann@example.com".into()))
}

fn version() -> RefOr<Schema> {
    described(Version::schema(), "1 at creation; incremented by each change.", Some(1.into()))
}

/// Serializes a time as [`format_time`] does.
pub(crate) fn microseconds<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_time(*time))
}

/// As [`microseconds`], for a member that may be missing.
#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
pub(crate) fn optional_microseconds<S: Serializer>(
    time: &Option<DateTime<Utc>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    time.map(format_time).serialize(serializer)
}

/// Formats a time as every response and export does.
pub(crate) fn format_time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

impl<'a> From<&'a User> for UserBody<'a> {
    fn from(user: &'a User) -> Self {
        Self {
            id: user.id.as_uuid(),
            name: user.name.as_str(),
            email: user.email.as_str(),
            version: user.version.get(),
            created_at: user.created_at,
            updated_at: user.updated_at,
        }
    }
}

/// The OpenAPI schema of a line of an export: a user without required members, and a cursor.
pub struct ExportedUser;

impl ToSchema for ExportedUser {}

impl PartialSchema for ExportedUser {
    fn schema() -> RefOr<Schema> {
        let RefOr::T(Schema::Object(mut user)) = UserBody::schema() else { return UserBody::schema() };
        user.description = Some("A line of an export: a user, with the members that `fields` selects.".to_owned());
        user.required.clear();
        let description = "Resumes the export after this user; only with `cursors=true`.";
        let cursor = ObjectBuilder::new().schema_type(Type::String).description(Some(description));
        user.properties.insert(CURSOR.to_owned(), cursor.into());
        user.into()
    }
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
    /// All members, in the order of a response.
    pub const ALL: [Self; 6] = [Self::Id, Self::Name, Self::Email, Self::Version, Self::CreatedAt, Self::UpdatedAt];

    /// Returns the name of the member.
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

/// A set of members of a user; all members by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    excluded: [bool; Field::ALL.len()],
}

impl Fields {
    /// Parses a list such as `id,email`. Its order has no effect.
    ///
    /// # Errors
    ///
    /// A [`ValidationError`] with code `unknown-value`.
    pub fn parse(text: &str) -> Result<Self, ValidationError> {
        let mut fields = Self { excluded: [true; Field::ALL.len()] };
        for name in text.split(',') {
            let Some(field) = Field::ALL.into_iter().find(|field| field.name() == name) else {
                let names = Field::ALL.map(Field::name).join(", ");
                return Err(ValidationError::new(
                    "unknown-value",
                    format!("must be a comma-separated list of {names}"),
                ));
            };
            fields.excluded[field as usize] = false;
        }
        Ok(fields)
    }

    /// Iterates over the members.
    pub fn iter(self) -> impl Iterator<Item = Field> {
        Field::ALL.into_iter().filter(move |field| !self.excluded[*field as usize])
    }
}

/// A user with a selection of its members.
#[derive(Clone, Copy, Debug)]
pub struct Selected<'a> {
    /// The user.
    pub user: &'a User,
    /// The selected members.
    pub fields: Fields,
    /// The cursor after this user, as an additional member.
    pub cursor: Option<&'a str>,
}

impl Serialize for Selected<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { user, fields, cursor } = self;
        let mut map = serializer.serialize_map(None)?;
        for field in fields.iter() {
            match field {
                Field::Id => map.serialize_entry(field.name(), &user.id.as_uuid())?,
                Field::Name => map.serialize_entry(field.name(), user.name.as_str())?,
                Field::Email => map.serialize_entry(field.name(), user.email.as_str())?,
                Field::Version => map.serialize_entry(field.name(), &user.version.get())?,
                Field::CreatedAt => map.serialize_entry(field.name(), &format_time(user.created_at))?,
                Field::UpdatedAt => map.serialize_entry(field.name(), &format_time(user.updated_at))?,
            }
        }
        if let Some(cursor) = cursor {
            map.serialize_entry(CURSOR, cursor)?;
        }
        map.end()
    }
}
