//! Conditional requests (RFC 9110, section 13): the entity tag of a user is its version.

use std::future::{Ready, ready};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    http::header::{self, HeaderName},
};

use super::{
    HttpOptions,
    problem::{Kind, Problem},
};
use crate::domain::{Precondition, Version, Versions};

/// What must hold of a user before it is read.
pub(super) struct ReadCondition(pub(super) Precondition);

/// What must hold of a user before it is changed.
pub(super) struct ChangeCondition(pub(super) Precondition);

impl FromRequest for ReadCondition {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self(precondition(request, Versions::OneOf(Vec::new())))))
    }
}

impl FromRequest for ChangeCondition {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        // What cannot be read may forbid the change.
        let precondition = precondition(request, Versions::Any);
        let is_required = request.app_data::<HttpOptions>().is_some_and(|rules| rules.require_if_match);
        ready(if is_required && precondition.is.is_none() {
            Err(Problem::new(Kind::PreconditionRequired, "Say in If-Match which version you change: send its ETag."))
        } else {
            Ok(Self(precondition))
        })
    }
}

/// A user's entity tag, as header.
pub(super) fn etag(version: Version) -> (header::HeaderName, String) {
    (header::ETAG, format!("\"{version}\""))
}

/// What must hold of a list before something is added to it. A list has no version.
pub(super) struct ListCondition {
    /// Whether it is said that any version will do.
    pub(super) is_any: bool,
}

impl FromRequest for ListCondition {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Precondition { is, is_not } = precondition(request, Versions::Any);
        let is_false = is.as_ref().is_some_and(|is| *is != Versions::Any) || is_not == Some(Versions::Any);
        ready(if is_false {
            let detail = "A list has no version; If-Match and If-None-Match are for single users.";
            Err(Problem::new(Kind::PreconditionFailed, detail))
        } else {
            Ok(Self { is_any: is == Some(Versions::Any) })
        })
    }
}

/// `unreadable` is what an `If-None-Match` stands for that cannot be read. An `If-Match` that cannot be read names no
/// version.
fn precondition(request: &HttpRequest, unreadable: Versions) -> Precondition {
    let tags = |name: HeaderName| {
        let mut lines = request.headers().get_all(name).map(header::HeaderValue::as_bytes).peekable();
        lines.peek()?;
        // Several lines are one list (RFC 9110, section 5.3).
        Some(Tags::parse(&lines.collect::<Vec<_>>().join(&b',')))
    };
    Precondition {
        is: tags(header::IF_MATCH).map(|tags| match tags {
            Some(Tags::Any) => Versions::Any,
            Some(Tags::List(tags)) => named(tags),
            None => Versions::OneOf(Vec::new()),
        }),
        is_not: tags(header::IF_NONE_MATCH).map(|tags| match tags {
            Some(Tags::Any) => Versions::Any,
            Some(Tags::List(tags)) => named(tags),
            None => unreadable,
        }),
    }
}

/// Entity tags as a header names them, without the mark of weak ones: a proxy that compresses makes `"1"` into `W/"1"`, and
/// the version in it is as exact as before. actix's own reader drops those that it cannot read, and then forbids less.
enum Tags {
    Any,
    List(Vec<Vec<u8>>),
}

impl Tags {
    /// `None` if it is not what RFC 9110 allows (sections 8.8.3 and 13.1), except that a tag may have spaces in it.
    fn parse(mut text: &[u8]) -> Option<Self> {
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
}

/// The versions that these tags stand for. Tags are compared as text: `"01"` is not `"1"`.
fn named(tags: Vec<Vec<u8>>) -> Versions {
    let version = |tag: Vec<u8>| {
        let text = str::from_utf8(&tag).ok()?;
        let version: Version = text.parse().ok()?;
        (version.to_string() == text).then_some(version)
    };
    Versions::OneOf(tags.into_iter().filter_map(version).collect())
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use proptest::prelude::*;

    use super::*;

    fn of(name: &'static str, value: &str) -> Precondition {
        precondition(&TestRequest::default().insert_header((name, value)).to_http_request(), Versions::Any)
    }

    #[test]
    fn tags_are_versions() {
        let versions = |versions: &[Version]| Some(Versions::OneOf(versions.to_vec()));
        for (text, if_match, if_none_match) in [
            ("*", Some(Versions::Any), Some(Versions::Any)),
            ("\"1\"", versions(&[1]), versions(&[1])),
            // A proxy that compresses makes strong tags weak.
            ("\"1\" , W/\"2\",\"3\"", versions(&[1, 2, 3]), versions(&[1, 2, 3])),
            (" ,, \"7\" ,", versions(&[7]), versions(&[7])),
            ("\"01\", \"+1\", \" 1\", \"x\", \"1, 2\", \"\"", versions(&[]), versions(&[])),
            // Not readable: it allows nothing and forbids all.
            ("7", versions(&[]), Some(Versions::Any)),
            ("*, \"9\"", versions(&[]), Some(Versions::Any)),
            ("\"9\" \"7\"", versions(&[]), Some(Versions::Any)),
            ("\"9\", w/\"7\"", versions(&[]), Some(Versions::Any)),
            ("\"7", versions(&[]), Some(Versions::Any)),
        ] {
            assert_eq!(of("if-match", text), Precondition { is: if_match, is_not: None }, "{text}");
            assert_eq!(of("if-none-match", text), Precondition { is: None, is_not: if_none_match }, "{text}");
        }
        assert_eq!(precondition(&TestRequest::default().to_http_request(), Versions::Any), Precondition::NONE);
        let lines = |name: &'static str, lines: &[&[u8]]| {
            let mut request = TestRequest::default();
            for line in lines {
                let value = header::HeaderValue::from_bytes(line).unwrap();
                request = request.append_header((HeaderName::from_static(name), value));
            }
            precondition(&request.to_http_request(), Versions::Any)
        };
        // Somebody else's tag spoils nothing, and several lines are one list.
        for one in [&[&b"\"\xe4\", \"7\""[..]][..], &[b"\"6\"", b"\"7\""]] {
            assert!(lines("if-match", one).holds(7) && !lines("if-match", one).holds(8));
            assert!(lines("if-none-match", one).holds(8) && !lines("if-none-match", one).holds(7));
        }
        assert!(!lines("if-none-match", &[b"\"9\"", b"*"]).holds(7));
    }

    proptest! {
        #[test]
        fn what_is_made_up_never_lets_a_change_through(text in "[ -~]{0,40}") {
            prop_assume!(text.trim() != "*" && !text.contains("\"7\""));
            prop_assert!(!of("if-match", &text).holds(7));
            let is_list = text.chars().all(|character| " ,".contains(character));
            prop_assert!(is_list || text.contains('"') || !of("if-none-match", &text).holds(7));
        }
    }
}
