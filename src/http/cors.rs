//! Web pages of other origins: which of them may use the API (CORS).

use actix_cors::Cors;
use actix_web::http::{Method, header};

use super::{
    access::{API_KEY, RATE_LIMIT},
    changes::LAST_EVENT_ID,
    feed_position::FEED_POSITION,
    idempotency::{IDEMPOTENCY_KEY, REPLAYED},
    request_info::REQUEST_ID,
    users::TOTAL_COUNT,
};

/// How long a browser may remember that a request is allowed.
const MAX_AGE_SECONDS: usize = 3600;

/// Returns the middleware that answers preflight requests and marks responses for pages of these origins. Cookies are not
/// allowed: callers authenticate by a header.
pub(super) fn cors(origins: &[String]) -> Cors {
    let cors = origins.iter().fold(Cors::default(), |cors, origin| cors.allowed_origin(origin));
    cors.allowed_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allowed_headers([header::ACCEPT, header::AUTHORIZATION, header::CONTENT_TYPE, header::IF_MATCH])
        .allowed_headers([header::IF_NONE_MATCH, LAST_EVENT_ID, API_KEY, IDEMPOTENCY_KEY, REQUEST_ID])
        .expose_headers([header::ETAG, header::LINK, header::LOCATION, header::RETRY_AFTER, header::WWW_AUTHENTICATE])
        .expose_headers([TOTAL_COUNT, FEED_POSITION, RATE_LIMIT, REPLAYED, REQUEST_ID])
        .max_age(MAX_AGE_SECONDS)
}
