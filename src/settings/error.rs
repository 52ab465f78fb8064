//! Why there are no settings.

use super::Origin;

/// Why there are no settings. One line each; secrets are not repeated.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read or is no TOML.
    #[error("cannot read the settings file {path}: {cause}")]
    File {
        /// Which file.
        path: String,
        /// Why not.
        cause: String,
    },
    /// A variable of ours holds bytes that are no text.
    #[error("{name}: the value is no UTF-8")]
    NotUnicode {
        /// Which one.
        name: String,
    },
    /// There is no such key.
    #[error("{name}: unknown setting{}", nearest.as_ref().map_or(String::new(), |nearest| format!("; did you mean {nearest}?")))]
    UnknownKey {
        /// The key or variable, as it is written where it stands.
        name: String,
        /// A known one that looks like it.
        nearest: Option<String>,
    },
    /// A value is not of its kind or outside its limits.
    #[error("{name}={value}: must be {allowed} (from {origin})")]
    Invalid {
        /// The key or variable, as it is written where it stands.
        name: String,
        /// The value, redacted if secret.
        value: String,
        /// What is allowed.
        allowed: String,
        /// Where it stands.
        origin: Origin,
    },
}
