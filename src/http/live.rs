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
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

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
/// Pause after which a viewer looks whether messages are still being sent.
const MAX_SILENCE: Duration = Duration::from_secs(1);
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
            live: self.clone(),
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
        self.start();
        messages
    }

    /// Starts to send messages, if they are not being sent.
    fn start(&self) {
        if !self.0.is_running.swap(true, Ordering::AcqRel) {
            tokio::spawn(self.clone().run());
        }
    }

    /// Sends messages while there are viewers.
    async fn run(self) {
        let Shared { message, is_running, render } = &*self.0;
        let running = Running(is_running);
        loop {
            match message.receiver_count() {
                0 => {
                    // Swapped, not stored: a viewer that has subscribed by now is seen here, or starts this task again.
                    is_running.swap(false, Ordering::AcqRel);
                    if message.receiver_count() == 0 || is_running.swap(true, Ordering::AcqRel) {
                        std::mem::forget(running);
                        return;
                    }
                }
                viewers => drop(message.send_replace(render(viewers))),
            }
            sleep(INTERVAL).await;
        }
    }
}

/// Lets the next viewer start the task again if it ends early: it belongs to the worker of the first viewer.
struct Running<'a>(&'a AtomicBool);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A client that reads the messages.
struct Viewer {
    live: Live,
    messages: watch::Receiver<Bytes>,
    connection: LiveConnection,
    recheck: Recheck,
    phase: web::Data<CurrentPhase>,
}

impl Viewer {
    /// Returns the messages. A client that reads slowly misses some.
    fn stream(self) -> impl stream::Stream<Item = Result<Bytes, Infallible>> {
        stream::unfold(self, |mut viewer| async {
            // The end must not depend on the next message.
            match timeout(MAX_SILENCE, viewer.messages.changed()).await {
                Ok(changed) => changed.ok()?,
                Err(_) => viewer.live.start(),
            }
            let may_continue = viewer.phase.get() < Phase::ClosingConnections
                && !viewer.connection.is_closing()
                && viewer.recheck.check().is_ok();
            let message = viewer.messages.borrow_and_update().clone();
            may_continue.then_some((Ok(message), viewer))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_state_is_read_once_for_all_viewers_and_not_without() {
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&reads);
        let live = Live::new("test", move |viewers| {
            counted.fetch_add(1, Ordering::Relaxed);
            viewers
        });
        sleep(INTERVAL * 10).await;
        assert_eq!(reads.load(Ordering::Relaxed), 0);
        for _ in 0..2 {
            reads.store(0, Ordering::Relaxed);
            let mut viewers: Vec<_> = (0..50).map(|_| live.subscribe()).collect();
            sleep(INTERVAL * 7 / 2).await;
            assert_eq!(reads.load(Ordering::Relaxed), 4);
            for viewer in &mut viewers {
                assert_eq!(*viewer.borrow_and_update(), "event: test\ndata: 50\n\n");
            }
            drop(viewers);
            sleep(INTERVAL * 10).await;
            assert_eq!(reads.load(Ordering::Relaxed), 4, "without viewers it is not read");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn messages_continue_after_the_end_of_their_task() {
        let live = Live::new("test", |viewers| viewers);
        let first = tokio::spawn(live.clone().run());
        live.0.is_running.store(true, Ordering::Release);
        let mut viewer = live.0.message.subscribe();
        viewer.changed().await.unwrap();
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        live.start();
        viewer.changed().await.unwrap();
    }
}
