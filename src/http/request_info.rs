//! What is known of a request from its first moment on, wherever its way ends.

use std::{
    cell::{Cell, OnceCell},
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

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const LONGEST_REQUEST_ID: usize = 128;

/// What is known of a request.
#[derive(Debug)]
pub(super) struct RequestInfo {
    pub(super) request_id: HeaderValue,
    pub(super) path: String,
    pub(super) method: Method,
    /// The route's template; set when the handler returns.
    pub(super) route: OnceCell<String>,
    pub(super) started: Instant,
    pub(super) trace_id: Option<String>,
    /// Whether the body is still being read.
    pub(super) arriving: Cell<bool>,
    /// When the last piece came of a body that may be of any length.
    pub(super) heard: Cell<Option<Instant>>,
    /// Whether the handler bounds its time itself, because what it has done must be reported.
    pub(super) is_unbounded: Cell<bool>,
}

impl RequestInfo {
    /// Read before the request is routed.
    pub(super) fn new(request: &ServiceRequest, method: Method, trace_id: Option<String>) -> Self {
        Self {
            request_id: request_id(request),
            path: request.path().to_owned(),
            method,
            route: OnceCell::new(),
            started: Instant::now(),
            trace_id,
            arriving: Cell::new(false),
            heard: Cell::new(None),
            is_unbounded: Cell::new(false),
        }
    }

    /// What is known of this request; nothing before its span is opened.
    pub(super) fn of(message: &impl HttpMessage) -> Option<Rc<Self>> {
        message.extensions().get::<Rc<Self>>().cloned()
    }

    /// Its id, as the pool and the log tell it.
    pub(super) fn caller(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// Where the request went.
    pub(super) fn route(&self) -> &str {
        self.route.get().map_or("(none)", String::as_str)
    }
}

/// The work of a request that goes on without its handler: in its name, and in its span, but not within its time.
pub(super) fn on_behalf<F: Future>(info: Option<&RequestInfo>, work: F) -> impl Future<Output = F::Output> + use<F> {
    let caller = RequestContext::new(info.map_or("", RequestInfo::caller));
    caller.scope(work).in_current_span()
}

/// A new id, for a request that no span was opened for.
#[expect(clippy::disallowed_methods, reason = "the id of a request, and of no user")]
pub(super) fn new_id() -> HeaderValue {
    HeaderValue::try_from(Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}

/// The caller's id, if it sent one that is fit for logs.
pub(super) fn sane_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(REQUEST_ID).filter(|value| {
        (1..=LONGEST_REQUEST_ID).contains(&value.len())
            && value.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:=+/@".contains(byte))
    })
}

/// The caller's id if it is a sane one, else one of ours.
fn request_id(request: &ServiceRequest) -> HeaderValue {
    let own = || {
        let id = request.extensions().get::<RequestId>().map(ToString::to_string);
        id.and_then(|id| HeaderValue::try_from(id).ok()).unwrap_or(HeaderValue::from_static("unknown"))
    };
    sane_id(request.headers()).cloned().unwrap_or_else(own)
}
