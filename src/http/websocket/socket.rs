//! A WebSocket connection. It is the body of the response: a stream that is polled only while the connection can send, so
//! that a client that does not read costs no memory.

use std::{future::pending, pin::Pin, rc::Rc, time::Duration};

use actix_http::ws::{CloseCode, CloseReason, OpCode, Parser};
use actix_web::web::{Bytes, BytesMut};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    frames::{Frames, Received, Violation},
    messages::{self, ClientMessage, ErrorCode, MessageError, ServerMessage},
    tickets::Tickets,
};
use crate::{
    feed::{After, Closing, Event, Feed, Filter, Position, PresenceGuard, ResyncReason, random_fraction},
    http::{
        feed_reader::{Client, End, FeedReader, Part, RETRY},
        live_connection::LiveConnection,
        recheck::Recheck,
        turn::Turn,
    },
    service::Error,
};

/// How long a client may take to subscribe.
pub(in crate::http) const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of pings, ± 20 %.
pub(in crate::http) const PING_INTERVAL: Duration = Duration::from_secs(25);
const PING_JITTER: f64 = 0.2;
/// How long a client may be silent, although it has to respond to pings.
pub(in crate::http) const SILENCE_TIMEOUT: Duration = Duration::from_secs(65);
/// How long a client may take to close its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The reason of a restart.
const RESTART_REASON: &str = "connect again; another process continues";
/// Close code of a client that is silent.
const CLOSE_SILENT: CloseCode = CloseCode::Other(4408);

/// The authentication of a client.
pub(super) enum Entry {
    Client(Client),
    Ticket(LiveConnection, String),
}

/// A WebSocket.
pub(super) struct Socket {
    feed: Feed,
    frames: Frames,
    tickets: Tickets,
    /// A ticket to use.
    ticket: Option<String>,
    /// Shows that the user of the ticket is connected.
    presence: Option<PresenceGuard>,
    state: State,
    closing: Closing,
    /// Reports the end to the connection.
    turn: Option<Rc<Turn>>,
    /// Frames to send.
    outgoing: BytesMut,
    opened_at: Instant,
    heard_at: Instant,
    ping_at: Instant,
    /// Kept, because what is due rarely changes.
    timer: Pin<Box<Sleep>>,
}

enum State {
    /// The ticket has not been used.
    Entering(LiveConnection),
    /// The client has not subscribed.
    Open(Client),
    Subscribed(Box<Subscribed>),
    /// The end has been sent.
    Closed {
        until: Instant,
    },
    Ended,
}

struct Subscribed {
    reader: FeedReader,
    /// Whether `hello` has been sent.
    is_attached: bool,
    /// When the database is read again after an error.
    retry_at: Option<Instant>,
}

/// The next event of the connection.
enum Step {
    Received(Result<Received, Violation>),
    Attached(Option<ResyncReason>),
    Produced(Part),
    Failed(Error),
    ShuttingDown,
    Due,
}

impl Socket {
    pub(super) fn new(feed: Feed, frames: Frames, tickets: Tickets, entry: Entry, turn: Option<Rc<Turn>>) -> Self {
        let now = Instant::now();
        let (state, ticket) = match entry {
            Entry::Client(client) => (State::Open(client), None),
            Entry::Ticket(connection, ticket) => (State::Entering(connection), Some(ticket)),
        };
        Self {
            closing: feed.closing(),
            feed,
            frames,
            tickets,
            ticket,
            presence: None,
            state,
            turn,
            outgoing: BytesMut::new(),
            opened_at: now,
            heard_at: now,
            ping_at: now + ping_interval(),
            timer: Box::pin(sleep_until(now)),
        }
    }

