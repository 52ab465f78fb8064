//! Observability of requests: the id, the span, the log line and the metrics.

use std::{rc::Rc, time::Instant};

use actix_web::{
    Error, HttpMessage, ResponseError,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method, StatusCode,
        header::{HeaderName, HeaderValue},
    },
    middleware::Next,
    web,
};
use opentelemetry::{propagation::Extractor, trace::TraceContextExt};
use tracing::Span;
use tracing_actix_web::RootSpanBuilder;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::{
    access::RATE_LIMIT,
    compression, limits, policy,
    problem::{Kind, Problem},
    public_url, refusal_log_limit, refusal_throttle,
    request_info::{REQUEST_ID, RequestInfo},
};
use crate::{
    connections::OpenConnection,
    lifecycle::{CurrentPhase, Phase},
};

/// Opens the span of a request, and logs the request when it ends.
pub struct RequestSpan;

impl RootSpanBuilder for RequestSpan {
    fn on_request_start(request: &ServiceRequest) -> Span {
        let method = request.method().clone();
        // The span is renamed once the request has been routed. Fields that only traces need are attributes, so that
        // nothing is formatted if tracing is disabled.
        let span = tracing::info_span!("request", otel.kind = "server");
        let trace_id = if span.is_disabled() { None } else { join_trace(&span, request, &method) };
        let info = RequestInfo::new(request, method, trace_id);
        span.set_attribute("request_id", info.request_id.to_str().unwrap_or_default().to_owned());
        request.extensions_mut().insert(Rc::new(info));
        span
    }

    fn on_request_end<B: MessageBody>(span: Span, outcome: &Result<ServiceResponse<B>, Error>) {
        let (status, problem, info) = match outcome {
            Ok(response) => {
                let problem = response.response().error().and_then(|error| error.as_error::<Problem>());
                let info = RequestInfo::of(response.request());
                if let (Some(info), Some(route)) = (&info, response.request().match_pattern()) {
                    info.route.get_or_init(|| route);
                }
                (response.status(), problem, info)
            }
            Err(error) => {
                let problem = error.as_error::<Problem>();
                (error.as_response_error().status_code(), problem, problem.and_then(Problem::info))
            }
        };
        span.set_attribute("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            span.set_status(opentelemetry::trace::Status::error(""));
        }
        if let Some(info) = info {
            if !span.is_disabled() {
                span.context().span().update_name(format!("{} {}", info.method, info.route()));
                span.set_attribute("http.route", info.route().to_owned());
            }
            super::metrics::record(&info.method, info.route(), status, info.started.elapsed());
            log(&info, status, problem);
        }
    }
}

/// Marks the connection as busy, and completes every response: the request id, the path of a problem, caching headers,
/// public URLs and compression.
pub(super) async fn finish(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let info = RequestInfo::of(&request);
    // Only of HTTP/1; a connection of HTTP/2 counts its requests itself.
    let _busy = request.conn_data::<OpenConnection>().map(OpenConnection::begin_request);
    let outcome = limits::limits(request, next, info.as_ref()).await;
    if outcome.as_ref().is_ok_and(is_refused_by_the_pool) {
        refusal_throttle::wait().await;
    }
    let mut response = match (outcome, &info) {
        (Ok(response), Some(info)) => with_request_id(response, info),
        (Ok(response), None) => response.map_into_boxed_body(),
        (Err(error), Some(info)) => return Err(with_request_info(error, info)),
        (Err(error), None) => return Err(error),
    };
    policy::apply(response.response_mut());
    public_url::complete(&mut response);
    response = compression::compress(response);
    let phase = response.request().app_data::<web::Data<CurrentPhase>>();
    if phase.is_some_and(|phase| phase.get() >= Phase::ClosingConnections) {
        // A client with a persistent connection must connect to another instance.
        response.response_mut().head_mut().set_connection_type(actix_web::http::ConnectionType::Close);
    }
    Ok(response)
}

fn is_refused_by_the_pool<B>(response: &ServiceResponse<B>) -> bool {
    let problem = response.response().error().and_then(|error| error.as_error::<Problem>());
    problem.is_some_and(|problem| problem.kind() == Kind::PoolExhausted)
}

