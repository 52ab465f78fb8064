//! The stream below a connection of HTTP/2.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::DISCONNECT_TIMEOUT;

/// The write progress of a connection.
#[derive(Default)]
pub(super) struct Output {
    /// Whether the last write is blocked on the client.
    is_pending: Cell<bool>,
    last_written: Cell<Option<Instant>>,
}

impl Output {
    /// Returns whether output is pending and the last write succeeded within `limit`. Zero disables the limit.
    pub(super) fn is_progressing(&self, limit: Duration) -> bool {
        let is_recent = |time: Instant| limit.is_zero() || time.elapsed() < limit;
        self.is_pending.get() && self.last_written.get().is_some_and(is_recent)
    }

    fn note<V>(&self, written: &Poll<V>) {
        self.is_pending.set(written.is_pending());
        if written.is_ready() {
            self.last_written.set(Some(Instant::now()));
        }
    }
}

/// A stream that tracks write progress and lingers on shutdown: it reads and discards remaining input before the socket is
/// closed. Closing a socket with unread input sends a TCP reset, which discards output that the client has not read yet.
pub(super) struct Transport<T> {
    stream: T,
    output: Rc<Output>,
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<T> Transport<T> {
    pub(super) fn new(stream: T, output: Rc<Output>) -> Self {
        Self { stream, output, lingering: None }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Transport<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Transport<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.output.note(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.output.note(&flushed);
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
        let lingering = this.lingering.get_or_insert_with(|| Box::pin(sleep(DISCONNECT_TIMEOUT)));
        while lingering.as_mut().poll(context).is_pending() {
            let mut bytes = [0; 1024];
            let mut unread = ReadBuf::new(&mut bytes);
            // An error ends the connection as well.
            let read = ready!(Pin::new(&mut this.stream).poll_read(context, &mut unread));
            if read.is_err() || unread.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}
