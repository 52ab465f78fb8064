//! Positions in the feed.

use std::{fmt, ops::Deref, str::FromStr, sync::Arc};

use serde::{Serialize, Serializer};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

use crate::domain::ValidationError;

const MAX_EPOCH_LENGTH: usize = 32;
const MAX_DIGITS: usize = 18;

/// The epoch of the feed. Only positions of the same epoch are comparable. It changes if the order of events may have
/// changed, because the database was restored or the feed was disabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch(Arc<str>);

impl Epoch {
    pub(super) fn generate() -> Self {
        // Without random numbers no TLS and no UUID works either.
        Self(format!("{:016x}", getrandom::u64().unwrap_or_default()).into())
    }

    pub(super) fn from_stored(text: &str) -> Self {
        Self(text.into())
    }
}

impl Deref for Epoch {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The position of an event: `<epoch>.<number>`. The numbers of an epoch have no gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The epoch.
    pub epoch: Epoch,
    /// The number; 0 is before the first event.
    pub number: u64,
}

impl Position {
    /// Returns a position that belongs to no epoch.
    #[must_use]
    pub fn of_another_feed() -> Self {
        Self { epoch: Epoch("".into()), number: 0 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Position {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let parsed = text.split_once('.').and_then(|(epoch, number)| {
            let is_epoch =
                (1..=MAX_EPOCH_LENGTH).contains(&epoch.len()) && epoch.bytes().all(|byte| byte.is_ascii_alphanumeric());
            let is_number = number.len() <= MAX_DIGITS && number.bytes().all(|byte| byte.is_ascii_digit());
            let number = number.parse().ok().filter(|_| is_epoch && is_number)?;
            Some(Self { epoch: Epoch(epoch.into()), number })
        });
        parsed.ok_or_else(|| ValidationError::new("malformed", "must be a position from Feed-Position or an event"))
    }
}

/// Returns the pattern of a position.
fn pattern() -> String {
    format!("[0-9A-Za-z]{{1,{MAX_EPOCH_LENGTH}}}[.][0-9]{{1,{MAX_DIGITS}}}")
}

impl ToSchema for Position {}

impl PartialSchema for Position {
    fn schema() -> RefOr<Schema> {
        let position = ObjectBuilder::new().schema_type(Type::String).pattern(Some(format!("^{}$", pattern())));
        let description = "A position in the feed: `<epoch>.<number>`. Do not calculate with it.";
        position.description(Some(description)).examples(["5b1c9f0e7a2d4e63.42"]).into()
    }
}

/// The position after which a client begins to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum After {
    /// After a position that it knows.
    Position(Position),
    /// With the oldest event that is available.
    Earliest,
    /// With the next event.
    Now,
}

impl ToSchema for After {}

impl PartialSchema for After {
    fn schema() -> RefOr<Schema> {
        let after = ObjectBuilder::new().schema_type(Type::String);
        let after = after.pattern(Some(format!("^(now|earliest|{})$", pattern()))).default(Some("now".into()));
        let description = "Events after this position: `Feed-Position` of a response, or `position` of a message; \
                           `earliest`, or `now`.";
        after.description(Some(description)).examples(["earliest"]).into()
    }
}

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Position(position) => position.fmt(f),
            Self::Earliest => f.write_str("earliest"),
            Self::Now => f.write_str("now"),
        }
    }
}

impl FromStr for After {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "now" => Ok(Self::Now),
            text => text.parse().map(Self::Position).map_err(|error: ValidationError| {
                let message = "must be now, earliest, or a position from Feed-Position or an event";
                ValidationError::new(error.code, message)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_an_epoch_and_a_number() {
        let position: Position = "0af3.42".parse().unwrap();
        assert_eq!((&*position.epoch, position.number), ("0af3", 42));
        assert_eq!(position.to_string(), "0af3.42");
        for malformed in ["", ".", "a.", ".1", "a.-1", "a.+1", "a.1.2", "a b.1", "a.1 ", "a.1000000000000000000", "ä.1"]
        {
            assert_eq!(malformed.parse::<Position>().unwrap_err().code, "malformed", "{malformed}");
        }
        assert_eq!("now".parse(), Ok(After::Now));
        assert_eq!("earliest".parse(), Ok(After::Earliest));
        let message = "must be now, earliest, or a position from Feed-Position or an event";
        assert_eq!("Now".parse::<After>().unwrap_err().message, message);
    }
}
