//! The error answers as the OpenAPI document shows them, grouped by what a route takes in.

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use serde_json::json;
use utoipa::{
    IntoResponses,
    openapi::{
        ContentBuilder, Ref, RefOr, Response, ResponseBuilder, header::HeaderBuilder, schema::ObjectBuilder,
        schema::Type,
    },
};

use super::{bulk::NDJSON, problem::Kind};

/// Of routes with a query.
pub(super) struct QueryProblems;
/// Of routes whose path holds an id.
pub(super) struct IdProblems;
/// Of routes that delete what an id names.
pub(super) struct RemoveProblems;
/// Of routes that create something from a body.
pub(super) struct CreateProblems;
/// Of the route that writes many.
pub(super) struct BulkProblems;
/// Of the route that gives many.
pub(super) struct ExportProblems;
/// Of routes that change what an id names by a body.
pub(super) struct ChangeProblems;
/// Of routes that read what an id names, if it is so.
pub(super) struct ReadConditionProblems;
/// Of routes that change what an id names, if it is so.
pub(super) struct ChangeConditionProblems;
/// Of routes that reach nothing but this process.
pub(super) struct HostProblems;
/// Of all routes that reach the database.
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

impl IntoResponses for RemoveProblems {
    fn responses() -> Responses {
        responses(&[Kind::InvalidId, Kind::UserNotFound, Kind::VersionConflict])
    }
}

impl IntoResponses for CreateProblems {
    fn responses() -> Responses {
        let own = [
            Kind::InvalidIdempotencyKey,
            Kind::EmailTaken,
            Kind::IdempotencyKeyInUse,
            Kind::PreconditionFailed,
            Kind::IdempotencyKeyReused,
        ];
        responses(&[&BODY[..], &own].concat())
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
            // All or none: the lines tell because of which rows it is none.
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

impl IntoResponses for ChangeProblems {
    fn responses() -> Responses {
        let own = [Kind::InvalidId, Kind::UserNotFound, Kind::EmailTaken, Kind::VersionConflict];
        responses(&[&BODY[..], &own].concat())
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

/// One answer for each status.
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
                let (status, code, title) = kind.parts();
                let example = utoipa::openapi::example::ExampleBuilder::new().summary(title).value(Some(json!({
                    "type": format!("urn:problem-type:users-api:{code}"),
                    "title": title,
                    "status": status.as_u16(),
                    "detail": title,
                    "instance": "/users",
                    "code": code,
                })));
                (code, example)
            });
            let content = ContentBuilder::new()
                .schema(Some(Ref::from_schema_name("Problem")))
                .examples_from_iter(examples)
                .build();
            let mut response = ResponseBuilder::new().description(title).content("application/problem+json", content);
            let own = if status == StatusCode::SERVICE_UNAVAILABLE || kinds.contains(&Kind::IdempotencyKeyInUse) {
                Some(("Retry-After", Type::Integer, "Seconds to wait before the next try"))
            } else if kinds.contains(&Kind::PreconditionFailed) {
                Some(("ETag", Type::String, "The version that the user is at"))
            } else {
                None
            };
            if let Some((name, kind, description)) = own {
                let schema = ObjectBuilder::new().schema_type(kind);
                let header = HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build();
                response = response.header(name, header);
            }
            Some((status.as_u16().to_string(), response.build().into()))
        })
        .collect()
}
