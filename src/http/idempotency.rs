//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07): a request that can be retried and is executed
//! once.

use std::{
    future::{Ready, ready},
    time::Duration,
};

use actix_web::{
    FromRequest, HttpRequest, HttpResponse,
    body::MessageBody,
    dev::Payload,
    http::{
        StatusCode,
        header::{self, HeaderMap, HeaderName},
    },
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use utoipa::{
    IntoParams,
    openapi::{
        ObjectBuilder, Required, Type,
        path::{Parameter, ParameterBuilder, ParameterIn},
    },
};

use super::{
    HttpOptions,
    problem::{Kind, Problem},
    request_info::RequestInfo,
};
use crate::service::{Draft, KeyedRequest, KeyedResponse};

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const MAX_KEY_LENGTH: usize = 255;

/// The idempotency key of a request, hashed, with its retention; `None` if the request has none.
pub(super) struct IdempotencyKey(Option<([u8; 32], Duration)>);

impl FromRequest for IdempotencyKey {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(HttpOptions { idempotency_retention, .. }) = request.app_data::<HttpOptions>() else {
            return ready(Err(Problem::internal("HttpOptions are not in the app data")));
        };
        ready(match parse(request.headers()) {
            Ok(None) => Ok(Self(None)),
            Ok(Some(key)) => Ok(Self(Some((scoped(request, &key), *idempotency_retention)))),
            Err(()) => Err(Problem::new(
                Kind::InvalidIdempotencyKey,
                format!("Send one key of 1 to {MAX_KEY_LENGTH} ASCII characters, preferably a UUID in double quotes."),
            )),
        })
    }
}

impl IntoParams for IdempotencyKey {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let description = "A key that the client generates, preferably a UUID in double quotes, such as \
                           `\"8e03978e-40d5-43e8-bc93-6894a57f9324\"`. The response is stored under it, for a day \
                           unless the operator configures otherwise. In a bulk request, rows that were processed under \
                           it are not processed again and have the same lines.";
        let schema = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(r#"^("([ !#-\[\]-~]|\\["\\]){1,255}"|[!#-+\--:<-\[\]-~]{1,255})$"#));
        let parameter = ParameterBuilder::new().name("Idempotency-Key").parameter_in(ParameterIn::Header);
        vec![parameter.required(Required::False).description(Some(description)).schema(Some(schema)).build()]
    }
}

impl IdempotencyKey {
    /// Returns the key and the fingerprint of a creation, if the request has a key.
    pub(super) fn keyed_request(&self, draft: &Draft) -> Option<KeyedRequest> {
        let (key, retention) = self.0?;
        let fingerprint = hash(&[draft.name.as_str().as_bytes(), draft.email.as_str().as_bytes()]);
        Some(KeyedRequest { key, fingerprint, retention })
    }

    /// Returns the key of a bulk request, if it has one. Its chunks get fingerprints as they are read.
    pub(super) fn keyed_bulk_request(&self) -> Option<KeyedRequest> {
        let (key, retention) = self.0?;
        Some(KeyedRequest { key, fingerprint: [0; 32], retention })
    }
}

/// Returns the hash of a key within its scope: the caller and the route. A caller that something in front of the service
/// has authenticated is known by its credentials only.
fn scoped(request: &HttpRequest, key: &str) -> [u8; 32] {
    let actor = RequestInfo::of(request).and_then(|info| info.actor.get().map(ToString::to_string));
    let credentials = || request.headers().get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    let client = actor.as_ref().map_or_else(credentials, |actor| actor.as_bytes());
    // The route and not the path, which can be written in several ways.
    let route = request.match_pattern().unwrap_or_else(|| request.path().to_owned());
    hash(&[request.method().as_str().as_bytes(), route.as_bytes(), client, key.as_bytes()])
}

/// Parses the key: a string as a structured field (RFC 9651) or, as many clients send it, without quotes.
fn parse(headers: &HeaderMap) -> Result<Option<String>, ()> {
    let mut lines = headers.get_all(IDEMPOTENCY_KEY);
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(());
    }
    let text = line.to_str().map_err(|_| ())?.trim();
    let key = match text.strip_prefix('"') {
        Some(rest) => unquote(rest).ok_or(())?,
        None if text.contains(['"', '\\', ' ', ',', ';', '\t']) => return Err(()),
        None => text.to_owned(),
    };
    let is_valid = (1..=MAX_KEY_LENGTH).contains(&key.len()) && key.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if is_valid { Ok(Some(key)) } else { Err(()) }
}

