//! Every error answer: RFC 9457 problem details, one type for all.

use std::{cell::OnceCell, error::Error as StdError, fmt, rc::Rc};

use actix_web::{
    HttpResponse, ResponseError,
    body::BoxBody,
    http::{
        Method, StatusCode,
        header::{self, HeaderName},
    },
};
use serde::Serialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

use super::{
    conditions::etag,
    policy,
    request_info::{REQUEST_ID, RequestInfo},
};
use crate::{
    domain::ValidationError,
    service::{self, Unavailable},
    telemetry,
};

/// What a client that got a 503 is asked to wait.
const RETRY_AFTER_SECONDS: u64 = 1;
/// No more faults than this are told: an answer should not be much longer than its question.
const MOST_ERRORS: usize = 100;

/// The kinds of problems. The code of each is a promise to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The request is not HTTP/1.1.
    MalformedRequest,
    /// The head of the request took too long to arrive.
    HeadTimeout,
    /// The head of the request is too large.
    HeadTooLarge,
    /// The body is no JSON.
    MalformedJson,
    /// The rows of the body are not CSV.
    MalformedCsv,
    /// A query parameter is unknown, doubled or out of range.
    InvalidQuery,
    /// A cursor is not one of ours, or was changed.
    InvalidCursor,
    /// The id in the path is no UUID.
    InvalidId,
    /// There is nothing at this path.
    NotFound,
    /// There is no such user.
    UserNotFound,
    /// The path does not know the method.
    MethodNotAllowed,
    /// The request is for a host that is not served here.
    HostUnknown,
    /// The key of the request cannot be one.
    InvalidIdempotencyKey,
    /// The body took too long to arrive.
    BodyTimeout,
    /// Another user has the email.
    EmailTaken,
    /// The user was changed meanwhile.
    VersionConflict,
    /// The first request with this key is still under way.
    IdempotencyKeyInUse,
    /// The user is at another version than the request asks for.
    PreconditionFailed,
    /// The request does not say which version it changes.
    PreconditionRequired,
    /// The body is too large.
    PayloadTooLarge,
    /// The body is of a type that is not understood here.
    UnsupportedMediaType,
    /// No media type that the client takes can be given.
    NotAcceptable,
    /// The body is JSON, but not what is asked for.
    ValidationFailed,
    /// The key was used for another request.
    IdempotencyKeyReused,
    /// A fault of ours.
    Internal,
    /// The pool has no connection to give.
    PoolExhausted,
    /// The database is away.
    DatabaseUnavailable,
    /// The service is being stopped.
    ShuttingDown,
    /// The answer was not ready in time.
    RequestTimeout,
}

impl Kind {
    const ALL: [Self; 29] = [
        Self::MalformedRequest,
        Self::HeadTimeout,
        Self::HeadTooLarge,
        Self::MalformedJson,
        Self::MalformedCsv,
        Self::InvalidQuery,
        Self::InvalidCursor,
        Self::InvalidId,
        Self::NotFound,
        Self::UserNotFound,
        Self::MethodNotAllowed,
        Self::HostUnknown,
        Self::InvalidIdempotencyKey,
        Self::BodyTimeout,
        Self::EmailTaken,
        Self::VersionConflict,
        Self::IdempotencyKeyInUse,
        Self::PreconditionFailed,
        Self::PreconditionRequired,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::NotAcceptable,
        Self::ValidationFailed,
        Self::IdempotencyKeyReused,
        Self::Internal,
        Self::PoolExhausted,
        Self::DatabaseUnavailable,
        Self::ShuttingDown,
        Self::RequestTimeout,
    ];

