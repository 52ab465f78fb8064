//! Values that clients write as text, as query parameters and as members of JSON objects. Each type has one declaration of
//! both how its text is parsed and how the OpenAPI document describes it.

use std::{borrow::Cow, ops::RangeInclusive};

use chrono::{DateTime, Utc};
use serde::{Deserialize, de::value::StrDeserializer};
use serde_json::Value;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ArrayBuilder, KnownFormat, ObjectBuilder, Ref, RefOr, Schema, SchemaFormat, Type, schema::ArrayItems},
};

use crate::{
    domain::{Email, KeyName, Name, Prefix, UserId, ValidationError, Version},
    exchange::{Field, Fields},
};

/// The maximum number of ids in a filter.
pub const MAX_IDS: usize = 100;

/// A type of values that clients write as text.
pub trait TextValue: Sized {
    /// Whether a query parameter of this type is a list: separated by commas, or the parameter repeated.
    const IS_LIST: bool = false;

    /// Parses a value.
    ///
    /// # Errors
    ///
    /// A [`ValidationError`] if the value is invalid.
    fn parse(text: &str) -> Result<Self, ValidationError>;

    /// Returns the schema of the text.
    fn schema() -> RefOr<Schema>;
}

/// Returns the schema of a text without limits.
pub(crate) fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// Returns the schema of a text in a format that OpenAPI knows.
fn formatted(format: KnownFormat) -> ObjectBuilder {
    text().format(Some(SchemaFormat::KnownFormat(format)))
}

/// Returns the schema of a list, which is not empty.
pub(crate) fn list(items: impl Into<RefOr<Schema>>) -> ArrayBuilder {
    ArrayBuilder::new().items(ArrayItems::RefOrSchema(Box::new(items.into()))).min_items(Some(1))
}

/// Returns a reference to the schema of a type in the document.
pub(crate) fn reference<T: ToSchema>() -> RefOr<Schema> {
    Ref::from_schema_name(T::name()).into()
}

/// Parses one of the words of an enum. The allowed words are those of its schema.
///
/// # Errors
///
/// A [`ValidationError`] with code `unknown-value` that lists the words.
pub fn word<'a, T: Deserialize<'a> + PartialSchema>(text: &'a str) -> Result<T, ValidationError> {
    T::deserialize(StrDeserializer::<serde::de::value::Error>::new(text)).map_err(|_| {
        let words = match T::schema() {
            RefOr::T(Schema::Object(schema)) => schema.enum_values.unwrap_or_default(),
            _ => Vec::new(),
        };
        let words: Vec<&str> = words.iter().filter_map(|word| word.as_str()).collect();
        ValidationError::new("unknown-value", format!("must be one of {}", words.join(", ")))
    })
}

/// Implements [`TextValue`] for enums whose words are those of their schema. The document has it `inline`, or as a
/// `component` of the enum's name.
macro_rules! word_values {
    (inline $($name:ty),+) => {
        $(word_values!(@ $name, <$name as utoipa::PartialSchema>::schema());)+
    };
    (component $($name:ty),+) => {
        $(word_values!(@ $name, $crate::exchange::reference::<$name>());)+
    };
    (@ $name:ty, $schema:expr) => {
        impl $crate::exchange::TextValue for $name {
            fn parse(text: &str) -> Result<Self, $crate::domain::ValidationError> {
                $crate::exchange::word(text)
            }

            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                $schema
            }
        }
    };
}
pub(crate) use word_values;

/// Parses a whole number in a range.
///
/// # Errors
///
/// A [`ValidationError`] with code `out-of-range`.
pub(crate) fn whole_number(text: &str, range: &RangeInclusive<u64>) -> Result<u64, ValidationError> {
    text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        let message = format!("must be a whole number from {} to {}", range.start(), range.end());
        ValidationError::new("out-of-range", message)
    })
}

/// Returns the schema of a whole number in a range.
pub(crate) fn whole_number_schema(range: &RangeInclusive<u64>) -> ObjectBuilder {
    let number = ObjectBuilder::new().schema_type(Type::Integer);
    let number = number.format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)));
    number.minimum(Some(*range.start())).maximum(Some(*range.end()))
}

/// A switch, which is off unless it is given.
impl TextValue for bool {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        text.parse().map_err(|_| ValidationError::new("unknown-value", "must be true or false"))
    }

    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::Boolean).default(Some(false.into())).into()
    }
}

