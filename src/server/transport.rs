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

/// What has been written to a connection.
#[derive(Default)]
pub(super) struct Output {
    /// Whether bytes wait until the client reads.
    is_pending: Cell<bool>,
    last_written: Cell<Option<Instant>>,
}

impl Output {
    /// Whether the client is still reading what waits, with at most `limit` between two reads; zero: any time.
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

/// The stream of a connection, which notes what is written. It is closed without losing what the client has not read: a
/// socket that is closed with unread input is reset, so that input is read and discarded first.
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
