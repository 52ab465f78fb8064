//! A connection whose response has no end.

use actix_web::HttpRequest;

use crate::connections::{InFlightGuard, OpenConnection};

/// A connection with a live response, which is not taken for idle. `None` with HTTP/2, whose connections count their
/// requests themselves.
pub(super) struct LiveConnection(Option<InFlightGuard>);

impl LiveConnection {
    pub(super) fn of(request: &HttpRequest) -> Self {
        Self(request.conn_data::<OpenConnection>().map(OpenConnection::begin_live_request))
    }

    /// Returns whether the connection is requested to close. Its task is woken when it is.
    pub(super) fn is_closing(&self) -> bool {
        self.0.as_ref().is_some_and(InFlightGuard::is_closing)
    }
}
