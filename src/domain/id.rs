//! User ids.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::ValidationError;

/// A user's id: a UUIDv7 that contains the creation time to the microsecond. Ids from all processes therefore sort by
/// creation time, and a time span is a range of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(Uuid);

impl UserId {
    /// Generates an id for a user created at this time.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the only place where ids are generated")]
    pub fn generate(created_at: DateTime<Utc>) -> Self {
        let mut bytes = Self::first_at(created_at).0.into_bytes();
        bytes[8..].copy_from_slice(&Uuid::new_v4().as_bytes()[8..]);
        Self(Uuid::from_bytes(bytes))
    }

    /// Returns the lowest id of users created at this time (to the microsecond) or later.
    #[must_use]
    pub fn first_at(created_at: DateTime<Utc>) -> Self {
        let microseconds = u64::try_from(created_at.timestamp_micros()).unwrap_or(0);
        let (milliseconds, rest) = (microseconds / 1000, microseconds % 1000);
        // The fraction of the millisecond is in the 12 bits after it (RFC 9562, section 6.2, method 3), which
        // distinguish its 1000 microseconds.
        let fraction = rest * 4096 / 1000;
        // 48 bits of milliseconds last until the year 10889.
        let milliseconds = milliseconds.min((1 << 48) - 1);
        let high = milliseconds << 16 | 0x7000 | fraction;
        Self(Uuid::from_u64_pair(high, 0x8000_0000_0000_0000))
    }

    /// Returns the id as a UUID.
    #[must_use]
    pub fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for UserId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl FromStr for UserId {
    type Err = ValidationError;

    /// Parses the hyphenated form of 36 characters, in either case. Other forms would be further URLs of the same user.
    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let malformed =
            || ValidationError::new("malformed", "must be a UUID such as 0197b5f0-3c4a-7def-8123-456789abcdef");
        if text.len() != 36 {
            return Err(malformed());
        }
        Uuid::try_parse(text).map(Self).map_err(|_| malformed())
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(microseconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(microseconds).unwrap()
    }

    #[test]
    fn only_the_hyphenated_form_is_accepted() {
        let id = UserId::generate(at(0));
        assert_eq!(id.to_string().parse(), Ok(id));
        for other in
            [id.0.simple().to_string(), format!("{{{id}}}"), format!("urn:uuid:{id}"), "1".to_owned(), String::new()]
        {
            assert_eq!(other.parse::<UserId>().unwrap_err().code, "malformed", "{other}");
        }
    }

    #[test]
    fn ids_sort_by_microsecond() {
        for microseconds in 1_763_720_130_123_000..1_763_720_130_125_000 {
            let (id, next) = (UserId::generate(at(microseconds)), UserId::first_at(at(microseconds + 1)));
            assert!(UserId::first_at(at(microseconds)) <= id && id < next, "{id} {next}");
            assert_eq!((id.0.get_version_num(), id.0.get_variant()), (7, uuid::Variant::RFC4122));
        }
    }

    #[test]
    fn no_time_is_out_of_range() {
        for time in [DateTime::<Utc>::MIN_UTC, at(-1), DateTime::<Utc>::MAX_UTC] {
            assert!(UserId::first_at(time) <= UserId::generate(time));
        }
    }
}
