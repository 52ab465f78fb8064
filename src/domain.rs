//! What a user is: parsed newtypes that cannot hold anything invalid.
//!
//! Text becomes a [`Name`] or an [`Email`] once, at the edge, or a [`ValidationError`] that says what is wrong with it. Nothing
//! behind the edge checks again. A [`UserId`] tells when its user was created, a [`Prefix`] is the range of the keys that
//! begin so, and a [`Precondition`] says at which [`Version`] a user may be changed. This module imports nothing of ours.

mod email;
mod id;
mod name;
mod precondition;
mod prefix;
mod visibility;

use chrono::{DateTime, Utc};
use unicode_normalization::UnicodeNormalization;

pub use self::{
    email::Email,
    id::UserId,
    name::Name,
    precondition::{Precondition, Versions},
    prefix::Prefix,
};

/// How often a user has been written: 1 at creation, one more with each change.
pub type Version = i64;

/// A user as the service gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Identity, for ever.
    pub id: UserId,
    /// The name, trimmed and in NFC.
    pub name: String,
    /// The email as it was typed.
    pub email: String,
    /// See [`Version`].
    pub version: Version,
    /// When it was created, UTC, to the microsecond.
    pub created_at: DateTime<Utc>,
    /// When it was last changed, UTC, to the microsecond.
    pub updated_at: DateTime<Utc>,
}

/// What is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidationError {
    /// A stable word for programs (`too-long`).
    pub code: &'static str,
    /// A sentence for people. Never repeats the value.
    pub message: String,
}

impl ValidationError {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Text without regard to case. The sigma at a word's end is a sigma, and where an end is depends on what follows. Lower
/// case may decompose, so NFC comes last.
fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    text.to_lowercase().chars().map(|c| if c == 'ς' { 'σ' } else { c }).nfc().collect()
}
