//! JSON bodies: read within bounds, understood member by member, every fault told at once.

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

/// Largest body, in bytes. A user takes less than two kilobytes.
pub(super) const LIMIT: usize = 64 * 1024;

/// Something that is read from the members of a JSON object.
pub(super) trait FromMembers: Sized {
    /// Media types that may carry it.
    const MEDIA_TYPES: &'static [&'static str];

    /// Takes what it needs; what is wrong is noted in `members`. `None` only if something is.
    fn take(members: &mut Members) -> Option<Self>;
}

/// A body that has been read and found right.
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
            understand(&bytes).map(Valid)
        })
    }
}

/// Which of these media types the body has.
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

async fn read(request: &HttpRequest, mut payload: Payload) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(Kind::PayloadTooLarge, format!("A body has at most {LIMIT} bytes."));
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<usize>().ok());
    if announced.is_some_and(|length| length > LIMIT) {
        return Err(too_large());
    }
    // Whoever ends the request before its time knows by this what it waited for.
    let info = RequestInfo::of(request);
    let arriving = |is: bool| info.iter().for_each(|info| info.arriving.set(is));
    arriving(true);
    let mut bytes = BytesMut::with_capacity(announced.unwrap_or(0));
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| Problem::new(Kind::MalformedJson, "The body ended before its end."))?;
        if bytes.len() + chunk.len() > LIMIT {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    arriving(false);
    Ok(bytes.freeze())
}

fn understand<T: FromMembers>(bytes: &[u8]) -> Result<T, Problem> {
    let mut members = match serde_json::from_slice::<Document>(bytes) {
        Ok(Document::Object(members)) => members,
        Ok(Document::Other) => {
            let fault = ValidationError::new("wrong-type", "the body must be a JSON object");
            return Err(invalid(vec![FieldError::at_member(String::new(), fault)]));
        }
        Err(error) => {
            let (line, column) = (error.line(), error.column());
            return Err(Problem::new(Kind::MalformedJson, format!("Cannot be read at line {line}, column {column}.")));
        }
    };
    let taken = T::take(&mut members);
    match (taken, members.finish()) {
        (Some(value), errors) if errors.is_empty() => Ok(value),
        (_, errors) => Err(invalid(errors)),
    }
}

fn invalid(errors: Vec<FieldError>) -> Problem {
    let detail = match errors.len() {
        1 => "1 fault was found; see errors.".to_owned(),
        many => format!("{many} faults were found; see errors."),
    };
    Problem::with_errors(Kind::ValidationFailed, detail, errors)
}

/// The members of an object that have not been taken yet, and the faults found so far.
pub(super) struct Members {
    left: Vec<(String, Value)>,
    errors: Vec<FieldError>,
}

impl Members {
    /// Takes a text that must be there.
    pub(super) fn required<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, ValidationError>,
    ) -> Option<T> {
        let Some(value) = self.remove(name) else {
            self.note(name, ValidationError::new("required", format!("{name} is needed")));
            return None;
        };
        self.text(name, &value, parse)
    }

    /// Takes a text that may be left out. A merge patch removes a member by `null`; none of ours can be removed.
    pub(super) fn optional<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, ValidationError>,
    ) -> Option<T> {
        let value = self.remove(name)?;
        self.text(name, &value, parse)
    }

    fn text<T>(
        &mut self,
        name: &str,
        value: &Value,
        parse: impl FnOnce(&str) -> Result<T, ValidationError>,
    ) -> Option<T> {
        let parsed = match value {
            Value::String(text) => parse(text),
            Value::Null => Err(ValidationError::new("required", format!("{name} cannot be null"))),
            _ => Err(ValidationError::new("wrong-type", format!("{name} must be a string"))),
        };
        parsed.map_err(|fault| self.note(name, fault)).ok()
    }

    fn remove(&mut self, name: &str) -> Option<Value> {
        let place = self.left.iter().position(|(member, _)| member == name)?;
        let (_, value) = self.left.remove(place);
        let before = self.left.len();
        self.left.retain(|(member, _)| member != name);
        if self.left.len() < before {
            self.note(name, ValidationError::new("duplicate-member", format!("{name} is given more than once")));
        }
        Some(value)
    }

    fn note(&mut self, name: &str, fault: ValidationError) {
        self.errors.push(FieldError::at_member(pointer(name), fault));
    }

    /// Every fault, members that nobody took among them.
    fn finish(mut self) -> Vec<FieldError> {
        for (name, _) in std::mem::take(&mut self.left) {
            self.note(&name, ValidationError::new("unknown-member", "there is no such member"));
        }
        self.errors
    }
}

/// JSON Pointer to a member of the document (RFC 6901).
pub(super) fn pointer(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// A JSON document whose members are kept as they came: `serde_json`'s own map forgets that a member came twice.
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
                let mut left = Vec::new();
                while let Some(member) = map.next_entry()? {
                    left.push(member);
                }
                Ok(Document::Object(Members { left, errors: Vec::new() }))
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
