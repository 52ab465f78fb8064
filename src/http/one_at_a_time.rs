//! A connection that passes one request at a time to the HTTP parser.
//!
//! actix-http decodes up to 16 pipelined requests ahead, and frames each response according to the request that it
//! decoded *last*: after `GET …` and `HEAD …` in one packet, the response to GET has a length but no body, and the
//! client waits for it forever. So the next request is held back here until the response to the previous one has
//! started. Only the parser decides where the body of a request ends: [`request_started`](Turn::request_started)
//! reports it.
//!
//! The parser also responds on its own to requests that it cannot parse (400, 408, 431), without a body. These
//! responses are replaced with problems here.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    rc::Rc,
    sync::LazyLock,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_web::web::{Buf, Bytes, BytesMut};
use memchr::memmem::Finder;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{
    refusal,
    turn::{Body, Turn},
};

const HEAD_END: &[u8] = b"\r\n\r\n";
static FIND_HEAD_END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(HEAD_END));
/// The usual spellings of the header.
static FIND_LENGTH: LazyLock<[Finder<'static>; 2]> =
    LazyLock::new(|| ["\r\ncontent-length: ", "\r\nContent-Length: "].map(Finder::new));
/// The number of bytes read ahead of the parser, so that a disconnected client is noticed.
const READ_AHEAD: usize = 4 * 1024;
/// An uninitialized buffer, because zeroing it for each request would be wasted work.
const EMPTY_BUFFER: [MaybeUninit<u8>; READ_AHEAD] = [const { MaybeUninit::uninit() }; READ_AHEAD];
/// How long the client of a refused request may continue to send.
const LINGER: Duration = Duration::from_secs(1);

/// The part of the stream that is passed to the parser next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A head. The last `matched` bytes are the start of its end (`\r\n\r\n`); `is_blank` if there were only line
    /// breaks.
    Head { matched: usize, is_blank: bool },
    /// Nothing until the parser has parsed the head. It has the first `ahead` bytes of the body already.
    Parsing { ahead: u64 },
    /// The rest of a body.
    Body(Body),
    /// Nothing until the response has started.
    Responding,
}

const NEXT_REQUEST: State = State::Head { matched: 0, is_blank: true };

/// A client's connection that passes one request at a time to its reader.
#[derive(Debug)]
pub struct OneAtATime<S> {
    stream: S,
    turn: Rc<Turn>,
    state: State,
    /// Bytes that were read but not passed to the parser yet.
    held: BytesMut,
    is_eof: bool,
    /// Whether the parser has parsed a request.
    has_parsed: bool,
    /// Whether the parser has refused a request.
    is_refused: bool,
    lingering: Option<Pin<Box<Sleep>>>,
    /// A problem that replaces a response of the parser: its remaining bytes, and the length of the replaced response.
    replacement: Option<(Bytes, usize)>,
}

impl<S> OneAtATime<S> {
    /// Wraps a new connection.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            turn: Rc::default(),
            state: NEXT_REQUEST,
            held: BytesMut::new(),
            is_eof: false,
            has_parsed: false,
            is_refused: false,
            lingering: None,
            replacement: None,
        }
    }

    /// Returns the handle through which the service reports its progress.
    pub fn turn(&self) -> Rc<Turn> {
        Rc::clone(&self.turn)
    }

    /// Updates the state with what the service has reported.
    fn update(&mut self) {
        if let Some(body) = self.turn.parsed_body.take() {
            self.has_parsed = true;
            self.state = match (self.state, body) {
                // The parser also accepts a line feed alone as line break. If it has done so, it decides where
                // the request ends.
                (State::Head { .. }, _) | (State::Parsing { ahead: 1.. }, Body::Chunks(_)) => State::Body(Body::Rest),
                // Bytes after the body have been passed on as well. They may be a part of the next head, so the parser
                // decides where the request ends.
                (State::Parsing { ahead }, Body::Length(length)) if ahead > length => State::Body(Body::Rest),
                (State::Parsing { ahead }, Body::Length(length)) if ahead == length => State::Responding,
                (State::Parsing { ahead }, Body::Length(length)) => State::Body(Body::Length(length - ahead)),
                (State::Parsing { .. }, body) => State::Body(body),
                (state, _) => state,
            };
        }
        if self.state == State::Responding && self.turn.has_response_started.get() {
            self.state = NEXT_REQUEST;
        }
    }

    /// Returns how many of these bytes are passed to the parser now: usually all, because a packet is a request.
    fn release(&mut self, bytes: &[u8]) -> usize {
        match self.state {
            State::Head { matched, is_blank } => {
                let Some(end) = head_end(bytes, matched, is_blank) else {
                    let is_blank = is_blank && has_only_line_breaks(bytes);
                    self.state = State::Head { matched: matched_end(bytes, matched), is_blank };
                    return bytes.len();
                };
                let (head, rest) = bytes.split_at(end);
                if !rest.is_empty() && content_length(head) == Some(rest.len()) {
                    self.state = State::Parsing { ahead: rest.len() as u64 };
                    return bytes.len();
                }
                self.state = State::Parsing { ahead: 0 };
                end
            }
            State::Body(Body::Rest) => bytes.len(),
            State::Body(Body::Length(length)) => {
                let available = length.min(bytes.len() as u64);
                let remaining = length - available;
                self.state = if remaining == 0 { State::Responding } else { State::Body(Body::Length(remaining)) };
                usize::try_from(available).unwrap_or(usize::MAX)
            }
            State::Body(Body::Chunks(mut chunks)) => {
                let (length, is_complete) = chunks.read(bytes);
                self.state = if is_complete { State::Responding } else { State::Body(Body::Chunks(chunks)) };
                length
            }
            State::Parsing { .. } | State::Responding => 0,
        }
    }

    /// Whether bytes may be passed to the parser.
    fn is_open(&self) -> bool {
        matches!(self.state, State::Head { .. } | State::Body(_))
    }

    /// Whether bytes written now can only be the parser's response to a request that it could not parse.
    fn is_unparsed(&self) -> bool {
        let is_parsing = match self.state {
            State::Head { is_blank, .. } => !is_blank || !self.has_parsed,
            State::Parsing { .. } => true,
            State::Body(_) | State::Responding => false,
        };
        is_parsing && self.turn.parsed_body.get().is_none() && !self.turn.is_response_unsent.get()
    }
}

