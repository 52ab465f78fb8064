//! Serves an HTTP/2 connection.
//!
//! actix-http never sends GOAWAY, so its HTTP/2 connections cannot be closed without losing requests, and it applies no
//! timeout to clients that stop reading a response.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use ::http::Response as Head;
use actix_http::{HttpMessage, Payload, Request, Response, error::PayloadError};
use actix_service::Service;
use actix_web::{
    HttpResponse,
    body::{BodySize, BoxBody, MessageBody},
    dev::ServiceResponse,
    http::{
        ConnectionType, Method, StatusCode,
        header::{self, HeaderName, HeaderValue, HttpDate},
    },
    web::Bytes,
};
use futures_util::Stream;
use h2::{
    Reason, RecvStream, SendStream,
    server::{Builder, Connection, SendResponse},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    DISCONNECT_TIMEOUT, KEEP_ALIVE, REQUEST_HEAD_TIMEOUT,
    transport::{Output, Transport},
};
use crate::connections::OpenConnection;

/// Maximum number of requests in flight on a connection. Browsers send up to 100.
const MAX_STREAMS: u32 = 128;
/// Maximum size of the head of a request, as for HTTP/1.
const MAX_HEAD_SIZE: u32 = 128 * 1024;
/// How much of a body a client may send before it is read, per request and per connection. It also bounds what frames of
/// a single byte cost, each of which h2 stores with some 350 bytes.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 128 * 1024;
/// Maximum number of bytes of a response that wait to be sent.
const SEND_BUFFER: usize = 64 * 1024;

/// How often a connection that is closing is examined.
const CLOSE_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Headers of HTTP/1 that describe the connection (RFC 9113, section 8.2.2).
const CONNECTION_HEADERS: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// A connection to serve.
pub(super) struct Http2<T> {
    pub(super) stream: T,
    pub(super) peer: Option<SocketAddr>,
    pub(super) connection: OpenConnection,
    /// How long a response waits for a client that does not read; then its stream is reset. Zero disables the timeout.
    pub(super) write_timeout: Duration,
}

/// Returns the limits of a connection.
fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_SIZE)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

