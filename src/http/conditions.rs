//! Conditional requests (RFC 9110, section 13): the entity tag of a user is its version.

use std::future::{Ready, ready};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    http::header::{self, EntityTag, Header as _, IfMatch, IfNoneMatch},
};

use super::{
    Rules,
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
        let is_required = request.app_data::<Rules>().is_some_and(|rules| rules.require_if_match);
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

/// `unreadable` is what an `If-None-Match` stands for that cannot be read.
fn precondition(request: &HttpRequest, unreadable: Versions) -> Precondition {
    // A tag that cannot be read is none of ours, and matches nothing.
    let is = || match IfMatch::parse(request) {
        Ok(IfMatch::Any) => Versions::Any,
        // A weak tag says "much the same", which is not enough to write over it.
        Ok(IfMatch::Items(tags)) => named(tags.iter().filter(|tag| !tag.weak)),
        Err(_) => named([]),
    };
    let is_not = || match IfNoneMatch::parse(request) {
        Ok(IfNoneMatch::Any) => Versions::Any,
        Ok(IfNoneMatch::Items(tags)) => named(&tags),
        Err(_) => unreadable,
    };
    let headers = request.headers();
    Precondition {
        is: headers.contains_key(header::IF_MATCH).then(is),
        is_not: headers.contains_key(header::IF_NONE_MATCH).then(is_not),
    }
}

/// The versions that these tags stand for. Tags are compared as text: `"01"` is not `"1"`.
fn named<'a>(tags: impl IntoIterator<Item = &'a EntityTag>) -> Versions {
    let version = |tag: &EntityTag| {
        let version: Version = tag.tag().parse().ok()?;
        (version.to_string() == tag.tag()).then_some(version)
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
        for (text, strong, weak) in [
            ("*", Some(Versions::Any), Some(Versions::Any)),
            ("\"1\"", versions(&[1]), versions(&[1])),
            ("\"1\" , W/\"2\",\"3\"", versions(&[1, 3]), versions(&[1, 2, 3])),
            ("1", versions(&[]), versions(&[])),
            ("\"01\", \"+1\", \" 1\", \"x\", \"1, 2\", \"\"", versions(&[]), versions(&[])),
        ] {
            assert_eq!(of("if-match", text), Precondition { is: strong, is_not: None }, "{text}");
            assert_eq!(of("if-none-match", text), Precondition { is: None, is_not: weak }, "{text}");
        }
        assert_eq!(precondition(&TestRequest::default().to_http_request(), Versions::Any), Precondition::NONE);
        assert!(!of("if-none-match", "\"\u{e4}\"").holds(7), "what cannot be read forbids");
    }

    proptest! {
        #[test]
        fn what_is_made_up_never_lets_a_change_through(text in "[ -~]{0,40}") {
            prop_assume!(text.trim() != "*" && !text.contains("\"7\""));
            prop_assert!(!of("if-match", &text).holds(7));
        }
    }
}
