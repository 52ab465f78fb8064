//! Versions of users.

use std::{fmt, str::FromStr};

use super::ValidationError;

/// The version of a user: 1 at creation, incremented by each change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(i64);

impl Version {
    /// The version of a new user.
    pub const FIRST: Self = Self(1);

    /// Takes a version from the database.
    pub(crate) const fn from_stored(number: i64) -> Self {
        Self(number)
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Version {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let version = text.parse().ok().map(Self).filter(|version| *version >= Self::FIRST);
        version.ok_or_else(|| ValidationError::new("out-of-range", "must be a whole number of at least 1"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_begin_with_one() {
        assert_eq!("1".parse(), Ok(Version::FIRST));
        assert_eq!("9223372036854775807".parse::<Version>().unwrap().get(), i64::MAX);
        for text in ["0", "-1", "", "x", "1.0", "9223372036854775808"] {
            assert_eq!(text.parse::<Version>().unwrap_err().code, "out-of-range", "{text}");
        }
    }
}
