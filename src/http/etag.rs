//! Entity tags of users. The entity tag of a user is its version in double quotes: `"1"`.

use actix_web::http::header::{self, HeaderName};

use crate::domain::{Version, Versions};

/// Returns the `ETag` header of a user at this version.
pub(super) fn etag(version: Version) -> (HeaderName, String) {
    (header::ETAG, format!("\"{version}\""))
}

/// The entity tags in `If-Match` or `If-None-Match`, strong or weak: a proxy that compresses turns `"1"` into `W/"1"`,
/// and both mean the same version. actix's parser drops tags that it cannot parse, which would weaken an
/// `If-None-Match`.
pub(super) enum EntityTags {
    Any,
    List(Vec<Vec<u8>>),
}

impl EntityTags {
    /// Parses a header. Returns `None` if it violates RFC 9110 (sections 8.8.3 and 13.1), except that a tag may contain
    /// spaces.
    pub(super) fn parse(mut text: &[u8]) -> Option<Self> {
        if text.trim_ascii() == b"*" {
            return Some(Self::Any);
        }
        let mut tags = Vec::new();
        loop {
            text = text.trim_ascii_start();
            match text {
                [] => return Some(Self::List(tags)),
                [b',', rest @ ..] => text = rest,
                _ => {
                    let quoted = text.strip_prefix(b"W/").unwrap_or(text).strip_prefix(b"\"")?;
                    let end = quoted.iter().position(|byte| *byte == b'"')?;
                    tags.push(quoted[..end].to_vec());
                    text = quoted[end + 1..].trim_ascii_start();
                    if !matches!(text, [] | [b',', ..]) {
                        return None;
                    }
                }
            }
        }
    }

    /// Returns the versions of these tags. Tags are compared as text: `"01"` is not `"1"`.
    pub(super) fn versions(self) -> Versions {
        let version = |tag: Vec<u8>| {
            let text = str::from_utf8(&tag).ok()?;
            let version: Version = text.parse().ok()?;
            (version.to_string() == text).then_some(version)
        };
        match self {
            Self::Any => Versions::Any,
            Self::List(tags) => Versions::OneOf(tags.into_iter().filter_map(version).collect()),
        }
    }
}
