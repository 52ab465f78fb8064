//! The metrics of requests, by method, route and status.

use std::{cell::RefCell, collections::HashMap, time::Duration};

use actix_web::http::{Method, StatusCode};
use metrics::{Counter, Histogram, Unit};

const REQUESTS: &str = "http_server_requests_total";
const DURATION: &str = "http_server_request_duration_seconds";

/// Describes the metrics. The recorder must be installed.
pub(super) fn describe() {
    metrics::describe_histogram!(
        DURATION,
        Unit::Seconds,
        "Time from the head of the request to the head of the response"
    );
    metrics::describe_counter!(REQUESTS, "Completed requests");
}

/// Handles of the metrics of one set of labels.
struct MetricHandles {
    method: &'static str,
    status: StatusCode,
    requests: Counter,
    duration: Histogram,
}

impl MetricHandles {
    fn new(method: &'static str, route: &str, status: StatusCode) -> Self {
        let labels = [
            ("http_request_method", method.to_owned()),
            ("http_route", route.to_owned()),
            ("http_response_status_code", status.as_u16().to_string()),
        ];
        Self {
            method,
            status,
            requests: metrics::counter!(REQUESTS, &labels),
            duration: metrics::histogram!(DURATION, &labels),
        }
    }
}

thread_local! {
    // By route. A lookup by labels in the recorder would cost more than the updates.
    static HANDLES: RefCell<HashMap<String, Vec<MetricHandles>>> = RefCell::default();
}

/// Records a request.
pub(super) fn record(method: &Method, route: &str, status: StatusCode, duration: Duration) {
    let method = label(method);
    HANDLES.with_borrow_mut(|routes| {
        if !routes.contains_key(route) {
            routes.insert(route.to_owned(), Vec::new());
        }
        let Some(of_route) = routes.get_mut(route) else { return };
        let matches = |handles: &MetricHandles| handles.method == method && handles.status == status;
        let index = of_route.iter().position(matches).unwrap_or_else(|| {
            of_route.push(MetricHandles::new(method, route, status));
            of_route.len() - 1
        });
        of_route[index].requests.increment(1);
        of_route[index].duration.record(duration.as_secs_f64());
    });
}

/// Returns the label of a method. Clients may invent methods, which must not become labels.
fn label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "_OTHER",
    }
}