    /// Status, code and title.
    pub(super) const fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::MalformedRequest => (StatusCode::BAD_REQUEST, "malformed-request", "Malformed request"),
            Self::HeadTimeout => (StatusCode::REQUEST_TIMEOUT, "head-timeout", "Request head timeout"),
            Self::HeadTooLarge => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large", "Request head too large")
            }
            Self::MalformedJson => (StatusCode::BAD_REQUEST, "malformed-json", "The body is not valid JSON"),
            Self::MalformedCsv => (StatusCode::BAD_REQUEST, "malformed-csv", "The body is not valid CSV"),
            Self::InvalidQuery => (StatusCode::BAD_REQUEST, "invalid-query", "The query is not valid"),
            Self::InvalidCursor => (StatusCode::BAD_REQUEST, "invalid-cursor", "The cursor is not valid"),
            Self::InvalidId => (StatusCode::BAD_REQUEST, "invalid-id", "The id is not valid"),
            Self::InvalidIdempotencyKey => {
                (StatusCode::BAD_REQUEST, "invalid-idempotency-key", "The idempotency key is not valid")
            }
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "Nothing is here"),
            Self::UserNotFound => (StatusCode::NOT_FOUND, "user-not-found", "There is no such user"),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "The method is not allowed here")
            }
            Self::HostUnknown => (StatusCode::MISDIRECTED_REQUEST, "host-unknown", "Misdirected request"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body-timeout", "The body did not arrive in time"),
            Self::EmailTaken => (StatusCode::CONFLICT, "email-taken", "The email is taken"),
            Self::VersionConflict => (StatusCode::CONFLICT, "version-conflict", "The user was changed meanwhile"),
            Self::IdempotencyKeyInUse => {
                (StatusCode::CONFLICT, "idempotency-key-in-use", "The request with this key is still under way")
            }
            Self::PreconditionFailed => {
                (StatusCode::PRECONDITION_FAILED, "precondition-failed", "The precondition does not hold")
            }
            Self::PreconditionRequired => (
                StatusCode::PRECONDITION_REQUIRED,
                "precondition-required",
                "The request does not say which version it changes",
            ),
            Self::PayloadTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "payload-too-large", "The body is too large"),
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "The media type is not supported")
            }
            Self::NotAcceptable => {
                (StatusCode::NOT_ACCEPTABLE, "not-acceptable", "No media type that is asked for can be given")
            }
            Self::ValidationFailed => {
                (StatusCode::UNPROCESSABLE_ENTITY, "validation-failed", "The body is not what is asked for")
            }
            Self::IdempotencyKeyReused => {
                (StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused", "The key was used for another request")
            }
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something went wrong here"),
            Self::PoolExhausted => (StatusCode::SERVICE_UNAVAILABLE, "pool-exhausted", "Too much is going on"),
            Self::DatabaseUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "database-unavailable", "The database is unavailable")
            }
            Self::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "shutting-down", "The service is being stopped"),
            Self::RequestTimeout => {
                (StatusCode::SERVICE_UNAVAILABLE, "request-timeout", "The answer was not ready in time")
            }
        }
    }
}

/// The codes, as the document lists them.
pub(super) struct ProblemCode;

impl PartialSchema for ProblemCode {
    fn schema() -> RefOr<Schema> {
        let codes = Kind::ALL.map(|kind| kind.parts().1);
        let description = "What kind of problem it is: a stable word for programs";
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(codes)).description(Some(description)).into()
    }
}

impl ToSchema for ProblemCode {}

/// A problem on its way to the client.
#[derive(Debug)]
pub(super) struct Problem {
    kind: Kind,
    detail: String,
    errors: Vec<FieldError>,
    /// What this kind of problem tells in a header of its own.
    header: Option<Box<(HeaderName, String)>>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
    info: OnceCell<Rc<RequestInfo>>,
}

/// A problem as the client sees it (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody<'a> {
    /// Names the kind of problem.
    #[serde(rename = "type")]
    #[schema(example = "urn:problem-type:users-api:email-taken")]
    type_: String,
    /// The kind in words.
    #[schema(example = "The email is taken")]
    title: &'a str,
    /// The HTTP status.
    #[schema(example = 409)]
    status: u16,
    /// What is the matter this time.
    #[schema(example = "Another user has this email.")]
    detail: &'a str,
    /// The path of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/users")]
    instance: Option<&'a str>,
    /// A stable word for programs.
    #[schema(example = "email-taken", value_type = ProblemCode)]
    code: &'a str,
    /// Each fault of the input.
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    errors: &'a [FieldError],
}

/// One fault of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct FieldError {
    /// JSON Pointer (RFC 6901) to the member of the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/email")]
    pub(super) pointer: Option<String>,
    /// Name of the query parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "limit")]
    pub(super) parameter: Option<String>,
    /// A stable word for programs.
    #[schema(example = "malformed")]
    pub(super) code: &'static str,
    /// A sentence for people.
    #[schema(example = "an email address looks like ann@example.com")]
    pub(super) message: String,
}

impl FieldError {
    pub(super) fn at_member(pointer: String, fault: ValidationError) -> Self {
        Self { pointer: Some(pointer), parameter: None, code: fault.code, message: fault.message }
    }

    pub(super) fn at_parameter(name: &str, fault: ValidationError) -> Self {
        Self { pointer: None, parameter: Some(name.to_owned()), code: fault.code, message: fault.message }
    }
}

