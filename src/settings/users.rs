//! The section `[users]`.

use secrecy::SecretString;

use super::declaration::{Allowed, section};

section! {
    /// `users.*`: the users resource.
    UsersSettings, SETTINGS: "users" {
        /// Key that signs the cursors of GET /users, so that altered ones are refused. It must be the same on all
        /// instances. The built-in key detects accidents; set a secret one to keep clients from forging cursors.
        pub cursor_key: SecretString = "", Allowed::Described("a text"), secret;
        /// Whether PUT, PATCH, DELETE and bulk upserts require If-Match. false leaves it to the clients: a client
        /// without it overwrites concurrent changes.
        pub require_if_match: bool = false, Allowed::Boolean;
    }
}