/// The state that the requests of a connection share.
struct Shared<S> {
    service: Rc<S>,
    connection: Rc<OpenConnection>,
    /// Notified when a response demands that the connection is closed.
    close: Notify,
    write_timeout: Duration,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Http2<T> {
    /// Serves requests until the client disconnects or, after a close request, until all requests have completed.
    pub(super) async fn serve<S, B>(self, service: Rc<S>) -> Result<(), h2::Error>
    where
        S: Service<Request, Response = ServiceResponse<B>, Error = HttpResponse> + 'static,
        B: MessageBody + 'static,
    {
        let output = Rc::new(Output::default());
        let stream = Transport::new(self.stream, Rc::clone(&output));
        let mut close_requested = pin!(self.connection.close_requested());
        let mut http2 = tokio::select! {
            http2 = handshake(stream) => http2?,
            () = &mut close_requested => return Ok(()),
        };
        let (connection, write_timeout) = (Rc::new(self.connection), self.write_timeout);
        let shared = Rc::new(Shared { service, connection, close: Notify::new(), write_timeout });
        // Dropping it cancels the requests in flight, when the connection is lost.
        let mut requests = JoinSet::new();
        // New streams are refused after this time. Clients retry them on another connection.
        let mut refuse_after: Option<Instant> = None;
        let mut idle = pin!(sleep(KEEP_ALIVE));
        loop {
            let is_idle = requests.is_empty();
            tokio::select! {
                accepted = http2.accept() => {
                    let Some(accepted) = accepted else { return Ok(()) };
                    let (request, mut respond) = accepted?;
                    if refuse_after.is_some_and(|time| time <= Instant::now()) {
                        respond.send_reset(Reason::REFUSED_STREAM);
                    } else {
                        requests.spawn_local(Rc::clone(&shared).respond(request, respond, self.peer));
                    }
                    continue;
                }
                _ = requests.join_next(), if !is_idle => {
                    idle.set(sleep(if refuse_after.is_some() { CLOSE_POLL_INTERVAL } else { KEEP_ALIVE }));
                    continue;
                }
                () = &mut close_requested, if refuse_after.is_none() => {}
                () = shared.close.notified(), if refuse_after.is_none() => {}
                () = &mut idle, if is_idle => {
                    if let Some(time) = refuse_after {
                        if Instant::now() < time || output.is_progressing(self.write_timeout) {
                            idle.set(sleep(CLOSE_POLL_INTERVAL));
                            continue;
                        }
                        // The client has neither acknowledged the end nor closed the connection.
                        http2.abrupt_shutdown(Reason::NO_ERROR);
                        let closed = poll_fn(|context| http2.poll_closed(context));
                        return timeout(2 * DISCONNECT_TIMEOUT, closed).await.unwrap_or(Ok(()));
                    }
                }
            }
            // Requests that are already on their way are still served.
            http2.graceful_shutdown();
            refuse_after = Some(Instant::now() + DISCONNECT_TIMEOUT);
            idle.set(sleep(DISCONNECT_TIMEOUT));
        }
    }
}

async fn handshake<T: AsyncRead + AsyncWrite + Unpin>(stream: T) -> Result<Connection<T, Bytes>, h2::Error> {
    let handshake = timeout(REQUEST_HEAD_TIMEOUT, builder().handshake(stream)).await;
    handshake.unwrap_or_else(|_| Err(Reason::SETTINGS_TIMEOUT.into()))
}

impl<S, B> Shared<S>
where
    S: Service<Request, Response = ServiceResponse<B>, Error = HttpResponse>,
    B: MessageBody + 'static,
{
    /// Serves a request. If the client cancels it, its handler is dropped, as if the client had disconnected.
    async fn respond(
        self: Rc<Self>,
        request: ::http::Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        peer: Option<SocketAddr>,
    ) {
        let _busy = self.connection.begin_request();
        let is_head = request.method() == Method::HEAD;
        let request = self.convert(request, peer);
        let response = tokio::select! {
            // First, because the handler of a cancelled request may fail for the lack of its body.
            biased;
            _ = poll_fn(|context| respond.poll_reset(context)) => return,
            response = self.service.call(request) => response,
        };
        let response = match response {
            Ok(response) => Response::from(response).map_into_boxed_body(),
            Err(response) => Response::from(response),
        };
        if response.head().connection_type() == ConnectionType::Close {
            self.close.notify_one();
        }
        let (response, body) = response.into_parts();
        let (head, has_body) = head(&response, body.size());
        let is_end = is_head || !has_body;
        // Fails if the client has cancelled the request in the meantime.
        if let Ok(stream) = respond.send_response(head, is_end)
            && !is_end
        {
            self.send(stream, body).await;
        }
    }

    /// Converts a request of h2 into one of actix-http.
    fn convert(&self, request: ::http::Request<RecvStream>, peer: Option<SocketAddr>) -> Request {
        let (parts, body) = request.into_parts();
        let payload = if body.is_end_stream() {
            Payload::None
        } else {
            let body: Pin<Box<dyn Stream<Item = _>>> = Box::pin(Body(body));
            Payload::from(body)
        };
        let mut request = Request::with_payload(payload);
        let head = request.head_mut();
        head.uri = parts.uri;
        head.method = parts.method;
        head.version = parts.version;
        head.headers = parts.headers.into();
        head.peer_addr = peer;
        request.extensions_mut().insert(Rc::clone(&self.connection));
        request
    }

    /// Sends a body as fast as the client reads it. A body that is not complete is reset, so that the client notices.
    async fn send(&self, mut stream: SendStream<Bytes>, body: BoxBody) {
        let mut body = pin!(body);
        loop {
            let next = tokio::select! {
                next = poll_fn(|context| body.as_mut().poll_next(context)) => next,
                _ = poll_fn(|context| stream.poll_reset(context)) => return,
            };
            let sent = match next {
                None => return drop(stream.send_data(Bytes::new(), true)),
                Some(Ok(chunk)) => self.send_chunk(&mut stream, chunk).await,
                Some(Err(_)) => Err(Reason::INTERNAL_ERROR),
            };
            if let Err(reason) = sent {
                return stream.send_reset(reason);
            }
        }
    }

    async fn send_chunk(&self, stream: &mut SendStream<Bytes>, mut chunk: Bytes) -> Result<(), Reason> {
        while !chunk.is_empty() {
            stream.reserve_capacity(chunk.len());
            let capacity = poll_fn(|context| stream.poll_capacity(context));
            let capacity = if self.write_timeout.is_zero() {
                capacity.await
            } else {
                timeout(self.write_timeout, capacity).await.map_err(|_| Reason::CANCEL)?
            };
            let Some(Ok(capacity)) = capacity else { return Err(Reason::CANCEL) };
            let part = chunk.split_to(capacity.min(chunk.len()));
            stream.send_data(part, false).map_err(|_| Reason::CANCEL)?;
        }
        Ok(())
    }
}

/// Returns the head of a response for h2, and whether a body follows.
fn head(response: &Response<()>, size: BodySize) -> (Head<()>, bool) {
    let mut head = Head::new(());
    *head.status_mut() = response.status();
    let headers = head.headers_mut();
    for (name, value) in response.headers() {
        if !CONNECTION_HEADERS.contains(name) {
            headers.append(name, value.clone());
        }
    }
    if !headers.contains_key(header::DATE)
        && let Ok(date) = HeaderValue::try_from(HttpDate::from(SystemTime::now()).to_string())
    {
        headers.insert(header::DATE, date);
    }
    if [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&response.status()) {
        return (head, false);
    }
    match size {
        BodySize::None => (head, false),
        BodySize::Sized(length) => {
            headers.insert(header::CONTENT_LENGTH, length.into());
            (head, length > 0)
        }
        BodySize::Stream => (head, true),
    }
}

/// The body of a request. The client may send more as it is read.
struct Body(RecvStream);

impl Stream for Body {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(match ready!(self.0.poll_data(context)) {
            None => None,
            Some(Ok(bytes)) => {
                // Fails only if the stream was reset, and then no window update is needed.
                let _ = self.0.flow_control().release_capacity(bytes.len());
                Some(Ok(bytes))
            }
            Some(Err(error)) => Some(Err(PayloadError::Io(io::Error::other(error)))),
        })
    }
}