fn with_request_id(
    response: ServiceResponse<impl MessageBody + 'static>,
    info: &RequestInfo,
) -> ServiceResponse<BoxBody> {
    let problem = response.response().error().and_then(|error| error.as_error::<Problem>());
    let body = problem.map(|problem| problem.body(Some(info)));
    let mut response = match body {
        // Adds the path, which the handler does not know. The error stays attached to the response, for the log.
        Some(body) => response.map_body(|_, _| BoxBody::new(body)),
        None => response.map_into_boxed_body(),
    };
    response.headers_mut().insert(REQUEST_ID, info.request_id.clone());
    if let Some(remaining) = info.remaining.get() {
        let value = HeaderValue::try_from(format!("\"caller\";r={remaining}"));
        response.headers_mut().insert(RATE_LIMIT, value.unwrap_or(HeaderValue::from_static("\"caller\"")));
    }
    response
}

fn with_request_info(error: Error, info: &Rc<RequestInfo>) -> Error {
    if let Some(problem) = error.as_error::<Problem>() {
        problem.attach_request(Rc::clone(info));
    }
    error
}

/// Adds the span to the client's trace, or starts a new one. Returns the id of the trace.
fn join_trace(span: &Span, request: &ServiceRequest, method: &Method) -> Option<String> {
    struct Headers<'a>(&'a actix_web::http::header::HeaderMap);

    impl Extractor for Headers<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            self.0.get(key).and_then(|value| value.to_str().ok())
        }

        fn keys(&self) -> Vec<&str> {
            self.0.keys().map(HeaderName::as_str).collect()
        }
    }

    let parent =
        opentelemetry::global::get_text_map_propagator(|propagator| propagator.extract(&Headers(request.headers())));
    if parent.span().span_context().is_valid() {
        // Fails only without a layer for traces, and then there is no span.
        let _ = span.set_parent(parent);
    }
    span.set_attribute("http.request.method", method.to_string());
    span.set_attribute("url.path", request.path().to_owned());
    let context = span.context();
    let id = context.span().span_context().trace_id();
    (id != opentelemetry::trace::TraceId::INVALID).then(|| id.to_string())
}

fn log(info: &RequestInfo, status: StatusCode, problem: Option<&Problem>) {
    let suppressed = match status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            match refusal_log_limit::admit(problem.map_or("", Problem::code), Instant::now()) {
                Some(suppressed) => Some(suppressed).filter(|suppressed| *suppressed > 0),
                None => return,
            }
        }
        _ => None,
    };
    let request_id = info.id();
    let trace_id = info.trace_id.as_deref();
    let duration_ms = (info.started.elapsed().as_secs_f64() * 1e6).round() / 1e3;
    // One event with all fields. An error is logged only here.
    let error = problem.and_then(Problem::chain);
    let code = problem.map(Problem::code);
    let client = info.refused_address.get().map(tracing::field::display);
    let refused_key = info.refused_key.get().map(tracing::field::display);
    let actor = info.actor.get().map(tracing::field::display);
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(
                method = %info.method,
                route = info.route(),
                status = status.as_u16(),
                duration_ms,
                request_id,
                trace_id,
                actor,
                client,
                refused_key,
                code,
                error,
                suppressed,
                "request"
            )
        };
    }
    match status {
        StatusCode::SERVICE_UNAVAILABLE => event!(warn),
        status if status.is_server_error() => event!(error),
        _ => event!(info),
    }
}

/// Logs that a response was aborted. The request itself has been logged before, as a success.
pub(super) fn response_aborted(info: Option<&RequestInfo>, problem: &Problem) {
    let (request_id, trace_id) = (info.map(RequestInfo::id), info.and_then(|info| info.trace_id.as_deref()));
    let (route, code, error) = (info.map(RequestInfo::route), problem.code(), problem.chain());
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(route, request_id, trace_id, code, error, "response aborted")
        };
    }
    match ResponseError::status_code(problem) {
        StatusCode::SERVICE_UNAVAILABLE => event!(warn),
        status if status.is_server_error() => event!(error),
        _ => event!(info),
    }
}

/// Logs that the client disconnected, or stopped reading for `server.write_timeout`, and the rest of its rows was not
/// written.
pub(super) fn client_disconnected(info: Option<&RequestInfo>) {
    tracing::info!(
        route = info.map(RequestInfo::route),
        request_id = info.map(RequestInfo::id),
        "response aborted: client stopped reading"
    );
}
