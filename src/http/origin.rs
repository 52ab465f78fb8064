//! Pages of other origins that open a WebSocket: browsers let every page do this, so the service has to check it.

use actix_web::{HttpRequest, http::header, web};
use url::Url;

use super::{
    HttpOptions,
    problem::{Kind, Problem},
    public_url::PublicUrl,
};

/// Refuses a request of a page whose origin is neither this service's nor in `cors.origins`. Clients other than browsers
/// send no `Origin`.
///
/// # Errors
///
/// The problem `origin-not-allowed`.
pub(super) fn check(request: &HttpRequest) -> Result<(), Problem> {
    let options = request.app_data::<HttpOptions>();
    let is_allowed = |origin: &str| {
        let is_listed = options.is_some_and(|options| options.cors_origins.iter().any(|listed| listed == origin));
        is_listed || is_own(origin, request)
    };
    if request.headers().get_all(header::ORIGIN).all(|origin| origin.to_str().is_ok_and(is_allowed)) {
        return Ok(());
    }
    let detail = "Pages of this origin may not open a WebSocket here. Add the origin to cors.origins.";
    Err(Problem::new(Kind::OriginNotAllowed, detail))
}

/// Returns whether an origin is the one of this service: the host that the request is for, or that of the public URL.
fn is_own(origin: &str, request: &HttpRequest) -> bool {
    // A proxy may have terminated TLS.
    let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let Some(authority) = authority else { return false };
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let public_url = request.app_data::<web::Data<PublicUrl>>().and_then(|url| url.of(request));
    host.is_some_and(|host| host.eq_ignore_ascii_case(authority))
        || public_url.is_some_and(|url| Url::parse(&url).is_ok_and(|url| url.origin().ascii_serialization() == origin))
}
