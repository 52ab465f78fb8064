//! Caching and security headers.

use actix_web::{
    HttpRequest, HttpResponse,
    body::BoxBody,
    http::header::{self, HeaderMap, HeaderName, HeaderValue},
    web::Bytes,
};
use sha2::{Digest, Sha256};

use super::compression::compressible;

/// For problems and momentary state: never cached.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// For users: cached by the client only, and revalidated with `If-None-Match` before each use.
pub(super) const REVALIDATED: HeaderValue = HeaderValue::from_static("private, no-cache");
/// For the document and the pages, which are the same for all clients until the service is updated.
const SHARED: HeaderValue = HeaderValue::from_static("public, no-cache");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// The content security policy of a page: only scripts, styles and data of this service, and nothing inline.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'",
);
/// The same for Swagger UI, which has inline styles, and images in its styles.
const SWAGGER_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; form-action 'self'; \
     frame-ancestors 'none'; object-src 'none'",
);
/// The other restrictions of a page: no frames, and no address for other sites.
const PAGE_HEADERS: [(HeaderName, HeaderValue); 2] = [
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
];

/// Adds the headers to a response. Without a `Cache-Control` of its handler, it is not cached.
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

/// Adds the headers to a problem.
pub(super) fn problem(headers: &mut HeaderMap) {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    headers.insert(header::CACHE_CONTROL, NO_STORE);
}

/// An asset embedded in the binary. Its entity tag is a hash of its bytes.
pub(super) struct Asset {
    bytes: Bytes,
    content_type: HeaderValue,
    etag: String,
    /// The content security policy, if it is a page.
    policy: HeaderValue,
}

impl Asset {
    pub(super) fn new(bytes: Bytes, content_type: HeaderValue) -> Self {
        let digest = Sha256::digest(&bytes);
        let etag = digest.iter().take(12).fold("\"".to_owned(), |etag, byte| etag + &format!("{byte:02x}")) + "\"";
        Self { bytes, content_type, etag, policy: SWAGGER_POLICY }
    }

    /// Creates a page of this service.
    pub(super) fn page(html: impl Into<Bytes>) -> Self {
        let html_type = HeaderValue::from_static("text/html; charset=utf-8");
        Self { policy: PAGE_POLICY, ..Self::new(html.into(), html_type) }
    }

    /// Returns the asset, or 304 if the client has it.
    pub(super) fn respond(&self, request: &HttpRequest) -> HttpResponse {
        let is_cached = request.headers().get_all(header::IF_NONE_MATCH).any(|tags| {
            let tags = tags.to_str().unwrap_or_default();
            tags.split(',').any(|etag| [self.etag.as_str(), "*"].contains(&etag.trim().trim_start_matches("W/")))
        });
        let mut response = if is_cached { HttpResponse::NotModified() } else { HttpResponse::Ok() };
        response.insert_header((header::ETAG, self.etag.as_str())).insert_header((header::CACHE_CONTROL, SHARED));
        if is_cached {
            return response.finish();
        }
        let is_page = self.content_type.as_bytes().starts_with(b"text/html");
        if is_page {
            response.insert_header((header::CONTENT_SECURITY_POLICY, self.policy.clone()));
            for header in PAGE_HEADERS {
                response.insert_header(header);
            }
        }
        compressible(response.content_type(self.content_type.clone()).body(self.bytes.clone()))
    }
}
