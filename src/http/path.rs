//! Paths are routed undecoded. A proxy that restricts `/pool` compares the path as text, so `/%70ool` must not be the
//! same route.

use actix_router::Quoter;
use actix_web::{HttpRequest, dev::ServiceRequest};

const ASCII: [u8; 128] = {
    let mut all = [0; 128];
    let mut byte = 0;
    while byte < 128 {
        all[byte as usize] = byte;
        byte += 1;
    }
    all
};

thread_local! {
    /// Decodes no ASCII character, so that the routes are matched as they are written.
    static UNDECODED: Quoter = Quoter::new(b"", &ASCII);
}

/// Undoes the decoding of the path before routing.
pub(super) fn route_as_written(request: &mut ServiceRequest) {
    if request.path().contains('%') {
        let uri = request.uri().clone();
        UNDECODED.with(|quoter| request.match_info_mut().get_mut().update_with_quoter(&uri, quoter));
    }
}

/// Returns a parameter of the path, decoded.
pub(super) fn parameter(request: &HttpRequest, name: &str) -> String {
    let raw = request.match_info().get(name).unwrap_or_default();
    if !raw.contains('%') {
        return raw.to_owned();
    }
    percent_encoding::percent_decode_str(raw).decode_utf8_lossy().into_owned()
}
