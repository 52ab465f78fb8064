//! A connection that gives the HTTP parser one request at a time.
//!
//! actix-http decodes up to 16 requests of a pipeline ahead, and frames each answer by what the request that it decoded *last*
//! says: after `GET …` and `HEAD …` in one packet the answer to GET has a length and no body, and the client waits for it for
//! ever. So the next request is held back here until the answer to the one before it has begun. What a request's body is,
//! is decided by the parser alone: [`begin`](Turn::begin) reports it.
//!
//! The parser also answers by itself what it cannot read (400, 408, 431), without a body. Those answers become problems
//! here, on their way out.

use std::{
    cell::{Cell, RefCell},
    io,
    mem::MaybeUninit,
    pin::Pin,
    rc::Rc,
    sync::LazyLock,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use actix_http::{HttpMessage, Payload, Request};
use actix_web::{
    http::header,
    web::{Buf, Bytes, BytesMut},
};
use memchr::memmem::Finder;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::refusal;

const HEAD_END: &[u8] = b"\r\n\r\n";
static FIND_HEAD_END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(HEAD_END));
/// As nearly all clients write it.
static FIND_LENGTH: LazyLock<[Finder<'static>; 2]> =
    LazyLock::new(|| ["\r\ncontent-length: ", "\r\nContent-Length: "].map(Finder::new));
/// Bytes that are read ahead of the parser, so that a client that goes away is noticed.
const READ_AHEAD: usize = 4 * 1024;
/// Room for them, which is not worth clearing for each request.
const UNREAD: [MaybeUninit<u8>; READ_AHEAD] = [const { MaybeUninit::uninit() }; READ_AHEAD];
/// How long a client that was refused may go on sending.
const LINGER: Duration = Duration::from_secs(1);

/// The request that a connection is at: shared by its stream and what answers its requests.
#[derive(Debug, Default)]
pub struct Turn {
    /// What the parser says of the latest request's body, until the stream takes note of it.
    begun: Cell<Option<Body>>,
    is_answered: Cell<bool>,
    /// Whether nothing of that answer has been written.
    is_unsent: Cell<bool>,
    /// Of the task that would read on.
    waiting: RefCell<Option<Waker>>,
}

/// What follows the head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Length(u64),
    Chunks(Chunks),
    /// All that comes.
    Rest,
}

impl Turn {
    /// The parser has read the head of a request.
    pub(super) fn begin(&self, request: &mut Request) {
        let body = if matches!(request.payload(), Payload::None) {
            Body::Length(0)
        } else if request.chunked().unwrap_or(false) {
            Body::Chunks(Chunks::default())
        } else {
            let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
            length.and_then(|length| length.parse().ok()).map_or(Body::Rest, Body::Length)
        };
        self.begun.set(Some(body));
        self.is_answered.set(false);
        self.wake();
    }

    /// The head of its answer is there.
    pub(super) fn answered(&self) {
        self.is_answered.set(true);
        self.is_unsent.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }
}

/// How far a body in chunks was read (RFC 9112, section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunks {
    Size(u64),
    /// The rest of the line with the size.
    Extension(u64),
    /// What is left of a chunk and its line end.
    Data(u64),
    /// A line of the trailer, and whether it has anything in it.
    Trailer(bool),
}

impl Default for Chunks {
    fn default() -> Self {
        Self::Size(0)
    }
}

impl Chunks {
    /// How many of these bytes belong to the body, and whether it is over.
    fn read(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut at = 0;
        while at < bytes.len() {
            let byte = bytes[at];
            let digit = char::from(byte).to_digit(16).map(u64::from);
            *self = match (*self, byte) {
                (Self::Size(size), _) if digit.is_some() => {
                    Self::Size(size.saturating_mul(16).saturating_add(digit.unwrap_or_default()))
                }
                (Self::Size(0) | Self::Extension(0), b'\n') => Self::Trailer(false),
                (Self::Size(size) | Self::Extension(size), b'\n') => Self::Data(size.saturating_add(2)),
                (Self::Size(size) | Self::Extension(size), _) => Self::Extension(size),
                (Self::Data(left), _) => {
                    let here = left.min((bytes.len() - at) as u64);
                    at += usize::try_from(here).unwrap_or(usize::MAX) - 1;
                    if here == left { Self::Size(0) } else { Self::Data(left - here) }
                }
                (Self::Trailer(false), b'\n') => return (at + 1, true),
                (Self::Trailer(_), b'\n') => Self::Trailer(false),
                (Self::Trailer(has_any), byte) => Self::Trailer(has_any || byte != b'\r'),
            };
            at += 1;
        }
        (bytes.len(), false)
    }
}

