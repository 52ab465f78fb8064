//! The section `[users]`.

use secrecy::SecretString;
use serde::Deserialize;

/// `users.*`: the users resource.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsersSettings {
    /// Key that signs cursors; empty = the built-in one.
    pub cursor_key: SecretString,
    /// Whether a change of a user must say by `If-Match` which version it changes.
    pub require_if_match: bool,
}