/// Returns where a head ends, if its end is in these bytes. `matched` bytes of the end were in the previous packet.
/// Empty lines before a head belong to it.
fn head_end(bytes: &[u8], matched: usize, mut is_blank: bool) -> Option<usize> {
    if matched > 0 && !is_blank && bytes.starts_with(&HEAD_END[matched..]) {
        return Some(HEAD_END.len() - matched);
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

fn has_only_line_breaks(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
}

/// Returns how many bytes of the end of a head are the last ones of `bytes`, after `matched` bytes in the previous
/// packet.
fn matched_end(bytes: &[u8], matched: usize) -> usize {
    let all = [&HEAD_END[..matched], bytes].concat();
    (1..HEAD_END.len()).rev().find(|length| all.ends_with(&HEAD_END[..*length])).unwrap_or(0)
}

/// Returns the length of the body, if the head has a usual `Content-Length`. A shortcut that saves a read; the parser
/// decides.
fn content_length(head: &[u8]) -> Option<usize> {
    let at = FIND_LENGTH.iter().find_map(|name| Some(name.find(head)? + name.needle().len()))?;
    let line = &head[at..];
    let end = memchr::memchr(b'\r', line)?;
    str::from_utf8(&line[..end]).ok()?.parse().ok()
}

impl<S: AsyncRead + Unpin> AsyncRead for OneAtATime<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.turn.is_over.get() {
            return Poll::Ready(Ok(()));
        }
        this.update();
        if !this.held.is_empty() {
            if this.is_open() {
                let held = std::mem::take(&mut this.held);
                let available = held.len().min(buffer.remaining());
                let length = this.release(&held[..available]);
                buffer.put_slice(&held[..length]);
                this.held = held;
                this.held.advance(length);
                return Poll::Ready(Ok(()));
            }
            this.turn.waker.replace(Some(context.waker().clone()));
        }
        if this.is_eof {
            return if this.held.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        if !this.is_open() {
            return this.poll_read_ahead(context);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let filled = buffer.filled();
        if filled.len() == before {
            this.is_eof = true;
            return Poll::Ready(Ok(()));
        }
        let length = this.release(&filled[before..]);
        this.held.extend_from_slice(&filled[before + length..]);
        buffer.set_filled(before + length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> OneAtATime<S> {
    /// Reads bytes that the parser may not have yet, to notice a client that disconnects.
    fn poll_read_ahead(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.held.len() < READ_AHEAD {
            let mut bytes = EMPTY_BUFFER;
            let mut ahead = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut ahead))?;
            if ahead.filled().is_empty() {
                self.is_eof = true;
                // The requests that were sent before still get a response.
                return if self.held.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            self.held.extend_from_slice(ahead.filled());
            self.turn.waker.replace(Some(context.waker().clone()));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for OneAtATime<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_refused && this.replacement.is_none() {
            // The parser's timer may fire again while the connection lingers.
            return Poll::Ready(Ok(bytes.len()));
        }
        if this.replacement.is_none() && this.is_unparsed() {
            this.replacement = refusal::for_parser_response(bytes).map(|problem| (problem, bytes.len()));
            this.is_refused = this.replacement.is_some();
        }
        let Some((problem, length)) = &mut this.replacement else {
            let written = Pin::new(&mut this.stream).poll_write(context, bytes);
            if written.is_pending() && this.turn.abort.get().is_some_and(|signal| signal.is_aborted(context)) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            let written = ready!(written)?;
            this.turn.is_response_unsent.set(false);
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
        this.replacement = None;
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
    /// Closes the connection after a refusal. A connection that is closed with unread bytes is reset, and the client
    /// loses the response, so further bytes are read and discarded for up to [`LINGER`].
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        let lingering = self.lingering.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        while !self.is_eof && lingering.as_mut().poll(context).is_pending() {
            let mut bytes = EMPTY_BUFFER;
            let mut unread = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut unread))?;
            self.is_eof = unread.filled().is_empty();
        }
        Poll::Ready(Ok(()))
    }
}
