//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07): a request that may be sent again is done once.

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

use super::{
    HttpOptions,
    problem::{Kind, Problem},
};
use crate::service::{Draft, KeyedRequest, KeyedResponse};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const LONGEST_KEY: usize = 255;

/// The key of a request, if it has one.
pub(super) struct IdempotencyKey(Option<([u8; 32], Duration)>);

impl FromRequest for IdempotencyKey {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(&HttpOptions { keep_answers, .. }) = request.app_data() else {
            return ready(Err(Problem::internal("no HTTP options are wired")));
        };
        ready(match read(request.headers()) {
            Ok(None) => Ok(Self(None)),
            Ok(Some(key)) => Ok(Self(Some((scoped(request, &key), keep_answers)))),
            Err(()) => Err(Problem::new(
                Kind::InvalidIdempotencyKey,
                format!("Send one key of 1 to {LONGEST_KEY} ASCII characters, best a UUID in double quotes."),
            )),
        })
    }
}

impl IdempotencyKey {
    /// By what a creation is known, if it is to be done once.
    pub(super) fn keyed_request(&self, draft: &Draft) -> Option<KeyedRequest> {
        let (key, retention) = self.0?;
        let fingerprint = hash(&[draft.name.as_str().as_bytes(), draft.email.as_str().as_bytes()]);
        Some(KeyedRequest { key, fingerprint, retention })
    }

    /// By what work in bulk is known, if it is to be done once. What is asked for is not known before it is read.
    pub(super) fn of_bulk(&self) -> Option<KeyedRequest> {
        let (key, retention) = self.0?;
        Some(KeyedRequest { key, fingerprint: [0; 32], retention })
    }
}

/// A key is the caller's own: another one's, or that of another route, is another key.
fn scoped(request: &HttpRequest, key: &str) -> [u8; 32] {
    let caller = request.headers().get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    // The route, since one path can be written in several ways.
    let route = request.match_pattern().unwrap_or_else(|| request.path().to_owned());
    hash(&[request.method().as_str().as_bytes(), route.as_bytes(), caller, key.as_bytes()])
}

/// The key: a structured field's string (RFC 9651), or the same without its quotes, as many clients send it.
fn read(headers: &HeaderMap) -> Result<Option<String>, ()> {
    let mut lines = headers.get_all(IDEMPOTENCY_KEY);
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(());
    }
    let text = line.to_str().map_err(|_| ())?.trim();
    let key = match text.strip_prefix('"') {
        Some(rest) => unquoted(rest).ok_or(())?,
        None if text.contains(['"', '\\', ' ', ',', ';', '\t']) => return Err(()),
        None => text.to_owned(),
    };
    let is_sane = (1..=LONGEST_KEY).contains(&key.len()) && key.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if is_sane { Ok(Some(key)) } else { Err(()) }
}

/// What stands before the closing quote, which must be the end.
fn unquoted(text: &str) -> Option<String> {
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

/// A hash of several texts, which are not the same when they are cut elsewhere.
fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// An answer as it is kept.
#[derive(Serialize, Deserialize)]
struct Sealed {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

/// Seals an answer, so that it can be given again byte for byte.
pub(super) fn seal(response: HttpResponse) -> Vec<u8> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = response.headers().iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect();
    let status = response.status().as_u16();
    // Ours are never streamed.
    let body = response.into_body().try_into_bytes().unwrap_or_default();
    // Texts and numbers always serialize.
    serde_json::to_vec(&Sealed { status, headers, body: text(&body) }).unwrap_or_default()
}

/// Gives an answer that was sealed.
pub(super) fn open(answer: &KeyedResponse) -> Result<HttpResponse, Problem> {
    let (KeyedResponse::Fresh(bytes) | KeyedResponse::Replayed(bytes)) = answer;
    let sealed: Sealed = serde_json::from_slice(bytes).map_err(Problem::internal)?;
    let mut response = HttpResponse::build(StatusCode::from_u16(sealed.status).map_err(Problem::internal)?);
    for (name, value) in sealed.headers {
        response.insert_header((name, value));
    }
    if matches!(answer, KeyedResponse::Replayed(_)) {
        response.insert_header((REPLAYED, "true"));
    }
    Ok(response.body(sealed.body))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use proptest::prelude::*;

    use super::*;

    fn key(value: &str) -> Result<Option<String>, ()> {
        read(TestRequest::default().insert_header((IDEMPOTENCY_KEY, value)).to_http_request().headers())
    }

    #[test]
    fn keys_are_read_with_and_without_quotes() {
        let found = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(key("\"8e03978e-40d5\""), found("8e03978e-40d5"));
        assert_eq!(key("8e03978e-40d5"), found("8e03978e-40d5"));
        assert_eq!(key(r#""a \"b\" \\ c""#), found(r#"a "b" \ c"#));
        assert_eq!(key(&"k".repeat(255)), found(&"k".repeat(255)));
        assert_eq!(read(TestRequest::default().to_http_request().headers()), Ok(None));
        for wrong in ["", "\"\"", "\"a", "a\"", "\"a\"b", "\"a\";x", "a b", "a,b", r#""a\b""#, "ä", &"k".repeat(256)] {
            assert_eq!(key(wrong), Err(()), "{wrong}");
        }
        let twice = TestRequest::default().append_header((IDEMPOTENCY_KEY, "a")).append_header((IDEMPOTENCY_KEY, "a"));
        assert_eq!(read(twice.to_http_request().headers()), Err(()));
    }

    #[test]
    fn a_key_is_the_callers_own() {
        let of = |request: TestRequest| scoped(&request.to_http_request(), "k");
        let mine = of(TestRequest::post().uri("/users"));
        assert_eq!(mine, of(TestRequest::post().uri("/users?")));
        assert_ne!(mine, of(TestRequest::post().uri("/users/bulk")));
        assert_ne!(mine, of(TestRequest::post().uri("/users").insert_header(("authorization", "Bearer x"))));
    }

    #[test]
    fn texts_that_are_cut_elsewhere_are_others() {
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
    }

    #[test]
    fn what_was_sealed_is_given_again() {
        let response = || HttpResponse::Created().insert_header((header::ETAG, "\"1\"")).body("ä");
        let again = open(&KeyedResponse::Replayed(seal(response()))).unwrap();
        assert_eq!((again.status(), again.headers().len()), (StatusCode::CREATED, 2));
        assert_eq!(again.headers().get(header::ETAG).unwrap(), "\"1\"");
        assert_eq!(again.headers().get(REPLAYED).unwrap(), "true");
        assert_eq!(again.into_body().try_into_bytes().unwrap(), "ä".as_bytes());
        let first = open(&KeyedResponse::Fresh(seal(response()))).unwrap();
        assert!(!first.headers().contains_key(REPLAYED));
    }

    proptest! {
        #[test]
        fn any_key_comes_back_from_its_quotes(text in "[ -~]{1,255}") {
            let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            prop_assert_eq!(unquoted(&quoted[1..]), Some(text));
        }

        #[test]
        fn no_header_panics(text in "[ -~\\t]{0,300}") {
            let _ = key(&text);
        }
    }
}