/// Returns the string before the closing quote, which must be the last character.
fn unquote(text: &str) -> Option<String> {
    let mut key = String::with_capacity(text.len());
    let mut characters = text.chars();
    loop {
        match characters.next()? {
            '"' => return characters.next().is_none().then_some(key),
            '\\' => match characters.next()? {
                escaped @ ('"' | '\\') => key.push(escaped),
                _ => return None,
            },
            character => key.push(character),
        }
    }
}

/// Returns a hash of several parts, which depends on where the parts begin.
fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// A response as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredResponse {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

/// Serializes a response, so that it can be replayed byte for byte.
pub(super) fn serialize(response: HttpResponse) -> Vec<u8> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = response.headers().iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect();
    let status = response.status().as_u16();
    // Stored responses are never streamed.
    let body = response.into_body().try_into_bytes().unwrap_or_default();
    // Strings and numbers always serialize.
    serde_json::to_vec(&StoredResponse { status, headers, body: text(&body) }).unwrap_or_default()
}

/// Deserializes a response.
pub(super) fn deserialize(response: &KeyedResponse) -> Result<HttpResponse, Problem> {
    let is_replay = matches!(response, KeyedResponse::Replayed(_));
    let (KeyedResponse::Fresh(bytes) | KeyedResponse::Replayed(bytes)) = response;
    let stored: StoredResponse = serde_json::from_slice(bytes).map_err(Problem::internal)?;
    let mut response = HttpResponse::build(StatusCode::from_u16(stored.status).map_err(Problem::internal)?);
    for (name, value) in stored.headers {
        response.insert_header((name, value));
    }
    if is_replay {
        response.insert_header((REPLAYED, "true"));
    }
    Ok(response.body(stored.body))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use proptest::prelude::*;

    use super::*;

    fn key(value: &str) -> Result<Option<String>, ()> {
        parse(TestRequest::default().insert_header((IDEMPOTENCY_KEY, value)).to_http_request().headers())
    }

    #[test]
    fn keys_are_parsed_with_and_without_quotes() {
        let parsed = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(key("\"8e03978e-40d5\""), parsed("8e03978e-40d5"));
        assert_eq!(key("8e03978e-40d5"), parsed("8e03978e-40d5"));
        assert_eq!(key(r#""a \"b\" \\ c""#), parsed(r#"a "b" \ c"#));
        assert_eq!(key(&"k".repeat(255)), parsed(&"k".repeat(255)));
        assert_eq!(parse(TestRequest::default().to_http_request().headers()), Ok(None));
        for invalid in ["", "\"\"", "\"a", "a\"", "\"a\"b", "\"a\";x", "a b", "a,b", r#""a\b""#, "ä", &"k".repeat(256)]
        {
            assert_eq!(key(invalid), Err(()), "{invalid}");
        }
        let twice = TestRequest::default().append_header((IDEMPOTENCY_KEY, "a")).append_header((IDEMPOTENCY_KEY, "a"));
        assert_eq!(parse(twice.to_http_request().headers()), Err(()));
    }

    #[test]
    fn a_key_belongs_to_a_client_and_a_route() {
        let of = |request: TestRequest| scoped(&request.to_http_request(), "k");
        let key = of(TestRequest::post().uri("/users"));
        assert_eq!(key, of(TestRequest::post().uri("/users?")));
        assert_ne!(key, of(TestRequest::post().uri("/users/bulk")));
        assert_ne!(key, of(TestRequest::post().uri("/users").insert_header(("authorization", "Bearer x"))));
    }

    #[test]
    fn the_hash_depends_on_where_the_parts_begin() {
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
    }

    #[test]
    fn a_stored_response_is_replayed() {
        let response = || HttpResponse::Created().insert_header((header::ETAG, "\"1\"")).body("ä");
        let replayed = deserialize(&KeyedResponse::Replayed(serialize(response()))).unwrap();
        assert_eq!((replayed.status(), replayed.headers().len()), (StatusCode::CREATED, 2));
        assert_eq!(replayed.headers().get(header::ETAG).unwrap(), "\"1\"");
        assert_eq!(replayed.headers().get(REPLAYED).unwrap(), "true");
        assert_eq!(replayed.into_body().try_into_bytes().unwrap(), "ä".as_bytes());
        let fresh = deserialize(&KeyedResponse::Fresh(serialize(response()))).unwrap();
        assert!(!fresh.headers().contains_key(REPLAYED));
    }

    proptest! {
        #[test]
        fn any_quoted_key_is_parsed(text in "[ -~]{1,255}") {
            let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            prop_assert_eq!(unquote(&quoted[1..]), Some(text));
        }

        #[test]
        fn no_header_panics(text in "[ -~\\t]{0,300}") {
            let _ = key(&text);
        }
    }
}
