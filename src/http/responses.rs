//! The error responses of the OpenAPI document, grouped by the input of a route.

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use utoipa::{
    IntoResponses,
    openapi::{
        ContentBuilder, Ref, RefOr, Response, ResponseBuilder, example::ExampleBuilder, header::HeaderBuilder,
        schema::ObjectBuilder, schema::Type,
    },
};

use super::{
    media_types::NDJSON,
    problem::{Kind, Problem},
};

/// For routes with a query string.
pub(super) struct QueryProblems;
/// For routes with an id in the path.
pub(super) struct IdProblems;
/// For routes that delete a user.
pub(super) struct DeleteProblems;
/// For routes that create a user.
pub(super) struct CreateProblems;
/// For the bulk route.
pub(super) struct BulkProblems;
/// For the export.
pub(super) struct ExportProblems;
/// For routes that exist only with a feed.
pub(super) struct FeedDisabledProblems;
/// For the feed of changes.
pub(super) struct FeedProblems;
/// For messages to a user.
pub(super) struct MessageProblems;
/// For tickets.
pub(super) struct TicketProblems;
/// For the WebSocket.
pub(super) struct WebSocketProblems;
/// For routes that change a user.
pub(super) struct ChangeProblems;
/// For conditional reads.
pub(super) struct ReadConditionProblems;
/// For conditional changes.
pub(super) struct ChangeConditionProblems;
/// For routes that require a scope.
pub(super) struct AccessProblems;
/// For routes with a body that describes an API key.
pub(super) struct KeyBodyProblems;
/// For routes with the id of an API key in the path.
pub(super) struct KeyIdProblems;
/// For routes that replace an API key.
pub(super) struct KeyRotationProblems;
/// For routes that do not use the database.
pub(super) struct HostProblems;
/// For routes that use the database.
pub(super) struct ServerProblems;

type Responses = BTreeMap<String, RefOr<Response>>;

const BODY: [Kind; 5] =
    [Kind::MalformedJson, Kind::BodyTimeout, Kind::PayloadTooLarge, Kind::UnsupportedMediaType, Kind::ValidationFailed];

impl IntoResponses for QueryProblems {
    fn responses() -> Responses {
        responses(&[Kind::InvalidQuery, Kind::InvalidCursor])
    }
}

impl IntoResponses for IdProblems {
    fn responses() -> Responses {
        responses(&[Kind::InvalidId, Kind::UserNotFound])
    }
}

impl IntoResponses for DeleteProblems {
    fn responses() -> Responses {
        responses(&[Kind::InvalidId, Kind::UserNotFound, Kind::VersionConflict])
    }
}

impl IntoResponses for CreateProblems {
    fn responses() -> Responses {
        let others = [
            Kind::InvalidIdempotencyKey,
            Kind::EmailTaken,
            Kind::IdempotencyKeyInUse,
            Kind::PreconditionFailed,
            Kind::IdempotencyKeyReused,
        ];
        responses(&[&BODY[..], &others].concat())
    }
}

impl IntoResponses for BulkProblems {
    fn responses() -> Responses {
        responses(&[
            Kind::InvalidQuery,
            Kind::InvalidIdempotencyKey,
            Kind::MalformedJson,
            Kind::MalformedCsv,
            Kind::BodyTimeout,
            Kind::IdempotencyKeyInUse,
            Kind::PreconditionFailed,
            Kind::PayloadTooLarge,
            Kind::UnsupportedMediaType,
            Kind::ValidationFailed,
            Kind::IdempotencyKeyReused,
            Kind::PreconditionRequired,
        ])
        .into_iter()
        .map(|(status, response)| match response {
            // With `atomic=true` the lines show which rows were refused.
            RefOr::T(mut response) if status == "422" => {
                response.content.insert(NDJSON.to_owned(), RefOr::T(ContentBuilder::new().build()));
                (status, RefOr::T(response))
            }
            response => (status, response),
        })
        .collect()
    }
}

impl IntoResponses for ExportProblems {
    fn responses() -> Responses {
        responses(&[Kind::InvalidQuery, Kind::InvalidCursor, Kind::NotAcceptable])
    }
}

impl IntoResponses for FeedDisabledProblems {
    fn responses() -> Responses {
        responses(&[Kind::NotFound])
    }
}

impl IntoResponses for FeedProblems {
    fn responses() -> Responses {
        responses(&[Kind::InvalidQuery, Kind::NotFound, Kind::NotAcceptable, Kind::PositionGone])
    }
}

