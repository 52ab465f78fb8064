//! Errors in database URLs.

/// The reason why a text is not a usable database URL. The text is not repeated, because it may contain a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidUrl {
    /// The text is not a URL.
    #[error(
        "not a URL; expected sqlite://FILE?mode=rwc, postgres://USER@HOST/DATABASE or mysql://USER@HOST/DATABASE{0}"
    )]
    NotAUrl(&'static str),
    /// The scheme is not that of a supported engine.
    #[error("unknown scheme; expected sqlite, postgres, postgresql, mysql or mariadb{0}")]
    UnknownScheme(&'static str),
    /// A part of the URL cannot be used; the text says which, and what to do.
    #[error("{0}")]
    Part(String),
}

impl InvalidUrl {
    pub(super) fn part(reason: impl Into<String>) -> Self {
        Self::Part(reason.into())
    }
}
