//! Requests that are refused before routing: because the parser cannot parse them, or instead of `100 Continue`.

use std::{rc::Rc, time::Duration};

use actix_http::{HttpMessage, Request};
use actix_web::{
    HttpResponse, ResponseError,
    body::BoxBody,
    http::{Method, StatusCode, header},
    web::Bytes,
};

use super::{
    body,
    fallback::Paths,
    problem::{Kind, Problem},
    request_info::{self, REQUEST_ID},
    turn::Turn,
};

/// Returns the problem that replaces an error response of the parser, which has a status but no body. `None` for any
/// other response.
pub(super) fn for_parser_response(response: &[u8]) -> Option<Bytes> {
    let status = response.strip_prefix(b"HTTP/1.1 ").or_else(|| response.strip_prefix(b"HTTP/1.0 "))?.get(..3)?;
    let problem = match status {
        b"400" => Problem::new(Kind::MalformedRequest, "The request is not valid HTTP/1.1."),
        b"408" => Problem::new(Kind::HeadTimeout, "The head of the request did not arrive in time."),
        b"431" => Problem::new(Kind::HeadTooLarge, "The head of the request is too large."),
        _ => return None,
    };
    let id = request_info::generate_id();
    report(&problem, "(none)", &Method::from_bytes(b"-").ok()?, id.to_str().ok()?);
    let body = problem.body(None);
    let status = problem.status_code();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {}\r\ncontent-length: {}\r\n{REQUEST_ID}: {}\r\n\
         cache-control: no-store\r\nx-content-type-options: nosniff\r\nconnection: close\r\ndate: {}\r\n\r\n",
        Problem::MEDIA_TYPE,
        body.len(),
        id.to_str().ok()?,
        header::HttpDate::from(std::time::SystemTime::now()),
    );
    Some([head.as_bytes(), &body].concat().into())
}

/// Refuses a body whose media type the route does not support, before the client sends it.
///
/// # Errors
///
/// The response.
pub(super) fn before_body(mut request: Request, paths: &Paths) -> Result<Request, Box<HttpResponse>> {
    let Some((route, types)) = paths.media_types(request.path(), request.method()) else { return Ok(request) };
    let types: Vec<&str> = types.iter().map(String::as_str).collect();
    let Err(problem) = body::media_type(request.head(), &types) else { return Ok(request) };
    let turn = request.conn_data::<Rc<Turn>>().cloned();
    if let Some(turn) = turn {
        // The client may send the body nevertheless.
        turn.request_started(&mut request);
        turn.response_started();
    }
    let id = request_info::client_id(request.headers()).cloned().unwrap_or_else(request_info::generate_id);
    report(&problem, route, request.method(), id.to_str().unwrap_or_default());
    let mut response = problem.error_response().set_body(BoxBody::new(problem.body(None)));
    response.headers_mut().insert(REQUEST_ID, id);
    response.head_mut().set_connection_type(actix_web::http::ConnectionType::Close);
    Err(Box::new(response))
}

/// Logs and records a request like `observe`, which these requests do not reach.
fn report(problem: &Problem, route: &str, method: &Method, request_id: &str) {
    let status: StatusCode = problem.status_code();
    super::metrics::record(method, route, status, Duration::ZERO);
    tracing::info!(%method, route, status = status.as_u16(), request_id, code = problem.code(), "request");
}
