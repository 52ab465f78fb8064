//! Compression of long responses. With it no proxy has to compress, which would turn the entity tags of users into weak
//! ones.

use actix_http::encoding::Encoder;
use actix_web::{
    HttpMessage, HttpResponse,
    body::{BodySize, BoxBody, MessageBody},
    dev::ServiceResponse,
    http::header::{self, AcceptEncoding, ContentEncoding, Encoding, HeaderValue},
};

/// The minimum length of a compressed response; a shorter one fits into one packet.
const MIN_LENGTH: u64 = 1024;

/// Marks a compressible response.
struct Compressible;

/// Marks a response as compressible: one whose client does not wait for single lines, which compression delays.
pub(super) fn compressible(mut response: HttpResponse) -> HttpResponse {
    response.extensions_mut().insert(Compressible);
    response
}

/// Compresses a response that is marked and long enough.
pub(super) fn compress(mut response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    let is_marked = response.response().extensions().contains::<Compressible>();
    if !is_marked || matches!(response.response().body().size(), BodySize::None | BodySize::Sized(..MIN_LENGTH)) {
        return response;
    }
    if let Some(encoding) = encoding(&response) {
        return response.map_body(|head, body| BoxBody::new(Encoder::response(encoding, head, body)));
    }
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
    response
}

/// Negotiates the encoding.
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
