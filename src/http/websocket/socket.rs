//! A WebSocket connection. It is the body of the response: a stream that is polled only while the connection can send, so
//! that a client that does not read costs no memory.

use std::{future::pending, net::IpAddr, rc::Rc, sync::Arc, time::Duration};

use actix_http::ws::{CloseCode, CloseReason, OpCode, Parser};
use actix_web::web::{Bytes, BytesMut};
use tokio::time::{Instant, sleep_until};

use super::{
    frames::{Frames, Received, TOO_MANY, Violation},
    messages::{self, ClientMessage, MessageError},
};
use crate::{
    auth::Authenticator,
    domain::TicketDigest,
    feed::{After, Closing, Event, Feed, Filter, Position, ResyncReason},
    http::{
        feed_reader::{Client, Connection, End, FeedReader, Part},
        recheck::{AccessLost, Recheck},
        turn::Turn,
    },
    service::{Error, TicketGrant, TicketStore},
};

/// How long a client may take to subscribe.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of pings, ± 20 %.
const PING_INTERVAL: Duration = Duration::from_secs(25);
const PING_JITTER: f64 = 0.2;
/// How long a client may be silent, although it has to respond to pings.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(65);
/// How long a client may take to close its side of the connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before another attempt to read the database.
const RETRY: Duration = Duration::from_secs(1);

/// Close codes of this protocol.
const CREDENTIALS_INVALID: CloseCode = CloseCode::Other(4401);
const SCOPE_MISSING: CloseCode = CloseCode::Other(4403);
const SILENT: CloseCode = CloseCode::Other(4408);

/// What connections use.
pub(super) struct Services {
    pub(super) feed: Feed,
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) tickets: TicketStore,
    /// The address of the client.
    pub(super) address: Option<IpAddr>,
    /// Reports the end to the connection.
    pub(super) turn: Option<Rc<Turn>>,
}

/// How a client has authenticated.
pub(super) enum Entry {
    Client(Client),
    Ticket(Connection, String),
}

/// A WebSocket.
pub(super) struct Socket {
    services: Services,
    frames: Frames,
    state: State,
    closing: Closing,
    /// A ticket to use.
    ticket: Option<String>,
    /// What the first ticket has permitted.
    grant: Option<TicketGrant>,
    /// Frames to send.
    outgoing: BytesMut,
    opened_at: Instant,
    heard_at: Instant,
    ping_at: Instant,
}

