//! The metrics of requests, by method, route and status.

use std::{cell::RefCell, collections::HashMap, time::Duration};

use actix_web::http::{Method, StatusCode};
use metrics::{Counter, Histogram};

/// What is counted under one set of labels.
struct Series {
    method: &'static str,
    status: StatusCode,
    requests: Counter,
    duration: Histogram,
}

impl Series {
    fn new(method: &'static str, route: &str, status: StatusCode) -> Self {
        let labels = [
            ("http_request_method", method.to_owned()),
            ("http_route", route.to_owned()),
            ("http_response_status_code", status.as_u16().to_string()),
        ];
        Self {
            method,
            status,
            requests: metrics::counter!("http_server_requests_total", &labels),
            duration: metrics::histogram!("http_server_request_duration_seconds", &labels),
        }
    }
}

thread_local! {
    // By route. The recorder would find them by their labels, which costs more than all that is done with them.
    static KNOWN: RefCell<HashMap<String, Vec<Series>>> = RefCell::default();
}

/// Counts a request that was answered.
pub(super) fn record(method: &Method, route: &str, status: StatusCode, took: Duration) {
    let method = label(method);
    KNOWN.with_borrow_mut(|known| {
        if !known.contains_key(route) {
            known.insert(route.to_owned(), Vec::new());
        }
        let Some(of_route) = known.get_mut(route) else { return };
        let is_it = |series: &Series| series.method == method && series.status == status;
        let at = of_route.iter().position(is_it).unwrap_or_else(|| {
            of_route.push(Series::new(method, route, status));
            of_route.len() - 1
        });
        of_route[at].requests.increment(1);
        of_route[at].duration.record(took.as_secs_f64());
    });
}

/// Methods are the client's to make up; a label is not.
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
