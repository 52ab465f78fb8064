//! Values of query parameters.

use chrono::{DateTime, Utc};
use serde::{Deserialize, de::value::StrDeserializer};
use utoipa::{
    PartialSchema,
    openapi::{RefOr, Schema},
};

use crate::{
    domain::{Email, Prefix, UserId, ValidationError, Version},
    exchange::Fields,
};

const MAX_IDS: usize = 100;

/// A type that a parameter's value is parsed into.
pub trait ParameterValue: Sized {
    /// Whether the value is a list: separated by commas, or the parameter repeated.
    const IS_LIST: bool = false;

    /// Parses a value.
    ///
    /// # Errors
    ///
    /// Why the value is invalid.
    fn parse(text: &str) -> Result<Self, ValidationError>;
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

/// Implements [`ParameterValue`] for enums whose words are those of their schema.
macro_rules! word_values {
    ($($name:ty),+) => {
        $(impl $crate::exchange::ParameterValue for $name {
            fn parse(text: &str) -> Result<Self, $crate::domain::ValidationError> {
                $crate::exchange::word(text)
            }
        })+
    };
}
pub(crate) use word_values;

impl ParameterValue for bool {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        text.parse().map_err(|_| ValidationError::new("unknown-value", "must be true or false"))
    }
}

impl ParameterValue for String {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        Ok(text.to_owned())
    }
}

impl ParameterValue for Version {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        let version = text.parse().ok().filter(|version| *version >= 1);
        version.ok_or_else(|| ValidationError::new("out-of-range", "must be a version: a whole number from 1 on"))
    }
}

impl ParameterValue for Email {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        Self::parse(text).map_err(|error| match error.message {
            message if text.contains(' ') => ValidationError::new(error.code, format!("{message}; encode + as %2B")),
            message => ValidationError::new(error.code, message),
        })
    }
}

impl ParameterValue for Prefix {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        Self::parse(text)
    }
}

impl ParameterValue for DateTime<Utc> {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        // The second form, without the colon in the offset, is what Python's %z and PHP write.
        let time =
            DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%z"));
        time.map(|time| time.to_utc()).map_err(|_| {
            ValidationError::new("malformed", "must be an RFC 3339 time such as 2026-11-21T10:15:30Z; encode + as %2B")
        })
    }
}

impl ParameterValue for Vec<UserId> {
    const IS_LIST: bool = true;

    fn parse(text: &str) -> Result<Self, ValidationError> {
        let ids = text.split(',').map(str::parse).collect::<Result<Self, ValidationError>>()?;
        if ids.len() > MAX_IDS {
            return Err(ValidationError::new("too-many", format!("must be at most {MAX_IDS} ids")));
        }
        Ok(ids)
    }
}

impl ParameterValue for Fields {
    const IS_LIST: bool = true;

    fn parse(text: &str) -> Result<Self, ValidationError> {
        Self::parse(text)
    }
}
