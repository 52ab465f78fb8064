//! Conditional requests (RFC 9110, section 13): `If-Match` and `If-None-Match` as preconditions on the version of a
//! user.

use std::future::{Ready, ready};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    http::header::{self, HeaderName},
};

use utoipa::{
    IntoParams,
    openapi::{
        ObjectBuilder, Required, Type,
        path::{Parameter, ParameterBuilder, ParameterIn},
    },
};

use super::{
    HttpOptions,
    etag::EntityTags,
    problem::{Kind, Problem},
};
use crate::domain::{Precondition, Versions};

/// The precondition of reading a user.
pub(super) struct ReadCondition(pub(super) Precondition);

/// The precondition of changing or deleting a user.
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
        // A malformed `If-None-Match` forbids the change.
        let precondition = precondition(request, Versions::Any);
        let is_required = request.app_data::<HttpOptions>().is_some_and(|options| options.require_if_match);
        ready(if is_required && precondition.is.is_none() {
            Err(Problem::new(Kind::PreconditionRequired, "Send the ETag of the user in If-Match."))
        } else {
            Ok(Self(precondition))
        })
    }
}

/// Returns the OpenAPI parameters of a conditional request.
fn condition_parameters(if_match: &str, if_none_match: &str) -> Vec<Parameter> {
    let parameter = |name: &str, description: &str| {
        let schema = ObjectBuilder::new().schema_type(Type::String);
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header);
        parameter.required(Required::False).description(Some(description)).schema(Some(schema)).build()
    };
    vec![parameter("If-Match", if_match), parameter("If-None-Match", if_none_match)]
}

fn user_condition_parameters() -> Vec<Parameter> {
    condition_parameters(
        "Entity tags, or `*`: the user must be at one of these versions. Example: `\"1\"`.",
        "Entity tags, or `*`: the user must be at none of these versions. Example: `\"1\"`.",
    )
}

impl IntoParams for ReadCondition {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        user_condition_parameters()
    }
}

impl IntoParams for ChangeCondition {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        user_condition_parameters()
    }
}

impl IntoParams for ListCondition {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        condition_parameters(
            "`*`: users may be changed at any version. An entity tag belongs to one user and never matches a list.",
            "An entity tag never matches a list, so the request is processed. `*` always fails.",
        )
    }
}

/// The precondition of adding to a list. A list has no version.
pub(super) struct ListCondition {
    /// Whether the request has `If-Match: *`.
    pub(super) is_any: bool,
}

impl FromRequest for ListCondition {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Precondition { is, is_not } = precondition(request, Versions::Any);
        let has_failed = is.as_ref().is_some_and(|is| *is != Versions::Any) || is_not == Some(Versions::Any);
        ready(if has_failed {
            let detail = "A list has no version; If-Match and If-None-Match are for single users.";
            Err(Problem::new(Kind::PreconditionFailed, detail))
        } else {
            Ok(Self { is_any: is == Some(Versions::Any) })
        })
    }
}

/// Parses the precondition of a request. A malformed `If-Match` matches no version, and a malformed `If-None-Match`
/// stands for the versions in `malformed`.
fn precondition(request: &HttpRequest, malformed: Versions) -> Precondition {
    let versions = |name: HeaderName, malformed: Versions| {
        let mut lines = request.headers().get_all(name).map(header::HeaderValue::as_bytes).peekable();
        lines.peek()?;
        // Several lines are one list (RFC 9110, section 5.3).
        let tags = EntityTags::parse(&lines.collect::<Vec<_>>().join(&b','));
        Some(tags.map_or(malformed, EntityTags::versions))
    };
    Precondition {
        is: versions(header::IF_MATCH, Versions::OneOf(Vec::new())),
        is_not: versions(header::IF_NONE_MATCH, malformed),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::Version;

    fn of(name: &'static str, value: &str) -> Precondition {
        precondition(&TestRequest::default().insert_header((name, value)).to_http_request(), Versions::Any)
    }

    #[test]
    fn entity_tags_are_parsed_as_versions() {
        let versions =
            |numbers: &[i64]| Some(Versions::OneOf(numbers.iter().copied().map(Version::from_stored).collect()));
        for (text, if_match, if_none_match) in [
            ("*", Some(Versions::Any), Some(Versions::Any)),
            ("\"1\"", versions(&[1]), versions(&[1])),
            // A proxy that compresses turns strong tags into weak ones.
            ("\"1\" , W/\"2\",\"3\"", versions(&[1, 2, 3]), versions(&[1, 2, 3])),
            (" ,, \"7\" ,", versions(&[7]), versions(&[7])),
            ("\"01\", \"+1\", \" 1\", \"x\", \"1, 2\", \"\"", versions(&[]), versions(&[])),
            // Malformed: allows no version in If-Match, and excludes every version in If-None-Match.
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
        // A foreign tag does not affect the others, and several lines are one list.
        for one in [&[&b"\"\xe4\", \"7\""[..]][..], &[b"\"6\"", b"\"7\""]] {
            assert!(
                lines("if-match", one).holds(Version::from_stored(7))
                    && !lines("if-match", one).holds(Version::from_stored(8))
            );
            assert!(
                lines("if-none-match", one).holds(Version::from_stored(8))
                    && !lines("if-none-match", one).holds(Version::from_stored(7))
            );
        }
        assert!(!lines("if-none-match", &[b"\"9\"", b"*"]).holds(Version::from_stored(7)));
    }

    proptest! {
        #[test]
        fn a_forged_tag_never_allows_a_change(text in "[ -~]{0,40}") {
            prop_assume!(text.trim() != "*" && !text.contains("\"7\""));
            prop_assert!(!of("if-match", &text).holds(Version::from_stored(7)));
            let is_list = text.chars().all(|character| " ,".contains(character));
            prop_assert!(is_list || text.contains('"') || !of("if-none-match", &text).holds(Version::from_stored(7)));
        }
    }
}
