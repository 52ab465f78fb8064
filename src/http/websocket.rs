//! `GET /ws`: the feed over WebSocket (RFC 6455).

mod frames;
mod messages;
mod socket;
mod tickets;

use std::{convert::Infallible, rc::Rc, sync::Arc};

use actix_http::ws::{self, HandshakeError};
use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    body::BodyStream,
    http::{
        Method, StatusCode, Version,
        header::{self, HeaderMap, HeaderValue},
    },
    web,
};
use futures_util::stream;

use self::{
    frames::Frames,
    socket::{Entry, Socket},
    tickets::Tickets,
};
pub(super) use self::{
    frames::{FRAMES_PERIOD, MAX_FRAMES, MAX_MESSAGE},
    messages::{ErrorCode, schemas},
    socket::{PING_INTERVAL, SILENCE_TIMEOUT, SUBSCRIBE_TIMEOUT},
};
use super::{
    access::{AllowedOrTicket, FeedRead, TicketParameters, authenticator},
    changes::disabled,
    client_address::client_address,
    feed_reader::Client,
    live_connection::LiveConnection,
    origin,
    problem::{Kind, Problem},
    request_info::RequestInfo,
    responses::{ServerProblems, WebSocketProblems},
    turn::Turn,
};
use crate::{feed::Feed, service::TicketStore};

/// The protocol of the messages.
const PROTOCOL: &str = "users-api.v1";

/// Read the feed over WebSocket
///
/// Opens a connection with the protocol `users-api.v1`, whose messages are described in `docs/FEED.md`. The client sends
/// `{"type":"subscribe","after":"…"}`, and receives events until it disconnects.
#[utoipa::path(
    get,
    path = "/ws",
    tag = "users",
    operation_id = "openWebSocket",
    params(
        TicketParameters,
        ("Sec-WebSocket-Protocol" = Option<String>, Header, description = "`users-api.v1`, which is also the default"),
    ),
    responses(
        (status = 101, description = "The connection is a WebSocket"),
        WebSocketProblems,
        ServerProblems,
    ),
)]
pub(super) async fn open(
    caller: AllowedOrTicket<FeedRead>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let feed = request.app_data::<web::Data<Feed>>().ok_or_else(disabled)?;
    origin::check(&request)?;
    let mut response = handshake(&request)?;
    if feed.closing().has_begun() {
        return Err(Problem::new(Kind::ShuttingDown, "The service is shutting down. Connect again."));
    }
    let entry = match caller {
        AllowedOrTicket::Allowed(caller) => Entry::Client(Client::new(&caller, &request, feed)?),
        AllowedOrTicket::Ticket(ticket) => Entry::Ticket(LiveConnection::of(&request), ticket),
    };
    let tickets = Tickets {
        authenticator: Arc::clone(authenticator(&request)?),
        store: request
            .app_data::<web::Data<TicketStore>>()
            .map(|store| TicketStore::clone(store))
            .ok_or_else(disabled)?,
        address: client_address(&request),
        grant: None,
    };
    let turn = request.conn_data::<Rc<Turn>>().cloned();
    let socket = Socket::new(Feed::clone(feed), Frames::new(payload), tickets, entry, turn);
    Ok(response.body(BodyStream::new(stream::unfold(socket, |mut socket| async move {
        let frames = socket.next().await?;
        Some((Ok::<_, Infallible>(frames), socket))
    }))))
}

/// Returns the response to a handshake.
fn handshake(request: &HttpRequest) -> Result<HttpResponseBuilder, Problem> {
    let headers = request.headers();
    let is_head = RequestInfo::of(request).is_some_and(|info| info.method == Method::HEAD);
    if request.version() != Version::HTTP_11 || is_head {
        return Err(upgrade_required("A WebSocket is opened by GET over HTTP/1.1."));
    }
    // The parser switches protocols only for this value, and for no list of protocols.
    if headers.get(header::UPGRADE).is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return Err(upgrade_required("Upgrade must be websocket alone."));
    }
    let has_length = headers.get_all(header::CONTENT_LENGTH).any(|length| length != "0");
    if has_length || headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Problem::new(Kind::InvalidHandshake, "The request must not have a body."));
    }
    ws::verify_handshake(request.head()).map_err(|error| match error {
        HandshakeError::UnsupportedVersion | HandshakeError::NoVersionHeader => {
            upgrade_required("The version of the protocol is 13.")
                .with_header(header::SEC_WEBSOCKET_VERSION, "13".to_owned())
        }
        HandshakeError::BadWebsocketKey => {
            Problem::new(Kind::InvalidHandshake, "Sec-WebSocket-Key must be 16 bytes in Base64.")
        }
        _ => upgrade_required("Open a WebSocket: Connection: Upgrade, and Upgrade: websocket."),
    })?;
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).map_or(&[][..], |key| key.as_bytes());
    let accept = HeaderValue::from_bytes(&ws::hash_key(key)).map_err(Problem::internal)?;
    let mut response = HttpResponse::build(StatusCode::SWITCHING_PROTOCOLS);
    response.upgrade("websocket").insert_header((header::SEC_WEBSOCKET_ACCEPT, accept));
    if requests_protocol(request.headers())? {
        response.insert_header((header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL));
    }
    Ok(response)
}

fn upgrade_required(detail: &'static str) -> Problem {
    Problem::new(Kind::UpgradeRequired, detail).with_header(header::UPGRADE, "websocket".to_owned())
}

/// Returns whether the client requests the protocol. It need not; but if it requests others only, it is refused.
fn requests_protocol(headers: &HeaderMap) -> Result<bool, Problem> {
    let mut requested = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).peekable();
    if requested.peek().is_none() {
        return Ok(false);
    }
    let names =
        |value: &HeaderValue| value.to_str().is_ok_and(|names| names.split(',').any(|name| name.trim() == PROTOCOL));
    if requested.any(names) {
        return Ok(true);
    }
    Err(Problem::new(Kind::InvalidHandshake, format!("The protocol is {PROTOCOL}.")))
}
