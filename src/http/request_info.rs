//! The properties of a request that are known before it is routed, and are kept even if its handler does not return.

use std::{
    cell::{Cell, OnceCell},
    net::IpAddr,
    rc::Rc,
    time::Instant,
};

use actix_web::{
    HttpMessage,
    dev::ServiceRequest,
    http::{
        Method,
        header::{HeaderMap, HeaderName, HeaderValue},
    },
};
use orm_pool::RequestContext;
use tracing::Instrument;
use tracing_actix_web::RequestId;
use uuid::Uuid;

use crate::domain::{Actor, KeyId};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID_LENGTH: usize = 128;

/// The properties of a request.
#[derive(Debug)]
pub(super) struct RequestInfo {
    pub(super) request_id: HeaderValue,
    pub(super) path: String,
    pub(super) method: Method,
    /// The route template; set when the handler returns.
    pub(super) route: OnceCell<String>,
    pub(super) started: Instant,
    pub(super) trace_id: Option<String>,
    /// The caller, once it is authenticated.
    pub(super) actor: OnceCell<Actor>,
    /// The address of a client whose request was refused.
    pub(super) refused_address: Cell<Option<IpAddr>>,
    /// The id of the API key that was refused. It is not secret, and shows who still uses a revoked key.
    pub(super) refused_key: Cell<Option<KeyId>>,
    /// The remaining quota of the caller, if there is a limit.
    pub(super) remaining: Cell<Option<u32>>,
    /// Whether the body is being received.
    pub(super) is_receiving: Cell<bool>,
    /// When the last chunk of a streamed body arrived.
    pub(super) last_chunk_at: Cell<Option<Instant>>,
    /// Whether the request timeout does not apply, because the handler must report what it has done.
    pub(super) is_timeout_disabled: Cell<bool>,
}

impl RequestInfo {
    /// Returns the properties of a request that has not been routed yet.
    pub(super) fn new(request: &ServiceRequest, method: Method, trace_id: Option<String>) -> Self {
        Self {
            request_id: request_id(request),
            path: request.path().to_owned(),
            method,
            route: OnceCell::new(),
            started: Instant::now(),
            trace_id,
            actor: OnceCell::new(),
            refused_address: Cell::new(None),
            refused_key: Cell::new(None),
            remaining: Cell::new(None),
            is_receiving: Cell::new(false),
            last_chunk_at: Cell::new(None),
            is_timeout_disabled: Cell::new(false),
        }
    }

    /// Returns the properties of this request; `None` before its span is opened.
    pub(super) fn of(message: &impl HttpMessage) -> Option<Rc<Self>> {
        message.extensions().get::<Rc<Self>>().cloned()
    }

    /// Returns the request id, as the pool and the log report it.
    pub(super) fn id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// Returns the route template, `(none)` if there is none.
    pub(super) fn route(&self) -> &str {
        self.route.get().map_or("(none)", String::as_str)
    }
}

/// Runs work that continues after the handler of a request: with the id and the span of the request, but without its
/// timeout.
pub(super) fn on_behalf<F: Future>(info: Option<&RequestInfo>, work: F) -> impl Future<Output = F::Output> + use<F> {
    let context = RequestContext::new(info.map_or("", RequestInfo::id));
    context.scope(work).in_current_span()
}

/// Generates an id, for a request without a span.
#[expect(clippy::disallowed_methods, reason = "the id of a request, not of a user")]
pub(super) fn generate_id() -> HeaderValue {
    HeaderValue::try_from(Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}

/// Returns the client's request id, if it sent a valid one.
pub(super) fn client_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(REQUEST_ID).filter(|value| {
        (1..=MAX_REQUEST_ID_LENGTH).contains(&value.len())
            && value.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:=+/@".contains(byte))
    })
}

/// Returns the client's request id, or a generated one.
fn request_id(request: &ServiceRequest) -> HeaderValue {
    let generated = || {
        let id = request.extensions().get::<RequestId>().map(ToString::to_string);
        id.and_then(|id| HeaderValue::try_from(id).ok()).unwrap_or(HeaderValue::from_static("unknown"))
    };
    client_id(request.headers()).cloned().unwrap_or_else(generated)
}
