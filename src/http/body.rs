//! JSON bodies: of limited size, parsed member by member, with all validation errors reported together.

use std::fmt;

use actix_web::{
    FromRequest, HttpRequest,
    dev::{Payload, RequestHead},
    http::header,
    web::{Bytes, BytesMut},
};
use futures_util::{StreamExt, future::LocalBoxFuture};
use mime::Mime;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;

use super::{
    problem::{FieldError, Kind, Problem},
    request_info::RequestInfo,
};
use crate::domain::ValidationError;

/// The maximum length of a body in bytes. A user takes less than two kilobytes.
const MAX_LENGTH: usize = 64 * 1024;

/// A type that is parsed from the members of a JSON object.
pub(super) trait FromMembers: Sized {
    /// The allowed media types of the body.
    const MEDIA_TYPES: &'static [&'static str];

    /// Takes its members. Errors are collected in `members`; `None` only if there is one.
    fn take(members: &mut Members) -> Option<Self>;
}

/// A valid body.
pub(super) struct Valid<T>(pub(super) T);

impl<T: FromMembers + 'static> FromRequest for Valid<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        let payload = payload.take();
        Box::pin(async move {
            media_type(request.head(), T::MEDIA_TYPES)?;
            let bytes = read(&request, payload).await?;
            parse(&bytes).map(Valid)
        })
    }
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

fn parse<T: FromMembers>(bytes: &[u8]) -> Result<T, Problem> {
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

/// The members of an object that have not been taken yet, and the errors found so far.
pub(super) struct Members {
    remaining: Vec<(String, Value)>,
    errors: Vec<FieldError>,
}

impl Members {
    /// Takes a required string.
    pub(super) fn required<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, ValidationError>,
    ) -> Option<T> {
        let Some(value) = self.remove(name) else {
            self.add_error(name, ValidationError::new("required", "is required"));
            return None;
        };
        self.text(name, &value, parse)
    }

    /// Takes an optional string. `null` is refused: in a merge patch it removes a member, and no member can be removed.
    pub(super) fn optional<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, ValidationError>,
    ) -> Option<T> {
        let value = self.remove(name)?;
        self.text(name, &value, parse)
    }

    /// Takes a required value of any type.
    pub(super) fn required_value<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&Value) -> Result<T, ValidationError>,
    ) -> Option<T> {
        let Some(value) = self.remove(name) else {
            self.add_error(name, ValidationError::new("required", "is required"));
            return None;
        };
        parse(&value).map_err(|error| self.add_error(name, error)).ok()
    }

    fn text<T>(
        &mut self,
        name: &str,
        value: &Value,
        parse: impl FnOnce(&str) -> Result<T, ValidationError>,
    ) -> Option<T> {
        let parsed = match value {
            Value::String(text) => parse(text),
            Value::Null => Err(ValidationError::new("required", "must not be null")),
            _ => Err(ValidationError::new("wrong-type", "must be a string")),
        };
        parsed.map_err(|error| self.add_error(name, error)).ok()
    }

    fn remove(&mut self, name: &str) -> Option<Value> {
        let index = self.remaining.iter().position(|(member, _)| member == name)?;
        let (_, value) = self.remaining.remove(index);
        let before = self.remaining.len();
        self.remaining.retain(|(member, _)| member != name);
        if self.remaining.len() < before {
            self.add_error(name, ValidationError::new("duplicate-member", "must be given only once"));
        }
        Some(value)
    }

    fn add_error(&mut self, name: &str, error: ValidationError) {
        self.errors.push(FieldError::at_member(pointer(name), error));
    }

    /// Returns all errors. The members that were not taken are unknown.
    fn finish(mut self) -> Vec<FieldError> {
        for (name, _) in std::mem::take(&mut self.remaining) {
            self.add_error(&name, ValidationError::new("unknown-member", "unknown member"));
        }
        self.errors
    }
}

/// Returns the JSON Pointer (RFC 6901) of a member.
pub(super) fn pointer(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// A JSON document with all its members in order. `serde_json::Map` would drop duplicate members.
enum Document {
    Object(Members),
    Other,
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DocumentVisitor;

        impl<'de> Visitor<'de> for DocumentVisitor {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut remaining = Vec::new();
                while let Some(member) = map.next_entry()? {
                    remaining.push(member);
                }
                Ok(Document::Object(Members { remaining, errors: Vec::new() }))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Document, A::Error> {
                while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                Ok(Document::Other)
            }

            fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Document, E> {
                Ok(Document::Other)
            }

            fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Document, E> {
                Ok(Document::Other)
            }

            fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Document, E> {
                Ok(Document::Other)
            }

            fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Document, E> {
                Ok(Document::Other)
            }

            fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Document, E> {
                Ok(Document::Other)
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Document, E> {
                Ok(Document::Other)
            }
        }

        deserializer.deserialize_any(DocumentVisitor)
    }
}
