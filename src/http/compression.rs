//! Long answers are compressed for those who ask for it, so that no proxy has to: one that compresses by itself makes the tags
//! of users weak.

use actix_http::encoding::Encoder;
use actix_web::{
    HttpMessage, HttpResponse,
    body::{BodySize, BoxBody, MessageBody},
    dev::ServiceResponse,
    http::header::{self, AcceptEncoding, ContentEncoding, Encoding, HeaderValue},
};

/// Shorter answers are one packet anyway.
const SHORTEST: u64 = 1024;

/// The mark of an answer that is worth it.
struct Compressible;

/// Marks an answer of which nobody waits for single lines.
pub(super) fn compressible(mut response: HttpResponse) -> HttpResponse {
    response.extensions_mut().insert(Compressible);
    response
}

/// Compresses what is marked and long enough.
pub(super) fn compress(mut response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    let is_marked = response.response().extensions().contains::<Compressible>();
    if !is_marked || matches!(response.response().body().size(), BodySize::None | BodySize::Sized(..SHORTEST)) {
        return response;
    }
    if let Some(encoding) = encoding(&response) {
        return response.map_body(|head, body| BoxBody::new(Encoder::response(encoding, head, body)));
    }
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
    response
}

/// What the client likes best of what there is.
fn encoding(response: &ServiceResponse<BoxBody>) -> Option<ContentEncoding> {
    let request = response.request();
    if !request.headers().contains_key(header::ACCEPT_ENCODING) {
        return None;
    }
    let accepted = request.get_header::<AcceptEncoding>()?;
    let known = [Encoding::zstd(), Encoding::brotli(), Encoding::gzip(), Encoding::identity()];
    match accepted.negotiate(known.iter())? {
        Encoding::Known(ContentEncoding::Identity) | Encoding::Unknown(_) => None,
        Encoding::Known(encoding) => Some(encoding),
    }
}
