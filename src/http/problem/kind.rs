//! The kinds of problems: statuses, codes and titles.

use actix_web::http::StatusCode;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

/// The kind of a problem. Clients rely on its code, which must not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Kind {
    /// The request is not valid HTTP/1.1.
    MalformedRequest,
    /// The head of the request did not arrive in time.
    HeadTimeout,
    /// The head of the request is too large.
    HeadTooLarge,
    /// The body is not valid JSON.
    MalformedJson,
    /// The body is not valid CSV.
    MalformedCsv,
    /// A query parameter is unknown, repeated or invalid.
    InvalidQuery,
    /// The cursor was altered, or belongs to another query.
    InvalidCursor,
    /// The id in the path is not a UUID.
    InvalidId,
    /// The request has no credentials.
    CredentialsRequired,
    /// The credentials are malformed, unknown, revoked or expired.
    CredentialsInvalid,
    /// The caller lacks a scope.
    ScopeMissing,
    /// The caller has made too many requests.
    RateLimited,
    /// The page that opens a WebSocket has another origin.
    OriginNotAllowed,
    /// The path does not exist.
    NotFound,
    /// The user does not exist.
    UserNotFound,
    /// The API key does not exist.
    KeyNotFound,
    /// The events after the position are no longer available.
    PositionGone,
    /// The path does not support the method.
    MethodNotAllowed,
    /// The request is for a host that this service does not accept.
    HostUnknown,
    /// The idempotency key is not valid.
    InvalidIdempotencyKey,
    /// The body did not arrive in time.
    BodyTimeout,
    /// Another user has the email address.
    EmailTaken,
    /// Another request changed the user at the same time.
    VersionConflict,
    /// The API key has been revoked or rotated, or has expired.
    KeyInactive,
    /// The first request with this key is still in progress.
    IdempotencyKeyInUse,
    /// The user is at another version than the request requires.
    PreconditionFailed,
    /// The request has no `If-Match`, which the operator requires.
    PreconditionRequired,
    /// The body is too large.
    PayloadTooLarge,
    /// The media type of the body is not supported.
    UnsupportedMediaType,
    /// The client accepts none of the available media types.
    NotAcceptable,
    /// The request does not open a WebSocket.
    UpgradeRequired,
    /// The key or the protocol of a WebSocket is not valid.
    InvalidHandshake,
    /// The body is well-formed, but its content is not valid.
    ValidationFailed,
    /// The key was already used for a different request.
    IdempotencyKeyReused,
    /// An unexpected error of the service.
    Internal,
    /// No database connection became available in time.
    PoolExhausted,
    /// The database is unreachable, or cannot process the request now.
    DatabaseUnavailable,
    /// The signing keys of access tokens have not been read yet.
    IdentityProviderUnavailable,
    /// The service is shutting down.
    ShuttingDown,
    /// The response was not ready in time.
    RequestTimeout,
}

impl Kind {
    const ALL: [Self; 40] = [
        Self::MalformedRequest,
        Self::HeadTimeout,
        Self::HeadTooLarge,
        Self::MalformedJson,
        Self::MalformedCsv,
        Self::InvalidQuery,
        Self::InvalidCursor,
        Self::InvalidId,
        Self::CredentialsRequired,
        Self::CredentialsInvalid,
        Self::ScopeMissing,
        Self::RateLimited,
        Self::OriginNotAllowed,
        Self::NotFound,
        Self::UserNotFound,
        Self::KeyNotFound,
        Self::PositionGone,
        Self::MethodNotAllowed,
        Self::HostUnknown,
        Self::InvalidIdempotencyKey,
        Self::BodyTimeout,
        Self::EmailTaken,
        Self::VersionConflict,
        Self::KeyInactive,
        Self::IdempotencyKeyInUse,
        Self::PreconditionFailed,
        Self::PreconditionRequired,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::NotAcceptable,
        Self::UpgradeRequired,
        Self::InvalidHandshake,
        Self::ValidationFailed,
        Self::IdempotencyKeyReused,
        Self::Internal,
        Self::PoolExhausted,
        Self::DatabaseUnavailable,
        Self::IdentityProviderUnavailable,
        Self::ShuttingDown,
        Self::RequestTimeout,
    ];

