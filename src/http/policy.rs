//! What caches and browsers may do with an answer.

use actix_web::{
    HttpRequest, HttpResponse,
    body::BoxBody,
    http::header::{self, HeaderMap, HeaderName, HeaderValue},
    web::Bytes,
};
use sha2::{Digest, Sha256};

use super::compression::compressible;

/// Kept by no one: problems, and how the service is at this moment.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// Kept by the client alone, which asks with `If-None-Match` before it uses it again.
pub(super) const REVALIDATED: HeaderValue = HeaderValue::from_static("private, no-cache");
/// The document and the pages: the same for all, until the service is another one.
const SHARED: HeaderValue = HeaderValue::from_static("public, no-cache");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// What a page may do: nothing from elsewhere, and in nobody's frame. Swagger UI sets styles in its markup, and has its
/// pictures in its styles.
const PAGE: [(HeaderName, HeaderValue); 3] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; \
             form-action 'self'; frame-ancestors 'none'; object-src 'none'",
        ),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
];

/// Answers that say nothing of it themselves are kept by no one.
pub(super) fn apply(response: &mut HttpResponse<BoxBody>) {
    if response.error().is_some() {
        return problem(response.headers_mut());
    }
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, NO_STORE);
    }
}

/// The same for a problem.
pub(super) fn problem(headers: &mut HeaderMap) {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    headers.insert(header::CACHE_CONTROL, NO_STORE);
}

/// What is part of the binary, with an entity tag of its bytes.
pub(super) struct Asset {
    bytes: Bytes,
    content_type: HeaderValue,
    etag: String,
}

impl Asset {
    pub(super) fn new(bytes: Bytes, content_type: HeaderValue) -> Self {
        let digest = Sha256::digest(&bytes);
        let etag = digest.iter().take(12).fold("\"".to_owned(), |etag, byte| etag + &format!("{byte:02x}")) + "\"";
        Self { bytes, content_type, etag }
    }

    /// The whole, or 304 for those who have it.
    pub(super) fn answer(&self, request: &HttpRequest) -> HttpResponse {
        let is_known = request.headers().get_all(header::IF_NONE_MATCH).any(|tags| {
            let tags = tags.to_str().unwrap_or_default();
            tags.split(',').any(|etag| [self.etag.as_str(), "*"].contains(&etag.trim().trim_start_matches("W/")))
        });
        let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
        response.insert_header((header::ETAG, self.etag.as_str())).insert_header((header::CACHE_CONTROL, SHARED));
        if is_known {
            return response.finish();
        }
        let is_page = self.content_type.as_bytes().starts_with(b"text/html");
        for (name, value) in PAGE.into_iter().filter(|_| is_page) {
            response.insert_header((name, value));
        }
        compressible(response.content_type(self.content_type.clone()).body(self.bytes.clone()))
    }
}