enum State {
    /// The ticket has not been used.
    Entering(Connection),
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

/// What happens next.
enum Step {
    Received(Result<Received, Violation>),
    Attached(Option<ResyncReason>),
    Produced(Part),
    Failed(Error),
    ShuttingDown,
    Due,
}

impl Socket {
    pub(super) fn new(services: Services, frames: Frames, entry: Entry) -> Self {
        let now = Instant::now();
        let (state, ticket) = match entry {
            Entry::Client(client) => (State::Open(client), None),
            Entry::Ticket(connection, ticket) => (State::Entering(connection), Some(ticket)),
        };
        Self {
            closing: services.feed.closing(),
            services,
            frames,
            state,
            ticket,
            grant: None,
            outgoing: BytesMut::new(),
            opened_at: now,
            heard_at: now,
            ping_at: now + ping_interval(),
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
                let grant = self.redeem(&ticket).await;
                self.take_grant(grant);
                continue;
            }
            let due = self.due();
            let is_closed = matches!(self.state, State::Closed { .. });
            let step = tokio::select! {
                // First what the client has sent, so that a client is not taken for silent while it could not be read.
                biased;
                received = self.frames.next() => Step::Received(received),
                step = produce(&mut self.state) => step,
                () = self.closing.clone().reached(), if !is_closed => Step::ShuttingDown,
                () = sleep_until(due) => Step::Due,
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

    async fn redeem(&self, ticket: &str) -> Result<Option<TicketGrant>, Error> {
        match TicketDigest::of(ticket) {
            Some(digest) => self.services.tickets.redeem(digest).await,
            None => Ok(None),
        }
    }

    fn take_grant(&mut self, grant: Result<Option<TicketGrant>, Error>) {
        let is_renewed = |grant: &TicketGrant| {
            self.grant.as_ref().is_none_or(|first| (&first.actor, first.user) == (&grant.actor, grant.user))
        };
        let grant = match grant {
            Ok(Some(grant)) if is_renewed(&grant) => grant,
            Ok(Some(_)) => return self.close(SCOPE_MISSING, "the ticket is for another caller or user"),
            Ok(None) => return self.refuse_ticket(),
            Err(error) => {
                tracing::debug!(%error, "cannot use a ticket");
                return self.close(CloseCode::Again, "the database is unavailable; connect again with another ticket");
            }
        };
        let recheck = Recheck::of_ticket(Arc::clone(&self.services.authenticator), &grant);
        if let Err(lost) = recheck.check() {
            return self.close_without_access(lost);
        }
        self.grant = Some(grant);
        self.state = match std::mem::replace(&mut self.state, State::Ended) {
            State::Entering(connection) => State::Open(connection.client(recheck, &self.services.feed)),
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

    fn refuse_ticket(&mut self) {
        let limits = self.services.authenticator.limits();
        let is_limited = self.services.address.is_some_and(|address| limits.credentials_invalid(address).is_err());
        if is_limited {
            return self.close(TOO_MANY, "this address has sent too many invalid tickets");
        }
        self.close(CREDENTIALS_INVALID, "the ticket is unknown, expired or was used before");
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Received(received) => self.receive(received),
            Step::Attached(reason) => self.attach(reason),
            Step::Produced(part) => self.send_part(part),
            Step::Failed(error) => {
                tracing::debug!(%error, "cannot read the feed");
                if let State::Subscribed(subscribed) = &mut self.state {
                    subscribed.retry_at = Some(Instant::now() + RETRY);
                }
            }
            Step::ShuttingDown => self.close_for_restart(),
            Step::Due => self.check_time(),
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
        if let Some(turn) = &self.services.turn {
            turn.end();
        }
    }

    fn receive_message(&mut self, text: &str) {
        match ClientMessage::parse(text) {
            Ok(ClientMessage::Subscribe(after, filter)) => self.subscribe(after, filter),
            Ok(ClientMessage::Renew(ticket)) if self.grant.is_some() => self.ticket = Some(ticket),
            Ok(ClientMessage::Renew(_)) => {
                let error = MessageError::invalid("only a connection that was opened with a ticket is renewed");
                self.push_text(&messages::error(&error));
            }
            Err(error) => {
                let is_malformed = error.code == "malformed-json";
                self.push_text(&messages::error(&error));
                if is_malformed {
                    self.close(CloseCode::Invalid, "the message is not JSON");
                }
            }
        }
    }

    fn subscribe(&mut self, after: After, mut filter: Filter) {
        if let Some(user) = self.grant.as_ref().and_then(|grant| grant.user) {
            if filter.users.as_ref().is_some_and(|users| users.iter().any(|other| *other != user)) {
                let error = MessageError::invalid(format!("ids: the ticket is for {user} only"));
                return self.push_text(&messages::error(&error));
            }
            (filter.users, filter.receiver) = (Some(vec![user]), Some(user));
        }
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Open(client) => {
                let reader = FeedReader::new(self.services.feed.subscribe(after, filter), client, None);
                self.state = State::Subscribed(Box::new(Subscribed { reader, is_attached: false, retry_at: None }));
            }
            state => {
                self.state = state;
                let error =
                    MessageError::new("subscribed-already", "a connection has one subscription; open another one");
                self.push_text(&messages::error(&error));
            }
        }
    }

    fn attach(&mut self, reason: Option<ResyncReason>) {
        let State::Subscribed(subscribed) = &mut self.state else { return };
        subscribed.retry_at = None;
        let Some(position) = subscribed.reader.position() else { return };
        subscribed.is_attached = true;
        let hello = messages::hello(position, PING_INTERVAL.as_millis());
        let resync = reason.map(|reason| messages::resync(reason, position));
        self.push_text(&hello);
        if let Some(resync) = resync {
            self.push_text(&resync);
        }
    }

    fn send_part(&mut self, part: Part) {
        let State::Subscribed(subscribed) = &mut self.state else { return };
        subscribed.retry_at = None;
        let Some(position) = subscribed.reader.position() else { return };
        match part {
            Part::Events(events) => {
                let position = position.clone();
                self.send_events(&events, &position);
            }
            Part::Heartbeat => {
                let bookmark = messages::bookmark(position);
                self.push_text(&bookmark);
            }
            Part::Resync(reason) => {
                let resync = messages::resync(reason, position);
                self.push_text(&resync);
            }
            Part::End(End::AccessLost(lost)) => self.close_without_access(lost),
            Part::End(End::Closing | End::Complete) => self.close_for_restart(),
        }
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

    fn close_for_restart(&mut self) {
        self.close(CloseCode::Restart, "connect again; another process continues");
    }

    /// Closes the connection without its position: events before it may have been withheld.
    fn close_without_access(&mut self, lost: AccessLost) {
        match lost {
            AccessLost::Credentials => self.send_end(CREDENTIALS_INVALID, "the credentials are no longer valid"),
            AccessLost::Scope => self.send_end(SCOPE_MISSING, "the credentials no longer have the scope"),
        }
    }

    fn check_time(&mut self) {
        let now = Instant::now();
        match self.state {
            State::Closed { .. } => self.end(),
            State::Open(_) if now >= self.opened_at + SUBSCRIBE_TIMEOUT => {
                self.close(SILENT, "no subscription within 10 s");
            }
            _ if now >= self.heard_at + SILENCE_TIMEOUT => self.close(SILENT, "no response to pings"),
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
            let bookmark = messages::bookmark(position);
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
async fn produce(state: &mut State) -> Step {
    let subscribed = match state {
        State::Subscribed(subscribed) => subscribed,
        State::Open(client) => {
            client.displaced().await;
            return Step::ShuttingDown;
        }
        State::Entering(_) | State::Closed { .. } | State::Ended => return pending().await,
    };
    let Subscribed { reader, is_attached, retry_at } = subscribed.as_mut();
    if let Some(time) = retry_at {
        sleep_until(*time).await;
    }
    if *is_attached {
        return reader.next().await.map_or_else(Step::Failed, Step::Produced);
    }
    reader.attach().await.map_or_else(Step::Failed, Step::Attached)
}

fn ping_interval() -> Duration {
    let random = f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX);
    PING_INTERVAL.mul_f64(1.0 - PING_JITTER + 2.0 * PING_JITTER * random)
}