impl Problem {
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), header: None, cause: None, info: OnceCell::new() }
    }

    pub(super) fn with_errors(kind: Kind, detail: impl Into<String>, mut errors: Vec<FieldError>) -> Self {
        errors.truncate(MOST_ERRORS);
        Self { errors, ..Self::new(kind, detail) }
    }

    /// The same problem with another sentence.
    pub(super) fn with_detail(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    pub(super) fn unsupported_media_type(method: &Method, allowed: &[&str]) -> Self {
        let name = match *method {
            Method::POST => HeaderName::from_static("accept-post"),
            Method::PATCH => HeaderName::from_static("accept-patch"),
            _ => header::ACCEPT,
        };
        let detail = format!("Send {} in UTF-8, without a content encoding.", allowed.join(" or "));
        Self { header: Some(Box::new((name, allowed.join(", ")))), ..Self::new(Kind::UnsupportedMediaType, detail) }
    }

    pub(super) fn method_not_allowed(allow: String) -> Self {
        let detail = format!("This path knows {allow}.");
        Self { header: Some(Box::new((header::ALLOW, allow))), ..Self::new(Kind::MethodNotAllowed, detail) }
    }

    pub(super) fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { cause: Some(cause.into()), ..Self::new(Kind::Internal, "It is not your fault, and it has been logged.") }
    }

    /// Notes the request that the problem happened to.
    pub(super) fn happened_to(&self, info: Rc<RequestInfo>) {
        // Set once; the first is right.
        let _ = self.info.set(info);
    }

    /// The request that the problem happened to, if it was noted.
    pub(super) fn info(&self) -> Option<Rc<RequestInfo>> {
        self.info.get().cloned()
    }

    /// The body of the answer.
    pub(super) fn body(&self, info: Option<&RequestInfo>) -> Vec<u8> {
        // Texts and numbers always serialize.
        serde_json::to_vec(&self.to_body(info)).unwrap_or_default()
    }

    /// What is told of it.
    pub(super) fn to_body<'a>(&'a self, info: Option<&'a RequestInfo>) -> ProblemBody<'a> {
        let (status, code, title) = self.kind.parts();
        ProblemBody {
            type_: format!("urn:problem-type:users-api:{code}"),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            instance: info.map(|info| info.path.as_str()),
            code,
            errors: &self.errors,
        }
    }

    /// The stable word for programs.
    pub(super) fn code(&self) -> &'static str {
        self.kind.parts().1
    }

    /// The cause and its causes, for the log.
    pub(super) fn chain(&self) -> Option<String> {
        Some(telemetry::chain(self.cause.as_deref()?))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code(), self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.kind.parts().0
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        let info = self.info.get();
        let status = self.status_code();
        let mut response = HttpResponse::build(status);
        response.content_type("application/problem+json");
        if let Some(info) = info {
            response.insert_header((REQUEST_ID, info.request_id.clone()));
        }
        if let Some((name, value)) = self.header.as_deref() {
            response.insert_header((name.clone(), value.as_str()));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.insert_header((header::RETRY_AFTER, RETRY_AFTER_SECONDS));
        }
        let mut response = response.body(self.body(info.map(Rc::as_ref)));
        policy::problem(response.headers_mut());
        response
    }
}

impl From<service::Error> for Problem {
    fn from(error: service::Error) -> Self {
        let (kind, detail) = match &error {
            service::Error::NotFound => (Kind::UserNotFound, "There is no user with this id."),
            service::Error::EmailTaken => (Kind::EmailTaken, "Another user has this email."),
            service::Error::PreconditionFailed { .. } => {
                (Kind::PreconditionFailed, "The user is at the version in ETag. Read it again and decide anew.")
            }
            service::Error::VersionConflict => {
                (Kind::VersionConflict, "The user was changed at the same moment. Read it again and decide anew.")
            }
            service::Error::KeyReused => {
                (Kind::IdempotencyKeyReused, "With this key something else was asked for. Take a new one.")
            }
            service::Error::KeyInUse => {
                (Kind::IdempotencyKeyInUse, "The first request with this key has no answer yet. Try again.")
            }
            service::Error::Unavailable { kind, .. } => match kind {
                Unavailable::PoolExhausted => (Kind::PoolExhausted, "All connections are busy. Try again."),
                Unavailable::Database => (Kind::DatabaseUnavailable, "The database cannot serve now. Try again."),
                Unavailable::ShuttingDown => (Kind::ShuttingDown, "Another instance will serve you. Try again."),
            },
            service::Error::Internal(_) => return Self::internal(error),
        };
        let mut problem = Self::new(kind, detail);
        problem.header = match error {
            service::Error::PreconditionFailed { current } => Some(Box::new(etag(current))),
            service::Error::KeyInUse => Some(Box::new((header::RETRY_AFTER, RETRY_AFTER_SECONDS.to_string()))),
            _ => None,
        };
        if problem.status_code().is_server_error() {
            problem.cause = Some(error.into());
        }
        problem
    }
}
