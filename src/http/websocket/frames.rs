//! Frames of a client, which the codec of actix-http decodes, joined to messages (RFC 6455).

use actix_http::ws::{CloseCode, CloseReason, Codec, Frame, Item, ProtocolError};
use actix_web::web::{Bytes, BytesMut, Payload};
use futures_util::StreamExt;
use tokio::time::{Duration, Instant};
use tokio_util::codec::Decoder;

/// Maximum size of a message of a client: a subscription to 100 users is half as long.
pub(in crate::http) const MAX_MESSAGE: usize = 8 << 10;
/// The least length that a control frame must not have.
const TOO_LONG_CONTROL: u64 = 126;
/// In the first byte of a frame: it is a control frame.
const CONTROL: u8 = 0x08;
/// In the second byte: it is masked. The other bits are its length.
const MASKED: u8 = 0x80;
/// Maximum number of frames in a period.
pub(in crate::http) const MAX_FRAMES: u32 = 100;
pub(in crate::http) const FRAMES_PERIOD: Duration = Duration::from_secs(10);
/// Close code of a client that sends too many frames or tickets.
pub(super) const CLOSE_RATE_LIMITED: CloseCode = CloseCode::Other(4029);

/// A message or control frame of a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    Text(String),
    Ping(Bytes),
    Pong,
    Close(Option<CloseReason>),
    /// The connection is lost.
    Lost,
}

/// A violation of the protocol, for which the connection is closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) code: CloseCode,
    pub(super) reason: &'static str,
}

impl Violation {
    pub(super) const fn new(code: CloseCode, reason: &'static str) -> Self {
        Self { code, reason }
    }
}

impl From<ProtocolError> for Violation {
    fn from(error: ProtocolError) -> Self {
        let reason = match error {
            ProtocolError::Overflow => return Self::new(CloseCode::Size, "the message is longer than 8 KiB"),
            ProtocolError::UnmaskedFrame => "the frame is not masked",
            ProtocolError::InvalidLength(_) => "the control frame is longer than 125 bytes",
            ProtocolError::ContinuationNotStarted => "the continuation has no beginning",
            ProtocolError::ContinuationStarted => "the previous message is not complete",
            ProtocolError::ContinuationFragment(_) => "the control frame is fragmented",
            _ => "the frame is malformed",
        };
        Self::new(CloseCode::Protocol, reason)
    }
}

/// Reads what a client sends.
pub(super) struct Frames {
    payload: Payload,
    codec: Codec,
    buffer: BytesMut,
    /// A message whose last fragment has not arrived.
    text: Option<BytesMut>,
    /// When the current period began, and how many frames have arrived in it.
    period: (Instant, u32),
}

impl Frames {
    pub(super) fn new(payload: Payload) -> Self {
        Self {
            payload,
            codec: Codec::new().max_size(MAX_MESSAGE),
            buffer: BytesMut::new(),
            text: None,
            period: (Instant::now(), 0),
        }
    }

    /// Returns what arrives next. It may be cancelled. After a violation the rest cannot be understood.
    pub(super) async fn next(&mut self) -> Result<Received, Violation> {
        loop {
            while let Some(frame) = self.codec.decode(&mut self.buffer)? {
                if let Some(received) = self.take(frame)? {
                    return Ok(received);
                }
            }
            self.check_length()?;
            if self.buffer.is_empty() {
                // An idle connection keeps no memory.
                self.buffer = BytesMut::new();
            }
            match self.payload.next().await {
                Some(Ok(bytes)) => self.buffer.extend_from_slice(&bytes),
                Some(Err(_)) | None => return Ok(Received::Lost),
            }
        }
    }

    /// Refuses an incomplete frame that is too long. The codec would wait for its end.
    fn check_length(&self) -> Result<(), Violation> {
        let [first, second, length @ ..] = &self.buffer[..] else { return Ok(()) };
        let length = match second & !MASKED {
            126 => length.first_chunk().map(|length| u64::from(u16::from_be_bytes(*length))),
            127 => length.first_chunk().map(|length| u64::from_be_bytes(*length)),
            length => Some(length.into()),
        };
        match length {
            Some(TOO_LONG_CONTROL..) if first & CONTROL != 0 => {
                Err(ProtocolError::InvalidLength(self.buffer.len()).into())
            }
            Some(length) if length > MAX_MESSAGE as u64 => Err(ProtocolError::Overflow.into()),
            _ => Ok(()),
        }
    }

    /// Takes a frame; `None` if it completes nothing.
    fn take(&mut self, frame: Frame) -> Result<Option<Received>, Violation> {
        self.count()?;
        Ok(Some(match frame {
            Frame::Text(bytes) => Received::Text(text(bytes.to_vec())?),
            Frame::Continuation(Item::FirstText(bytes)) => {
                self.text = Some(BytesMut::from(&bytes[..]));
                return Ok(None);
            }
            Frame::Continuation(Item::Continue(bytes)) => {
                self.append(&bytes)?;
                return Ok(None);
            }
            Frame::Continuation(Item::Last(bytes)) => {
                self.append(&bytes)?;
                Received::Text(text(self.text.take().unwrap_or_default().to_vec())?)
            }
            Frame::Binary(_) | Frame::Continuation(Item::FirstBinary(_)) => {
                return Err(Violation::new(CloseCode::Unsupported, "messages are text"));
            }
            Frame::Ping(bytes) => Received::Ping(bytes),
            Frame::Pong(_) => Received::Pong,
            Frame::Close(reason) => Received::Close(reason),
        }))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let text = self.text.get_or_insert_default();
        if text.len() + bytes.len() > MAX_MESSAGE {
            return Err(ProtocolError::Overflow.into());
        }
        text.extend_from_slice(bytes);
        Ok(())
    }

    fn count(&mut self) -> Result<(), Violation> {
        let (began, count) = &mut self.period;
        if began.elapsed() > FRAMES_PERIOD {
            self.period = (Instant::now(), 1);
        } else if *count == MAX_FRAMES {
            return Err(Violation::new(CLOSE_RATE_LIMITED, "more than 100 frames in 10 s"));
        } else {
            *count += 1;
        }
        Ok(())
    }
}

fn text(bytes: Vec<u8>) -> Result<String, Violation> {
    String::from_utf8(bytes).map_err(|_| Violation::new(CloseCode::Invalid, "the message is not UTF-8"))
}
