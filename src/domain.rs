//! The domain types of users and callers: newtypes that are always valid.
//!
//! Input is parsed once, where it enters the program: into a [`Name`] or an [`Email`], or it is rejected with a
//! [`ValidationError`]. No later code checks it again. A [`UserId`] contains the creation time, a [`Prefix`] is a range
//! of search keys, and a [`Precondition`] states which [`Version`]s of a user a request applies to. A caller has
//! [`Scopes`], proves them by an [`ApiKey`] for example, and is an [`Actor`] to the log, and
//! the [`Author`] of its changes to the journal. This module uses no other module of the crate.

mod access;
mod api_key;
mod author;
mod email;
mod id;
mod name;
mod overlap;
mod precondition;
mod prefix;
mod ticket;
mod version;
mod visibility;

use chrono::{DateTime, Utc};
use unicode_normalization::UnicodeNormalization;

pub use self::{
    access::{Actor, KeyId, KeyName, Scope, Scopes, Subject},
    api_key::{ApiKey, KeyDigest},
    author::Author,
    email::Email,
    id::UserId,
    name::Name,
    overlap::Overlap,
    precondition::{Precondition, Versions},
    prefix::Prefix,
    ticket::TicketDigest,
    version::Version,
};

/// A user as the service returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The id, which never changes.
    pub id: UserId,
    /// The name, trimmed and in NFC.
    pub name: Name,
    /// The email as entered.
    pub email: Email,
    /// See [`Version`].
    pub version: Version,
    /// When the user was created, UTC, to the microsecond.
    pub created_at: DateTime<Utc>,
    /// When the user was last changed, UTC, to the microsecond.
    pub updated_at: DateTime<Utc>,
}

/// The error of an invalid value: a code for programs, and a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidationError {
    /// A stable code for programs (`too-long`).
    pub code: &'static str,
    /// A message for people. Never contains the value.
    pub message: String,
}

impl ValidationError {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A member is missing.
    pub(crate) fn missing() -> Self {
        Self::new("required", "is required")
    }

    /// A member is `null`.
    pub(crate) fn null() -> Self {
        Self::new("required", "must not be null")
    }

    /// A member that must be a string is of another type.
    pub(crate) fn not_a_string() -> Self {
        Self::new("wrong-type", "must be a string")
    }

    /// No member has this name.
    pub(crate) fn unknown_member() -> Self {
        Self::new("unknown-member", "unknown member")
    }
}

/// Folds case. A final sigma becomes a plain one, because whether a sigma is final depends on the text after it, which
/// a prefix does not have. NFC comes last, because lowercasing can decompose characters.
fn fold_case(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    text.to_lowercase().chars().map(|c| if c == 'ς' { 'σ' } else { c }).nfc().collect()
}
