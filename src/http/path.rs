//! Paths as they were written. A proxy that keeps `/pool` to itself compares text: `/%70ool` must not mean the same here.

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
    /// Leaves every ASCII character as it was written, and with that each letter of a route.
    static PLAIN: Quoter = Quoter::new(b"", &ASCII);
}

/// Undoes the decoding of the path that comes before routing.
pub(super) fn route_as_written(request: &mut ServiceRequest) {
    if request.path().contains('%') {
        let uri = request.uri().clone();
        PLAIN.with(|plain| request.match_info_mut().get_mut().update_with_quoter(&uri, plain));
    }
}

/// A part of the path, decoded.
pub(super) fn part(request: &HttpRequest, name: &str) -> String {
    let raw = request.match_info().get(name).unwrap_or_default();
    if !raw.contains('%') {
        return raw.to_owned();
    }
    percent_encoding::percent_decode_str(raw).decode_utf8_lossy().into_owned()
}