impl TextValue for String {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        Ok(text.to_owned())
    }

    fn schema() -> RefOr<Schema> {
        text().into()
    }
}

impl TextValue for Version {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        text.parse()
    }

    fn schema() -> RefOr<Schema> {
        let version = ObjectBuilder::new().schema_type(Type::Integer);
        version.format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64))).minimum(Some(Self::FIRST.get())).into()
    }
}

impl TextValue for Name {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        Self::parse(text)
    }

    fn schema() -> RefOr<Schema> {
        let pattern = r"^(?=.*\S)[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+$";
        text().min_length(Some(1)).max_length(Some(Self::MAX)).pattern(Some(pattern)).into()
    }
}

impl TextValue for Email {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        Self::parse(text)
    }

    fn schema() -> RefOr<Schema> {
        text().format(Some(SchemaFormat::Custom("idn-email".to_owned()))).max_length(Some(Self::MAX)).into()
    }
}

impl TextValue for KeyName {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        Self::parse(text)
    }

    fn schema() -> RefOr<Schema> {
        let pattern = r"^(?=.*\S)[^\x00-\x1f\x7f-\x9f]+$";
        text().min_length(Some(1)).max_length(Some(Self::MAX)).pattern(Some(pattern)).into()
    }
}

impl TextValue for Prefix {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        Self::parse(text)
    }

    fn schema() -> RefOr<Schema> {
        text().min_length(Some(1)).max_length(Some(Self::MAX)).into()
    }
}

impl TextValue for DateTime<Utc> {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        // The second form, without the colon in the offset, is what Python's %z and PHP write.
        let time =
            DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%z"));
        time.map(|time| time.to_utc())
            .map_err(|_| ValidationError::new("malformed", "must be an RFC 3339 time such as 2026-11-21T10:15:30Z"))
    }

    fn schema() -> RefOr<Schema> {
        formatted(KnownFormat::DateTime).into()
    }
}

impl TextValue for UserId {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        text.parse()
    }

    fn schema() -> RefOr<Schema> {
        formatted(KnownFormat::Uuid).into()
    }
}

impl TextValue for Vec<UserId> {
    const IS_LIST: bool = true;

    fn parse(text: &str) -> Result<Self, ValidationError> {
        let ids = text.split(',').map(str::parse).collect::<Result<Self, ValidationError>>()?;
        if ids.len() > MAX_IDS {
            return Err(ValidationError::new("too-many", format!("must be at most {MAX_IDS} ids")));
        }
        Ok(ids)
    }

    fn schema() -> RefOr<Schema> {
        list(UserId::schema()).max_items(Some(MAX_IDS)).into()
    }
}

impl TextValue for Fields {
    const IS_LIST: bool = true;

    fn parse(text: &str) -> Result<Self, ValidationError> {
        Self::parse(text)
    }

    fn schema() -> RefOr<Schema> {
        list(reference::<Field>()).into()
    }
}

/// Adds a description and an example to the schema of an object or a primitive. Arrays and references keep their own. The schema's own description follows.
pub(crate) fn described(
    mut schema: RefOr<Schema>,
    description: impl Into<String>,
    example: Option<Value>,
) -> RefOr<Schema> {
    if let RefOr::T(Schema::Object(object)) = &mut schema {
        let general = object.description.take().map(|text| format!(" {text}"));
        object.description = Some(description.into() + &general.unwrap_or_default());
        // `examples` would be newer, but derived schemas use `example`, and the document should use only one of the two.
        object.example = example;
    }
    schema
}

/// Returns the name of a query parameter or member in camel case, from that of its field in snake case.
pub(crate) fn member_name(field: &str) -> Cow<'_, str> {
    let mut words = field.split('_');
    let mut name = Cow::Borrowed(words.next().unwrap_or_default());
    for (initial, rest) in words.filter_map(|word| word.split_at_checked(1)) {
        name.to_mut().extend([&*initial.to_ascii_uppercase(), rest]);
    }
    name
}

/// Returns the lines of a doc comment as one paragraph.
pub(crate) fn paragraph(doc: &[&str]) -> String {
    let lines: Vec<&str> = doc.iter().map(|line| line.trim()).collect();
    lines.join(" ")
}
