//! The framing of responses to HTTP/1.0 clients and to requests for an upgrade.

use std::{pin::Pin, rc::Rc};

use actix_http::{ConnectionType, HttpMessage, Payload, Request};
use actix_service::Service;
use actix_web::{
    HttpResponse,
    body::{BodySize, BoxBody, MessageBody},
    dev::{ResponseHead, ServiceResponse},
    http::{Method, StatusCode, Version, header},
};

use futures_util::{Stream, StreamExt, stream};

use super::turn::Turn;

/// Calls the service and frames its response. This is the outermost middleware, so that it also frames error responses.
///
/// # Errors
///
/// The error responses of the service.
pub fn frame<S, B>(
    mut request: Request,
    service: &S,
) -> impl Future<Output = Result<ServiceResponse<B>, HttpResponse<BoxBody>>> + use<S, B>
where
    S: Service<Request, Response = ServiceResponse<B>, Error = HttpResponse<BoxBody>>,
    B: MessageBody,
{
    let framing = Framing::of(&request);
    if framing.is_upgrade {
        limit_body(&mut request);
    }
    let turn = request.conn_data::<Rc<Turn>>().cloned();
    if let Some(turn) = &turn {
        turn.request_started(&mut request);
    }
    let response = service.call(request);
    async move {
        let mut response = response.await;
        let (head, size) = match &mut response {
            Ok(response) => {
                let size = response.response().body().size();
                (response.response_mut().head_mut(), size)
            }
            Err(response) => {
                let size = response.body().size();
                (response.head_mut(), size)
            }
        };
        // Set when the response is sent. Until then it is that of another response whose memory is used again, and the
        // default of the connection type depends on it.
        head.version = framing.version;
        framing.apply(head, size);
        if let Some(turn) = turn
            && !framing.closes_connection(head, size)
        {
            turn.response_started();
        }
        response
    }
}

/// Ends the body of a request that could switch protocols where its length says. The parser reads it until the connection
/// ends.
fn limit_body(request: &mut Request) {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let (Some(length), false) = (length, matches!(request.payload(), Payload::None)) else { return };
    let payload = request.take_payload();
    let limited = stream::unfold((payload, length), |(mut payload, remaining): (Payload, u64)| async move {
        if remaining == 0 {
            return None;
        }
        let chunk = payload.next().await?.map(|mut chunk| {
            chunk.truncate(usize::try_from(remaining).unwrap_or(usize::MAX));
            chunk
        });
        let remaining = chunk.as_ref().map_or(0, |chunk| remaining - chunk.len() as u64);
        Some((chunk, (payload, remaining)))
    });
    let limited: Pin<Box<dyn Stream<Item = _>>> = Box::pin(limited);
    *request.payload() = Payload::from(limited);
}

/// The framing that a request demands of its response.
#[derive(Clone, Copy)]
struct Framing {
    /// Before HTTP/1.1, the client does not support chunked encoding.
    version: Version,
    /// Whether the client closes the connection after the response.
    is_last: bool,
    /// Whether the client requests another protocol.
    is_upgrade: bool,
}

impl Framing {
    fn of(request: &Request) -> Self {
        let head = request.head();
        Self {
            version: head.version,
            is_last: head.connection_type() == ConnectionType::Close,
            is_upgrade: head.connection_type() == ConnectionType::Upgrade
                || head.headers.contains_key(header::UPGRADE)
                || head.method == Method::CONNECT,
        }
    }

    fn is_http_10(self) -> bool {
        self.version < Version::HTTP_11
    }

    /// Whether the connection is closed after this response.
    fn closes_connection(self, head: &ResponseHead, size: BodySize) -> bool {
        // The connection type of a response to HTTP/1.0 has no effect: the connection is closed after a response
        // without a length.
        let is_closed =
            if self.is_http_10() { size == BodySize::Stream } else { head.connection_type() == ConnectionType::Close };
        self.is_last || is_closed
    }

    fn apply(self, head: &mut ResponseHead, size: BodySize) {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        if (self.is_http_10() || self.is_upgrade) && size == BodySize::Stream {
            // The body ends with the connection.
            head.no_chunking(true);
            head.set_connection_type(ConnectionType::Close);
        }
        if self.is_upgrade {
            // The response would otherwise repeat the `Connection: upgrade` of the request.
            head.set_connection_type(ConnectionType::Close);
        }
    }
}