    /// Returns the status, code and title.
    pub(in crate::http) const fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::MalformedRequest => (StatusCode::BAD_REQUEST, "malformed-request", "Malformed request"),
            Self::HeadTimeout => (StatusCode::REQUEST_TIMEOUT, "head-timeout", "Request head timeout"),
            Self::HeadTooLarge => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large", "Request head too large")
            }
            Self::MalformedJson => (StatusCode::BAD_REQUEST, "malformed-json", "Malformed JSON"),
            Self::MalformedCsv => (StatusCode::BAD_REQUEST, "malformed-csv", "Malformed CSV"),
            Self::InvalidQuery => (StatusCode::BAD_REQUEST, "invalid-query", "Invalid query"),
            Self::InvalidCursor => (StatusCode::BAD_REQUEST, "invalid-cursor", "Invalid cursor"),
            Self::InvalidId => (StatusCode::BAD_REQUEST, "invalid-id", "Invalid id"),
            Self::InvalidIdempotencyKey => {
                (StatusCode::BAD_REQUEST, "invalid-idempotency-key", "Invalid idempotency key")
            }
            Self::CredentialsRequired => (StatusCode::UNAUTHORIZED, "credentials-required", "Credentials required"),
            Self::CredentialsInvalid => (StatusCode::UNAUTHORIZED, "credentials-invalid", "Invalid credentials"),
            Self::ScopeMissing => (StatusCode::FORBIDDEN, "scope-missing", "Scope missing"),
            Self::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "rate-limited", "Too many requests"),
            Self::OriginNotAllowed => (StatusCode::FORBIDDEN, "origin-not-allowed", "Origin not allowed"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "Not found"),
            Self::UserNotFound => (StatusCode::NOT_FOUND, "user-not-found", "User not found"),
            Self::KeyNotFound => (StatusCode::NOT_FOUND, "key-not-found", "API key not found"),
            Self::PositionGone => (StatusCode::GONE, "position-gone", "Position gone"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed"),
            Self::HostUnknown => (StatusCode::MISDIRECTED_REQUEST, "host-unknown", "Misdirected request"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body-timeout", "Request body timeout"),
            Self::EmailTaken => (StatusCode::CONFLICT, "email-taken", "Email already in use"),
            Self::VersionConflict => (StatusCode::CONFLICT, "version-conflict", "Version conflict"),
            Self::KeyInactive => (StatusCode::CONFLICT, "key-inactive", "API key inactive"),
            Self::IdempotencyKeyInUse => (StatusCode::CONFLICT, "idempotency-key-in-use", "Idempotency key in use"),
            Self::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "precondition-failed", "Precondition failed"),
            Self::PreconditionRequired => {
                (StatusCode::PRECONDITION_REQUIRED, "precondition-required", "Precondition required")
            }
            Self::PayloadTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "payload-too-large", "Payload too large"),
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "Unsupported media type")
            }
            Self::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, "not-acceptable", "Not acceptable"),
            Self::UpgradeRequired => (StatusCode::UPGRADE_REQUIRED, "upgrade-required", "Upgrade required"),
            Self::InvalidHandshake => (StatusCode::BAD_REQUEST, "invalid-handshake", "Invalid handshake"),
            Self::ValidationFailed => (StatusCode::UNPROCESSABLE_ENTITY, "validation-failed", "Validation failed"),
            Self::IdempotencyKeyReused => {
                (StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused", "Idempotency key reused")
            }
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal server error"),
            Self::PoolExhausted => (StatusCode::SERVICE_UNAVAILABLE, "pool-exhausted", "Service overloaded"),
            Self::DatabaseUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "database-unavailable", "Database unavailable")
            }
            Self::IdentityProviderUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "identity-provider-unavailable", "Identity provider unavailable")
            }
            Self::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "shutting-down", "Service shutting down"),
            Self::RequestTimeout => (StatusCode::SERVICE_UNAVAILABLE, "request-timeout", "Request timeout"),
        }
    }
}

/// The OpenAPI schema of the codes.
pub(in crate::http) struct ProblemCode;

impl PartialSchema for ProblemCode {
    fn schema() -> RefOr<Schema> {
        let codes = Kind::ALL.map(|kind| kind.parts().1);
        let description = "The kind of the problem, for programs";
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(codes)).description(Some(description)).into()
    }
}

impl ToSchema for ProblemCode {}
