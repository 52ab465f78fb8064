//! Live state as an event stream: computed once for all viewers, and not at all without viewers.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, header},
    web::{self, Bytes},
};
use futures_util::stream;
use serde::Serialize;
use tokio::{sync::watch, time::sleep};

use super::{
    access::{Allowed, RequiredScope},
    live_connection::LiveConnection,
    media_types::{ACCEL_BUFFERING, EVENT_STREAM},
    problem::Problem,
    recheck::Recheck,
    request_info::RequestInfo,
};
use crate::lifecycle::{CurrentPhase, Phase};

/// Pause between two messages.
const INTERVAL: Duration = Duration::from_millis(250);
/// The first part of a response: after how many milliseconds a client reconnects.
const RETRY: Bytes = Bytes::from_static(b"retry: 1000\n\n");

/// A live state. Clones share it.
#[derive(Clone)]
pub(super) struct Live(Arc<Shared>);

struct Shared {
    /// The latest message.
    message: watch::Sender<Bytes>,
    is_running: AtomicBool,
    /// Returns the message for a number of viewers.
    render: Box<dyn Fn(usize) -> Bytes + Send + Sync>,
}

impl Live {
    /// Creates a live state, whose messages have this event type. `state` gets the number of viewers.
    pub(super) fn new<T: Serialize>(event: &'static str, state: impl Fn(usize) -> T + Send + Sync + 'static) -> Self {
        let render = move |viewers| {
            // Serializes to one line, without errors: all keys are strings.
            let data = serde_json::to_string(&state(viewers)).unwrap_or_default();
            format!("event: {event}\ndata: {data}\n\n").into()
        };
        let message = watch::Sender::new(Bytes::new());
        Self(Arc::new(Shared { message, is_running: AtomicBool::new(false), render: Box::new(render) }))
    }

    /// Returns the response to a viewer. It ends at a shutdown, and when the caller loses access.
    pub(super) fn respond<S: RequiredScope>(
        &self,
        caller: &Allowed<S>,
        request: &HttpRequest,
    ) -> Result<HttpResponse, Problem> {
        let mut response = HttpResponse::Ok();
        response.content_type(EVENT_STREAM);
        response.insert_header((ACCEL_BUFFERING, "no")).insert_header((header::CACHE_CONTROL, "no-store"));
        if RequestInfo::of(request).is_some_and(|info| info.method == Method::HEAD) {
            // The connection would wait for the end before the next request.
            return Ok(response.finish());
        }
        let phase = request.app_data::<web::Data<CurrentPhase>>().cloned();
        let viewer = Viewer {
            messages: self.subscribe(),
            connection: LiveConnection::of(request),
            recheck: Recheck::of_caller(caller, request)?,
            phase: phase.ok_or_else(|| Problem::internal("the phase is not registered"))?,
        };
        let first = stream::iter([Ok(RETRY)]);
        Ok(response.streaming(futures_util::StreamExt::chain(first, viewer.stream())))
    }

    fn subscribe(&self) -> watch::Receiver<Bytes> {
        let messages = self.0.message.subscribe();
        if !self.0.is_running.swap(true, Ordering::AcqRel) {
            tokio::spawn(self.clone().run());
        }
        messages
    }

    /// Sends messages while there are viewers.
    async fn run(self) {
        let Shared { message, is_running, render } = &*self.0;
        loop {
            match message.receiver_count() {
                0 => {
                    is_running.store(false, Ordering::Release);
                    // A viewer may have subscribed in the meantime.
                    if message.receiver_count() == 0 || is_running.swap(true, Ordering::AcqRel) {
                        return;
                    }
                }
                viewers => drop(message.send_replace(render(viewers))),
            }
            sleep(INTERVAL).await;
        }
    }
}

/// A client that reads the messages.
struct Viewer {
    messages: watch::Receiver<Bytes>,
    connection: LiveConnection,
    recheck: Recheck,
    phase: web::Data<CurrentPhase>,
}

impl Viewer {
    /// Returns the messages. A client that reads slowly misses some.
    fn stream(self) -> impl stream::Stream<Item = Result<Bytes, Infallible>> {
        stream::unfold(self, |mut viewer| async {
            viewer.messages.changed().await.ok()?;
            let may_continue = viewer.phase.get() < Phase::ClosingConnections
                && !viewer.connection.is_closing()
                && viewer.recheck.check().is_ok();
            let message = viewer.messages.borrow_and_update().clone();
            may_continue.then_some((Ok(message), viewer))
        })
    }
}
