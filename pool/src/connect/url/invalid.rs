//! What is wrong with a URL.

/// Why a text is not a database URL that can be used. The text itself is not repeated: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidUrl {
    /// It is not a URL.
    #[error(
        "not a URL; expected sqlite://FILE?mode=rwc, postgres://USER@HOST/DATABASE or mysql://USER@HOST/DATABASE{0}"
    )]
    NotAUrl(&'static str),
    /// It is a URL of something else.
    #[error("unknown scheme; expected sqlite, postgres, postgresql, mysql or mariadb{0}")]
    UnknownScheme(&'static str),
    /// A part of it cannot be used; the text says which, and what to do.
    #[error("{0}")]
    Part(String),
}

impl InvalidUrl {
    pub(super) fn part(reason: impl Into<String>) -> Self {
        Self::Part(reason.into())
    }
}
