//! The turns of the requests on a connection, and where the body of a request ends.

use std::{
    cell::{Cell, OnceCell, RefCell},
    task::Waker,
};

use actix_http::{HttpMessage, Payload, Request};
use actix_web::http::header;

use crate::connections::AbortSignal;

/// The progress of the current request, shared by the connection's stream and the service.
#[derive(Debug, Default)]
pub struct Turn {
    /// The body of the latest request according to the parser, until the stream takes it.
    pub(super) parsed_body: Cell<Option<Body>>,
    pub(super) has_response_started: Cell<bool>,
    /// Whether no byte of that response has been written yet.
    pub(super) is_response_unsent: Cell<bool>,
    /// Whether the connection ends while its client does not read.
    pub(super) abort: OnceCell<AbortSignal>,
    /// Whether nothing more is read from the client.
    pub(super) is_over: Cell<bool>,
    /// The waker of the task that reads the next request.
    pub(super) waker: RefCell<Option<Waker>>,
}

/// The body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Length(u64),
    Chunks(Chunks),
    /// All further bytes.
    Rest,
}

impl Turn {
    /// Reports that the parser has parsed the head of a request.
    pub(super) fn request_started(&self, request: &mut Request) {
        let body = if matches!(request.payload(), Payload::None) {
            Body::Length(0)
        } else if request.chunked().unwrap_or(false) {
            Body::Chunks(Chunks::default())
        } else {
            let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
            length.and_then(|length| length.parse().ok()).map_or(Body::Rest, Body::Length)
        };
        self.parsed_body.set(Some(body));
        self.has_response_started.set(false);
        self.wake();
    }

    /// Reports that the service has returned the head of the response.
    pub(super) fn response_started(&self) {
        self.has_response_started.set(true);
        self.is_response_unsent.set(true);
        self.wake();
    }

    /// Sets what decides whether the connection ends while its client does not read.
    pub(crate) fn set_abort_signal(&self, signal: AbortSignal) {
        // There is one for each connection.
        let _ = self.abort.set(signal);
    }

    /// Reports that the connection is closed without waiting for the client. The connection's task must be running.
    pub(super) fn end(&self) {
        self.is_over.set(true);
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The position in a chunked body (RFC 9112, section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunks {
    Size(u64),
    /// In the rest of the line with the size.
    Extension(u64),
    /// The remaining bytes of a chunk and its line break.
    Data(u64),
    /// In a line of the trailer, and whether it is not empty.
    Trailer(bool),
}

impl Default for Chunks {
    fn default() -> Self {
        Self::Size(0)
    }
}

impl Chunks {
    /// Returns how many of these bytes belong to the body, and whether it is complete.
    pub(super) fn read(&mut self, bytes: &[u8]) -> (usize, bool) {
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
                (Self::Data(remaining), _) => {
                    let available = remaining.min((bytes.len() - at) as u64);
                    at += usize::try_from(available).unwrap_or(usize::MAX) - 1;
                    if available == remaining { Self::Size(0) } else { Self::Data(remaining - available) }
                }
                (Self::Trailer(false), b'\n') => return (at + 1, true),
                (Self::Trailer(_), b'\n') => Self::Trailer(false),
                (Self::Trailer(has_text), byte) => Self::Trailer(has_text || byte != b'\r'),
            };
            at += 1;
        }
        (bytes.len(), false)
    }
}