/// What the parser may read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A head, of which so many bytes of its end have come (`\r\n\r\n`), and whether anything else has.
    Head { ended: usize, is_blank: bool },
    /// Nothing until the parser has said what the head means. So many bytes of the body it has already.
    Parsing { ahead: u64 },
    /// What is left of a body.
    Body(Body),
    /// Nothing until the answer has begun.
    Answering,
}

const NEXT: State = State::Head { ended: 0, is_blank: true };

/// A client's connection, which gives its reader one request at a time.
#[derive(Debug)]
pub struct OneAtATime<S> {
    stream: S,
    turn: Rc<Turn>,
    state: State,
    held: BytesMut,
    has_ended: bool,
    /// Whether a request was understood before.
    has_begun: bool,
    /// Whether the parser has refused a request.
    is_refused: bool,
    lingering: Option<Pin<Box<Sleep>>>,
    /// An answer in the place of the parser's: what is left of it, and the length of the parser's.
    instead: Option<(Bytes, usize)>,
}

impl<S> OneAtATime<S> {
    /// Takes over a new connection.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            turn: Rc::default(),
            state: NEXT,
            held: BytesMut::new(),
            has_ended: false,
            has_begun: false,
            is_refused: false,
            lingering: None,
            instead: None,
        }
    }

    /// What the service reports to.
    pub fn turn(&self) -> Rc<Turn> {
        Rc::clone(&self.turn)
    }

    /// Takes note of what has happened since.
    fn go_on(&mut self) {
        if let Some(body) = self.turn.begun.take() {
            self.has_begun = true;
            self.state = match (self.state, body) {
                // The parser takes line feeds alone for ends of lines, too. Then all is up to it.
                (State::Head { .. }, _) | (State::Parsing { ahead: 1.. }, Body::Chunks(_)) => State::Body(Body::Rest),
                // More than the parser took for the body would be a part of the next head; likewise.
                (State::Parsing { ahead }, Body::Length(length)) if ahead > length => State::Body(Body::Rest),
                (State::Parsing { ahead }, Body::Length(length)) if ahead == length => State::Answering,
                (State::Parsing { ahead }, Body::Length(length)) => State::Body(Body::Length(length - ahead)),
                (State::Parsing { .. }, body) => State::Body(body),
                (state, _) => state,
            };
        }
        if self.state == State::Answering && self.turn.is_answered.get() {
            self.state = NEXT;
        }
    }

    /// How many of these bytes the parser may have now. Most often all: a packet is a request.
    fn allow(&mut self, bytes: &[u8]) -> usize {
        match self.state {
            State::Head { ended, is_blank } => {
                let Some(end) = head_end(bytes, ended, is_blank) else {
                    let is_blank = is_blank && is_blank_text(bytes);
                    self.state = State::Head { ended: ending(bytes, ended), is_blank };
                    return bytes.len();
                };
                let (head, rest) = bytes.split_at(end);
                if !rest.is_empty() && announced(head) == Some(rest.len()) {
                    self.state = State::Parsing { ahead: rest.len() as u64 };
                    return bytes.len();
                }
                self.state = State::Parsing { ahead: 0 };
                end
            }
            State::Body(Body::Rest) => bytes.len(),
            State::Body(Body::Length(left)) => {
                let here = left.min(bytes.len() as u64);
                self.state = if here == left { State::Answering } else { State::Body(Body::Length(left - here)) };
                usize::try_from(here).unwrap_or(usize::MAX)
            }
            State::Body(Body::Chunks(mut chunks)) => {
                let (here, is_over) = chunks.read(bytes);
                self.state = if is_over { State::Answering } else { State::Body(Body::Chunks(chunks)) };
                here
            }
            State::Parsing { .. } | State::Answering => 0,
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::Head { .. } | State::Body(_))
    }

    /// Whether what is written now can only be the parser's own answer to what it could not read.
    fn is_unread(&self) -> bool {
        let is_reading = match self.state {
            State::Head { is_blank, .. } => !is_blank || !self.has_begun,
            State::Parsing { .. } => true,
            State::Body(_) | State::Answering => false,
        };
        is_reading && self.turn.begun.get().is_none() && !self.turn.is_unsent.get()
    }
}

