//! Errors while loading the settings.

use super::Origin;

/// An error while loading the settings. Its message is one line and contains no secrets.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read or is not TOML.
    #[error("cannot read the settings file {path}: {cause}")]
    File {
        /// Its path.
        path: String,
        /// Why it cannot be read.
        cause: String,
    },
    /// A line of the file `.env` is invalid.
    #[error(".env, line {line}{}: {reason}", name.as_ref().map_or(String::new(), |name| format!(" ({name})")))]
    DotEnv {
        /// The line, counted from 1.
        line: usize,
        /// The variable, if it is one of ours.
        name: Option<String>,
        /// The reason, without the contents.
        reason: &'static str,
    },
    /// The value of a variable of ours is not text.
    #[error("{name}: the value is not UTF-8")]
    NotUnicode {
        /// The variable.
        name: String,
    },
    /// The key does not exist.
    #[error("{name}: unknown setting{}", nearest.as_ref().map_or(String::new(), |nearest| format!("; did you mean {nearest}?")))]
    UnknownKey {
        /// The key or variable, as it is written in its source.
        name: String,
        /// A known one that looks like it.
        nearest: Option<String>,
    },
    /// A value is not of its kind or outside its limits.
    #[error("{name}{}: must be {allowed} (from {origin})", value.as_ref().map_or(String::new(), |value| format!("={value}")))]
    Invalid {
        /// The key or variable, as it is written in its source.
        name: String,
        /// The value, if it is a number or a duration. Anything else may be a secret in the wrong place.
        value: Option<String>,
        /// What is allowed.
        allowed: String,
        /// Its source.
        origin: Origin,
    },
    /// A value cannot be used.
    #[error("{name}: {reason} (from {origin})")]
    Unusable {
        /// The key or variable, as it is written in its source.
        name: String,
        /// The reason, without the value.
        reason: String,
        /// Its source.
        origin: Origin,
    },
    /// Two names set one value in one source.
    #[error("{name} and {other} are both set (from {origin}); remove one")]
    Twice {
        /// The key or variable.
        name: String,
        /// The other one.
        other: String,
        /// Their source.
        origin: Origin,
    },
}
