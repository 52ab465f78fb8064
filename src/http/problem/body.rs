//! The JSON body of a problem.

use serde::Serialize;
use utoipa::ToSchema;

use super::kind::ProblemCode;
use crate::domain::ValidationError;

/// A problem (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(in crate::http) struct ProblemBody<'a> {
    /// The URI of the problem type.
    #[serde(rename = "type")]
    #[schema(example = "urn:problem-type:users-api:email-taken")]
    pub(super) type_: String,
    /// The name of the problem type.
    #[schema(example = "Email already in use")]
    pub(super) title: &'a str,
    /// The HTTP status.
    #[schema(example = 409)]
    pub(super) status: u16,
    /// What happened this time, or what to do.
    #[schema(example = "Another user has this email address.")]
    pub(super) detail: &'a str,
    /// The path of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/users")]
    pub(super) instance: Option<&'a str>,
    /// The kind of the problem, for programs.
    #[schema(example = "email-taken", value_type = ProblemCode)]
    pub(super) code: &'a str,
    /// All validation errors.
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    pub(super) errors: &'a [FieldError],
}

/// A validation error of a member or a query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(in crate::http) struct FieldError {
    /// JSON Pointer (RFC 6901) to the member of the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/email")]
    pointer: Option<String>,
    /// The name of the query parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "limit")]
    parameter: Option<String>,
    /// The kind of the error, for programs.
    #[schema(example = "malformed")]
    code: &'static str,
    /// The error, for people.
    #[schema(example = "must be an email address such as ann@example.com")]
    message: String,
}

impl FieldError {
    pub(in crate::http) fn at_member(pointer: String, error: ValidationError) -> Self {
        Self { pointer: Some(pointer), parameter: None, code: error.code, message: error.message }
    }

    pub(in crate::http) fn at_parameter(name: &str, error: ValidationError) -> Self {
        Self { pointer: None, parameter: Some(name.to_owned()), code: error.code, message: error.message }
    }
}