/// Where a head ends, of which so many bytes of its end have come before. Empty lines before it belong to it.
fn head_end(bytes: &[u8], ended: usize, mut is_blank: bool) -> Option<usize> {
    // The end may have begun in an earlier packet.
    if ended > 0 && !is_blank && bytes.starts_with(&HEAD_END[ended..]) {
        return Some(HEAD_END.len() - ended);
    }
    let mut from = 0;
    while is_blank {
        let blank = bytes[from..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        from += blank;
        if from == bytes.len() {
            return None;
        }
        is_blank = false;
    }
    FIND_HEAD_END.find(&bytes[from..]).map(|at| from + at + HEAD_END.len())
}

fn is_blank_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
}

/// How many bytes of the end of a head these end with, after so many before them.
fn ending(bytes: &[u8], ended: usize) -> usize {
    let whole = [&HEAD_END[..ended], bytes].concat();
    (1..HEAD_END.len()).rev().find(|length| whole.ends_with(&HEAD_END[..*length])).unwrap_or(0)
}

/// The length of the body, if a head says so plainly. Only saves a turn: what counts is what the parser says.
fn announced(head: &[u8]) -> Option<usize> {
    let at = FIND_LENGTH.iter().find_map(|name| Some(name.find(head)? + name.needle().len()))?;
    let line = &head[at..];
    let end = memchr::memchr(b'\r', line)?;
    str::from_utf8(&line[..end]).ok()?.parse().ok()
}

impl<S: AsyncRead + Unpin> AsyncRead for OneAtATime<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.go_on();
        if !this.held.is_empty() {
            if this.is_open() {
                let held = std::mem::take(&mut this.held);
                let most = held.len().min(buffer.remaining());
                let here = this.allow(&held[..most]);
                buffer.put_slice(&held[..here]);
                this.held = held;
                this.held.advance(here);
                return Poll::Ready(Ok(()));
            }
            this.turn.waiting.replace(Some(context.waker().clone()));
        }
        if this.has_ended {
            return if this.held.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        if !this.is_open() {
            return this.poll_ahead(context);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let filled = buffer.filled();
        if filled.len() == before {
            this.has_ended = true;
            return Poll::Ready(Ok(()));
        }
        let here = this.allow(&filled[before..]);
        this.held.extend_from_slice(&filled[before + here..]);
        buffer.set_filled(before + here);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> OneAtATime<S> {
    /// Reads what is not the parser's yet, to notice a client that has gone away.
    fn poll_ahead(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.held.len() < READ_AHEAD {
            let mut bytes = UNREAD;
            let mut ahead = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut ahead))?;
            if ahead.filled().is_empty() {
                self.has_ended = true;
                // Those that were sent before are answered.
                return if self.held.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            self.held.extend_from_slice(ahead.filled());
            self.turn.waiting.replace(Some(context.waker().clone()));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for OneAtATime<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_refused && this.instead.is_none() {
            // The parser's timer may go off again while the connection lingers.
            return Poll::Ready(Ok(bytes.len()));
        }
        if this.instead.is_none() && this.is_unread() {
            this.instead = refusal::of_parser(bytes).map(|problem| (problem, bytes.len()));
            this.is_refused = this.instead.is_some();
        }
        let Some((problem, length)) = &mut this.instead else {
            let written = ready!(Pin::new(&mut this.stream).poll_write(context, bytes))?;
            this.turn.is_unsent.set(false);
            return Poll::Ready(Ok(written));
        };
        while !problem.is_empty() {
            let written = ready!(Pin::new(&mut this.stream).poll_write(context, problem))?;
            if written == 0 {
                return Poll::Ready(Ok(0));
            }
            problem.advance(written);
        }
        let length = *length;
        ready!(Pin::new(&mut this.stream).poll_flush(context))?;
        ready!(this.poll_linger(context))?;
        this.instead = None;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> OneAtATime<S> {
    /// Ends the connection after a refusal. One that is closed with something unread is reset, and the client loses the
    /// answer, so what still comes is read and discarded for a while.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        let lingering = self.lingering.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        while !self.has_ended && lingering.as_mut().poll(context).is_pending() {
            let mut bytes = UNREAD;
            let mut unread = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut unread))?;
            self.has_ended = unread.filled().is_empty();
        }
        Poll::Ready(Ok(()))
    }
}