impl IntoResponses for MessageProblems {
    fn responses() -> Responses {
        let others = [Kind::InvalidId, Kind::UserNotFound, Kind::NotFound];
        responses(&[&BODY[..], &others].concat())
    }
}

impl IntoResponses for TicketProblems {
    fn responses() -> Responses {
        responses(&[&BODY[..], &[Kind::NotFound]].concat())
    }
}

impl IntoResponses for WebSocketProblems {
    fn responses() -> Responses {
        // With the scope, because one response describes all problems of a status.
        responses(&[
            Kind::InvalidHandshake,
            Kind::OriginNotAllowed,
            Kind::ScopeMissing,
            Kind::NotFound,
            Kind::UpgradeRequired,
        ])
    }
}

impl IntoResponses for ChangeProblems {
    fn responses() -> Responses {
        let others = [Kind::InvalidId, Kind::UserNotFound, Kind::EmailTaken, Kind::VersionConflict];
        responses(&[&BODY[..], &others].concat())
    }
}

impl IntoResponses for ReadConditionProblems {
    fn responses() -> Responses {
        responses(&[Kind::PreconditionFailed])
    }
}

impl IntoResponses for ChangeConditionProblems {
    fn responses() -> Responses {
        responses(&[Kind::PreconditionFailed, Kind::PreconditionRequired])
    }
}

impl IntoResponses for AccessProblems {
    fn responses() -> Responses {
        responses(&[
            Kind::CredentialsRequired,
            Kind::CredentialsInvalid,
            Kind::ScopeMissing,
            Kind::RateLimited,
            Kind::DatabaseUnavailable,
            Kind::IdentityProviderUnavailable,
        ])
    }
}

impl IntoResponses for KeyBodyProblems {
    fn responses() -> Responses {
        responses(&BODY)
    }
}

impl IntoResponses for KeyIdProblems {
    fn responses() -> Responses {
        responses(&[Kind::InvalidId, Kind::KeyNotFound])
    }
}

impl IntoResponses for KeyRotationProblems {
    fn responses() -> Responses {
        responses(&[Kind::KeyInactive])
    }
}

impl IntoResponses for HostProblems {
    fn responses() -> Responses {
        responses(&[Kind::HostUnknown])
    }
}

impl IntoResponses for ServerProblems {
    fn responses() -> Responses {
        responses(&[
            Kind::HostUnknown,
            Kind::Internal,
            Kind::PoolExhausted,
            Kind::DatabaseUnavailable,
            Kind::ShuttingDown,
            Kind::RequestTimeout,
        ])
    }
}

/// Returns one response per status.
fn responses(kinds: &[Kind]) -> Responses {
    let mut groups: BTreeMap<StatusCode, Vec<Kind>> = BTreeMap::new();
    for kind in kinds {
        groups.entry(kind.parts().0).or_default().push(*kind);
    }
    groups
        .into_iter()
        .filter_map(|(status, kinds)| {
            let (_, _, title) = kinds.first()?.parts();
            let examples = kinds.iter().map(|kind| {
                let (_, code, title) = kind.parts();
                let problem = Problem::new(*kind, title);
                // Strings and numbers always serialize.
                let body = serde_json::to_value(problem.to_body(None)).unwrap_or_default();
                (code, ExampleBuilder::new().summary(title).value(Some(body)))
            });
            let content = ContentBuilder::new()
                .schema(Some(Ref::from_schema_name("Problem")))
                .examples_from_iter(examples)
                .build();
            let mut response = ResponseBuilder::new().description(title).content(Problem::MEDIA_TYPE, content);
            let header = if [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&status)
                || kinds.contains(&Kind::IdempotencyKeyInUse)
            {
                Some(("Retry-After", Type::Integer, "Seconds to wait before a retry"))
            } else if status == StatusCode::UNAUTHORIZED || kinds.contains(&Kind::ScopeMissing) {
                Some(("WWW-Authenticate", Type::String, "How to authenticate (RFC 6750)"))
            } else if kinds.contains(&Kind::PositionGone) {
                Some((
                    "Feed-Position",
                    Type::String,
                    "The position to continue after, once the state has been read again",
                ))
            } else if kinds.contains(&Kind::PreconditionFailed) {
                Some(("ETag", Type::String, "The current version of the user"))
            } else {
                None
            };
            if let Some((name, type_, description)) = header {
                let schema = ObjectBuilder::new().schema_type(type_);
                let header = HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build();
                response = response.header(name, header);
            }
            Some((status.as_u16().to_string(), response.build().into()))
        })
        .collect()
}
