//! Problems: every error response is RFC 9457 problem details, of one type.

mod body;
mod kind;

use std::{borrow::Cow, cell::OnceCell, error::Error as StdError, fmt, rc::Rc};

use actix_web::{
    HttpResponse, ResponseError,
    body::BoxBody,
    http::{
        Method, StatusCode,
        header::{self, HeaderName},
    },
};

pub(super) use self::{
    body::{FieldError, ProblemBody},
    kind::{Kind, ProblemCode},
};
use super::{
    etag::etag,
    policy,
    request_info::{REQUEST_ID, RequestInfo},
};
use crate::{
    error_chain,
    service::{self, Unavailable},
};

/// The `Retry-After` of a 503.
const RETRY_AFTER_SECONDS: u64 = 1;
/// The maximum number of validation errors in a response, so that it is not much longer than the request.
const MAX_ERRORS: usize = 100;

/// An error response.
#[derive(Debug)]
pub(super) struct Problem {
    kind: Kind,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    /// An additional header of this kind of problem.
    header: Option<Box<(HeaderName, String)>>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
    info: OnceCell<Rc<RequestInfo>>,
}

impl Problem {
    pub(super) const MEDIA_TYPE: &'static str = "application/problem+json";

    pub(super) fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), header: None, cause: None, info: OnceCell::new() }
    }

    pub(super) fn with_errors(kind: Kind, detail: impl Into<Cow<'static, str>>, mut errors: Vec<FieldError>) -> Self {
        errors.truncate(MAX_ERRORS);
        Self { errors, ..Self::new(kind, detail) }
    }

    /// Returns the problem with a header of its kind.
    pub(super) fn with_header(self, name: HeaderName, value: String) -> Self {
        Self { header: Some(Box::new((name, value))), ..self }
    }

    /// Returns the problem with another detail.
    pub(super) fn with_detail(self, detail: impl Into<Cow<'static, str>>) -> Self {
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
        let detail = format!("Allowed methods: {allow}.");
        Self { header: Some(Box::new((header::ALLOW, allow))), ..Self::new(Kind::MethodNotAllowed, detail) }
    }

    pub(super) fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            cause: Some(cause.into()),
            ..Self::new(Kind::Internal, "An unexpected error occurred. It has been logged.")
        }
    }

    /// Attaches the request.
    pub(super) fn attach_request(&self, info: Rc<RequestInfo>) {
        // A request that is already attached stays.
        let _ = self.info.set(info);
    }

    /// Returns the attached request.
    pub(super) fn info(&self) -> Option<Rc<RequestInfo>> {
        self.info.get().cloned()
    }

    /// Returns the serialized body.
    pub(super) fn body(&self, info: Option<&RequestInfo>) -> Vec<u8> {
        // Strings and numbers always serialize.
        serde_json::to_vec(&self.to_body(info)).unwrap_or_default()
    }

    /// Returns the body.
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

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the code.
    pub(super) fn code(&self) -> &'static str {
        self.kind.parts().1
    }

    /// Returns the chain of causes, for the log.
    pub(super) fn chain(&self) -> Option<String> {
        Some(error_chain::chain(self.cause.as_deref()?))
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

    /// Returns the response. Its body is empty unless the request is attached: `observe` knows the request, adds its
    /// path to the problem, and serializes it then.
    fn error_response(&self) -> HttpResponse<BoxBody> {
        let info = self.info.get();
        let status = self.status_code();
        let mut response = HttpResponse::build(status);
        response.content_type(Self::MEDIA_TYPE);
        if let Some(info) = info {
            response.insert_header((REQUEST_ID, info.request_id.clone()));
        }
        if let Some((name, value)) = self.header.as_deref() {
            response.insert_header((name.clone(), value.as_str()));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.insert_header((header::RETRY_AFTER, RETRY_AFTER_SECONDS));
        }
        let body = info.map(|info| self.body(Some(info))).unwrap_or_default();
        let mut response = response.body(body);
        policy::problem(response.headers_mut());
        response
    }
}

impl From<service::Error> for Problem {
    fn from(error: service::Error) -> Self {
        let (kind, detail) = match &error {
            service::Error::NotFound => (Kind::UserNotFound, "No user with this id exists."),
            service::Error::KeyNotFound => (Kind::KeyNotFound, "No API key with this id exists."),
            service::Error::KeyInactive => {
                (Kind::KeyInactive, "The API key has been revoked or rotated, or has expired. Create a new one.")
            }
            service::Error::ScopesExceeded(_) => (Kind::ScopeMissing, "The caller lacks a scope of the API key."),
            service::Error::EmailTaken => (Kind::EmailTaken, "Another user has this email address."),
            service::Error::PreconditionFailed { .. } => {
                (Kind::PreconditionFailed, "The user is at the version in ETag. Read the user again before you retry.")
            }
            service::Error::VersionConflict => (
                Kind::VersionConflict,
                "Another request changed the user at the same time. Read the user again before you retry.",
            ),
            service::Error::KeyReused => {
                (Kind::IdempotencyKeyReused, "This key was already used for a different request. Use a new key.")
            }
            service::Error::KeyInUse => {
                (Kind::IdempotencyKeyInUse, "The first request with this key is still in progress. Retry later.")
            }
            service::Error::Unavailable { kind, .. } => match kind {
                Unavailable::PoolExhausted => (Kind::PoolExhausted, "All database connections are busy. Retry later."),
                Unavailable::Database => {
                    (Kind::DatabaseUnavailable, "The database cannot process the request now. Retry later.")
                }
                Unavailable::ShuttingDown => (Kind::ShuttingDown, "This instance is shutting down. Retry the request."),
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
