//! JSON bodies: of limited size, parsed member by member, with all validation errors reported together. `members` declares
//! what they contain.

mod members;

use actix_web::{
    FromRequest, HttpRequest,
    dev::{Payload, RequestHead},
    http::header,
    web::{Bytes, BytesMut},
};
use futures_util::{StreamExt, future::LocalBoxFuture};
use mime::Mime;

use self::members::Document;
pub(super) use self::members::{MemberValue, Members, RequestBody, member, object, pointer, request_body};
use super::{
    problem::{FieldError, Kind, Problem},
    request_info::RequestInfo,
};
use crate::domain::ValidationError;

/// The maximum length of a body in bytes. A user takes less than two kilobytes.
const MAX_LENGTH: usize = 64 * 1024;

const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";

/// A valid JSON body.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: RequestBody + 'static> FromRequest for JsonBody<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = parsed(request.clone(), payload.take(), &[JSON]);
        Box::pin(async { body.await.map(Self) })
    }
}

/// A valid JSON Merge Patch (RFC 7396).
pub(super) struct MergePatch<T>(pub(super) T);

impl<T: RequestBody + 'static> FromRequest for MergePatch<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = parsed(request.clone(), payload.take(), &[MERGE_PATCH, JSON]);
        Box::pin(async { body.await.map(Self) })
    }
}

async fn parsed<T: RequestBody>(request: HttpRequest, payload: Payload, allowed: &[&str]) -> Result<T, Problem> {
    media_type(request.head(), allowed)?;
    let bytes = read(&request, payload).await?;
    parse(&bytes)
}

/// Returns which of these media types the body has.
pub(super) fn media_type<'a>(request: &RequestHead, allowed: &[&'a str]) -> Result<&'a str, Problem> {
    let headers = request.headers();
    let refuse = || Err(Problem::unsupported_media_type(&request.method, allowed));
    let mime: Option<Mime> =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).and_then(|value| value.parse().ok());
    let Some(mime) = mime else { return refuse() };
    let Some(allowed) = allowed.iter().find(|allowed| **allowed == mime.essence_str()) else { return refuse() };
    if mime.get_param(mime::CHARSET).is_some_and(|charset| charset != mime::UTF_8) {
        return refuse();
    }
    let encoded = |value: &header::HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get(header::CONTENT_ENCODING).is_some_and(encoded) {
        return refuse();
    }
    Ok(allowed)
}

/// Reads a body of limited size.
pub(super) async fn read(request: &HttpRequest, mut payload: Payload) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(Kind::PayloadTooLarge, format!("The body must be at most {MAX_LENGTH} bytes."));
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<usize>().ok());
    if announced.is_some_and(|length| length > MAX_LENGTH) {
        return Err(too_large());
    }
    // If the request times out in the meantime, this decides between 408 and 503.
    let info = RequestInfo::of(request);
    let set_receiving = |is: bool| info.iter().for_each(|info| info.is_receiving.set(is));
    set_receiving(true);
    let mut bytes = BytesMut::with_capacity(announced.unwrap_or(0));
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| Problem::new(Kind::MalformedJson, "The request body is incomplete."))?;
        if bytes.len() + chunk.len() > MAX_LENGTH {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    set_receiving(false);
    Ok(bytes.freeze())
}

fn parse<T: RequestBody>(bytes: &[u8]) -> Result<T, Problem> {
    let mut members = match serde_json::from_slice::<Document>(bytes) {
        Ok(Document::Object(members)) => members,
        Ok(Document::Other) => {
            let error = ValidationError::new("wrong-type", "must be a JSON object");
            return Err(invalid(vec![FieldError::at_member(String::new(), error)]));
        }
        Err(error) => {
            let (line, column) = (error.line(), error.column());
            return Err(Problem::new(Kind::MalformedJson, format!("Invalid JSON at line {line}, column {column}.")));
        }
    };
    let value = T::take(&mut members);
    match (value, members.finish()) {
        (Some(value), errors) if errors.is_empty() => Ok(value),
        (_, errors) => Err(invalid(errors)),
    }
}

fn invalid(errors: Vec<FieldError>) -> Problem {
    let detail = match errors.len() {
        1 => "1 error was found; see `errors`.".to_owned(),
        count => format!("{count} errors were found; see `errors`."),
    };
    Problem::with_errors(Kind::ValidationFailed, detail, errors)
}
