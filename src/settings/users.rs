//! The section `[users]`.

use secrecy::SecretString;

use super::declaration::{Allowed, section};

section! {
    /// `users.*`: the users resource.
    UsersSettings, SETTINGS: "users" {
        /// Key that signs the cursors of GET /users, so that altered ones are refused. It must be the same on all
        /// instances. The built-in key detects accidental changes; with a secret one, clients cannot forge cursors.
        pub cursor_key: SecretString = "", Allowed::Described("a text"), secret;
        /// Whether PUT, PATCH, DELETE and bulk upserts require If-Match. With false, If-Match is optional, and
        /// a client that does not send it can overwrite concurrent changes.
        pub require_if_match: bool = false, Allowed::Boolean;
    }
}
