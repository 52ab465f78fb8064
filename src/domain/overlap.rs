//! How long an API key still works after its rotation.

use std::{fmt, str::FromStr, time::Duration};

use humantime_serde::re::humantime;

use super::ValidationError;

/// How long an API key still works after its rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap(Duration);

impl Overlap {
    /// The maximum in days.
    const MAX_DAYS: u64 = 365;
    /// The maximum.
    pub const MAX: Self = Self(Duration::from_hours(24 * Self::MAX_DAYS));
    /// What applies if the client does not choose.
    pub const DEFAULT: Self = Self(Duration::from_hours(24));

    /// Returns the duration.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// Returns what it looks like, for messages and documents.
    #[must_use]
    pub fn form() -> String {
        format!("a duration of at most {}d, such as 30m or {}", Self::MAX_DAYS, Self::DEFAULT)
    }
}

impl Default for Overlap {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// As it is parsed, in hours if possible.
impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.0.as_secs() / 3600;
        if hours > 0 && self.0 == Duration::from_hours(hours) {
            return write!(f, "{hours}h");
        }
        humantime::format_duration(self.0).fmt(f)
    }
}

impl FromStr for Overlap {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        match humantime::parse_duration(text) {
            Ok(overlap) if overlap <= Self::MAX.0 => Ok(Self(overlap)),
            _ => Err(ValidationError::new("malformed", format!("must be {}", Self::form()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_have_a_maximum() {
        for text in ["0s", "90s", "24h", "365d"] {
            let overlap: Overlap = text.parse().unwrap();
            assert_eq!(overlap.to_string().parse(), Ok(overlap), "{overlap}");
        }
        assert_eq!("365d".parse(), Ok(Overlap::MAX));
        for text in ["366d", "365d 1ns", "-1s", "24", "a day", ""] {
            let error = text.parse::<Overlap>().unwrap_err();
            assert_eq!(
                (error.code, &*error.message),
                ("malformed", "must be a duration of at most 365d, such as 30m or 24h")
            );
        }
    }
}