    /// Returns the next frames to send; `None` once the connection has ended.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.outgoing.is_empty() {
                return Some(std::mem::take(&mut self.outgoing).freeze());
            }
            if matches!(self.state, State::Ended) {
                return None;
            }
            if let Some(ticket) = self.ticket.take() {
                // Not cancelled by what arrives in the meantime: it could have been used then.
                match self.tickets.redeem(&ticket).await {
                    Ok(recheck) => self.permit(recheck),
                    Err(Violation { code, reason }) => self.close(code, reason),
                }
                continue;
            }
            let due = self.due();
            if self.timer.deadline() != due {
                self.timer.as_mut().reset(due);
            }
            let step = tokio::select! {
                // First what the client has sent, so that a client is not taken for silent while it could not be read.
                biased;
                received = self.frames.next() => Step::Received(received),
                step = produce(&mut self.state, &self.closing) => step,
                () = self.timer.as_mut() => Step::Due,
            };
            self.take(step);
        }
    }

    /// Returns when something is due.
    fn due(&self) -> Instant {
        match self.state {
            State::Entering(_) | State::Open(_) => self.ping_at.min(self.opened_at + SUBSCRIBE_TIMEOUT),
            State::Closed { until } => until,
            State::Subscribed(_) | State::Ended => self.ping_at,
        }
    }

    fn permit(&mut self, recheck: Recheck) {
        if let (Some(user), None) = (self.tickets.user(), &self.presence) {
            self.presence = Some(self.feed.presence().enter(user));
        }
        self.state = match std::mem::replace(&mut self.state, State::Ended) {
            State::Entering(connection) => State::Open(Client::on(connection, recheck, &self.feed)),
            State::Open(mut client) => {
                client.set_recheck(recheck);
                State::Open(client)
            }
            State::Subscribed(mut subscribed) => {
                subscribed.reader.client_mut().set_recheck(recheck);
                State::Subscribed(subscribed)
            }
            state => state,
        };
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Received(received) => self.receive(received),
            Step::Attached(reason) => self.attach(reason),
            Step::Produced(part) => self.send_part(part),
            Step::Failed(error) => self.retry_later(&error),
            Step::ShuttingDown => self.close(CloseCode::Restart, RESTART_REASON),
            Step::Due => self.check_time(),
        }
    }

    fn retry_later(&mut self, error: &Error) {
        tracing::debug!(error = crate::error_chain::chain(&error), "cannot read the feed");
        if let State::Subscribed(subscribed) = &mut self.state {
            subscribed.retry_at = Some(Instant::now() + RETRY);
        }
    }

    fn receive(&mut self, received: Result<Received, Violation>) {
        self.heard_at = Instant::now();
        match (received, &self.state) {
            (Ok(Received::Lost | Received::Close(_)) | Err(_), State::Closed { .. }) | (Ok(Received::Lost), _) => {
                self.end();
            }
            (Ok(_), State::Closed { .. }) | (Ok(Received::Pong), _) => {}
            (Ok(Received::Text(text)), _) => self.receive_message(&text),
            (Ok(Received::Ping(payload)), _) => self.push(OpCode::Pong, &payload),
            (Ok(Received::Close(reason)), _) => {
                // The response repeats the code.
                let reason = reason.map(|reason| CloseReason { description: None, ..reason });
                Parser::write_close(&mut self.outgoing, reason, false);
                self.end();
            }
            (Err(Violation { code, reason }), _) => {
                self.close(code, reason);
                // What follows cannot be understood. The connection reads it for a while, so that the reason arrives.
                self.state = State::Ended;
            }
        }
    }

    /// Ends the connection: both sides have closed it.
    fn end(&mut self) {
        self.state = State::Ended;
        if let Some(turn) = &self.turn {
            turn.end();
        }
    }

    fn receive_message(&mut self, text: &str) {
        match ClientMessage::parse(text) {
            Ok(ClientMessage::Subscribe(after, filter)) => self.subscribe(after, filter),
            Ok(ClientMessage::Renew(ticket)) if self.tickets.grant.is_some() => self.ticket = Some(ticket),
            Ok(ClientMessage::Renew(_)) => {
                self.refuse(&MessageError::invalid("only a connection that was opened with a ticket is renewed"));
            }
            Err(error) => {
                let is_malformed = error.code == ErrorCode::MalformedJson;
                self.refuse(&error);
                if is_malformed {
                    self.close(CloseCode::Invalid, "the message is not JSON");
                }
            }
        }
    }

    fn refuse(&mut self, error: &MessageError) {
        self.push_text(&ServerMessage::from(error).to_json());
    }

    fn subscribe(&mut self, after: After, filter: Filter) {
        let filter = match self.tickets.restrict(filter) {
            Ok(filter) => filter,
            Err(error) => return self.refuse(&error),
        };
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Open(client) => {
                let reader = FeedReader::new(self.feed.subscribe(after, filter), client, None);
                self.state = State::Subscribed(Box::new(Subscribed { reader, is_attached: false, retry_at: None }));
            }
            state => {
                self.state = state;
                let error = MessageError::new(
                    ErrorCode::SubscribedAlready,
                    "a connection has one subscription; open another one",
                );
                self.refuse(&error);
            }
        }
    }

    fn attach(&mut self, reason: Option<ResyncReason>) {
        let State::Subscribed(subscribed) = &mut self.state else { return };
        subscribed.retry_at = None;
        let Some(position) = subscribed.reader.position() else { return };
        subscribed.is_attached = true;
        let hello = ServerMessage::Hello { position, heartbeat_ms: PING_INTERVAL.as_millis() }.to_json();
        let resync = reason.map(|reason| ServerMessage::Resync { reason, position }.to_json());
        self.push_text(&hello);
        if let Some(resync) = resync {
            self.push_text(&resync);
        }
    }

    fn send_part(&mut self, part: Part) {
        let State::Subscribed(subscribed) = &mut self.state else { return };
        subscribed.retry_at = None;
        let Some(position) = subscribed.reader.position() else { return };
        let message = match part {
            Part::Events(events) => {
                let position = position.clone();
                return self.send_events(&events, &position);
            }
            Part::Heartbeat => ServerMessage::Bookmark { position },
            Part::Resync(reason) => ServerMessage::Resync { reason, position },
            Part::End(End::AccessLost(lost)) => {
                // Without the position: events before it have been withheld.
                let Violation { code, reason } = lost.into();
                return self.send_end(code, reason);
            }
            Part::End(End::Closing | End::Complete) => return self.close(CloseCode::Restart, RESTART_REASON),
        };
        let message = message.to_json();
        self.push_text(&message);
    }

    /// Sends changes together, and messages one by one.
    fn send_events(&mut self, events: &[Event], position: &Position) {
        let is_message = |event: &Event| event.event_type().is_none();
        for events in events.chunk_by(|event, next| !is_message(event) && !is_message(next)) {
            let [.., last] = events else { continue };
            if is_message(last) {
                self.push(OpCode::Text, &last.json());
            } else {
                let position = Position { epoch: position.epoch.clone(), number: last.number() };
                let message = messages::events(events, &position);
                self.push(OpCode::Text, &message);
            }
        }
    }

    fn check_time(&mut self) {
        let now = Instant::now();
        match self.state {
            State::Closed { .. } => self.end(),
            State::Open(_) if now >= self.opened_at + SUBSCRIBE_TIMEOUT => {
                self.close(CLOSE_SILENT, "no subscription within 10 s");
            }
            _ if now >= self.heard_at + SILENCE_TIMEOUT => self.close(CLOSE_SILENT, "no response to pings"),
            _ => {
                self.push(OpCode::Ping, b"");
                self.ping_at = now + ping_interval();
            }
        }
    }

    /// Sends the position and the end.
    fn close(&mut self, code: CloseCode, reason: &'static str) {
        if let State::Subscribed(subscribed) = &self.state
            && subscribed.is_attached
            && let Some(position) = subscribed.reader.position()
        {
            let bookmark = ServerMessage::Bookmark { position }.to_json();
            self.push_text(&bookmark);
        }
        self.send_end(code, reason);
    }

    fn send_end(&mut self, code: CloseCode, reason: &'static str) {
        let reason = CloseReason { code, description: Some(reason.to_owned()) };
        Parser::write_close(&mut self.outgoing, Some(reason), false);
        self.state = State::Closed { until: Instant::now() + CLOSE_TIMEOUT };
    }

    fn push_text(&mut self, text: &str) {
        self.push(OpCode::Text, text.as_bytes());
    }

    fn push(&mut self, code: OpCode, payload: &[u8]) {
        Parser::write_message(&mut self.outgoing, payload, code, true, false);
    }
}

/// Reads the feed.
async fn produce(state: &mut State, closing: &Closing) -> Step {
    let subscribed = match state {
        State::Subscribed(subscribed) => subscribed,
        State::Open(client) => {
            tokio::select! {
                () = client.displaced() => {}
                () = closing.clone().reached() => {}
            }
            return Step::ShuttingDown;
        }
        State::Entering(_) | State::Closed { .. } | State::Ended => return pending().await,
    };
    let Subscribed { reader, is_attached, retry_at } = subscribed.as_mut();
    if *is_attached && retry_at.is_none() {
        return reader.next().await.map_or_else(Step::Failed, Step::Produced);
    }
    let produced = async {
        if let Some(time) = retry_at {
            sleep_until(*time).await;
        }
        if *is_attached {
            return reader.next().await.map_or_else(Step::Failed, Step::Produced);
        }
        reader.attach().await.map_or_else(Step::Failed, Step::Attached)
    };
    tokio::select! {
        step = produced => step,
        () = closing.clone().reached() => Step::ShuttingDown,
    }
}

fn ping_interval() -> Duration {
    PING_INTERVAL.mul_f64(1.0 + PING_JITTER * (2.0 * random_fraction() - 1.0))
}
