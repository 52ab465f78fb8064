//! Detects, without a round trip, that the server has closed a connection.
//!
//! A server that closes an idle connection (`pg_terminate_backend`, `KILL`, `wait_timeout`) closes its end of the
//! socket, and often sends the reason first. Both are in the socket's receive buffer long before the next statement is
//! sent. Checking for them matters for a write: once it has been sent, the same error no longer shows whether it took
//! effect.
//!
//! The drivers do not expose their sockets. A connection's socket is therefore found while it is being opened, as the
//! one that appears among the process's file descriptors (Linux) and is connected to the database's port. Where that is
//! not possible nothing is checked, and a write on a closed connection fails as it would anyway.

use std::{
    collections::BTreeSet,
    fs,
    future::poll_fn,
    os::fd::RawFd,
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    task::Poll,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike as _, SockaddrStorage, getpeername, getsockname,
        recv,
    },
};
use tokio::{sync::Mutex, time::timeout};

/// The socket of a driver's connection. The driver owns it: it stays open as long as that connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Socket(RawFd);

impl Socket {
    /// Whether unsolicited data has arrived: the end of the stream, an error, or a final message.
    pub(crate) fn has_unread(self) -> bool {
        recv(self.0, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) != Err(Errno::EAGAIN)
    }
}

/// Finds the sockets of connections. They are opened one after another until each has its socket; the rest of the
/// handshake (TLS, authentication) takes longer and runs concurrently. A host that does not respond must not delay
/// connections to others, so a connection that has to wait longer is opened concurrently, without finding its socket.
#[derive(Debug, Default)]
pub(crate) struct SocketFinder {
    opening: Mutex<()>,
    untracked: Untracked,
}

/// Connections that are opened concurrently and whose sockets are not searched for: while there are any, it is unknown to
/// which connection a new socket belongs.
#[derive(Debug, Default)]
struct Untracked {
    begun: AtomicU64,
    active: AtomicU64,
}

impl Untracked {
    fn begin(&self) -> impl Drop {
        struct Active<'a>(&'a AtomicU64);
        impl Drop for Active<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::AcqRel);
            }
        }
        self.begun.fetch_add(1, Ordering::AcqRel);
        self.active.fetch_add(1, Ordering::AcqRel);
        Active(&self.active)
    }

    /// Returns how many have begun; `None` while one is being opened.
    fn none_active(&self) -> Option<u64> {
        (self.active.load(Ordering::Acquire) == 0).then(|| self.begun.load(Ordering::Acquire))
    }
}

/// How long a connection waits for its turn, and for its socket.
const SEARCH_TIMEOUT: Duration = Duration::from_millis(100);

impl SocketFinder {
    /// Opens a connection to this port, and returns its socket if there is exactly one candidate.
    pub(crate) async fn find<F: Future>(&self, port: u16, connect: F) -> (F::Output, Option<Socket>) {
        let mut connect = pin!(connect);
        let Ok(guard) = timeout(SEARCH_TIMEOUT, self.opening.lock()).await else {
            let _untracked = self.untracked.begin();
            return (connect.await, None);
        };
        let (before, untracked) = (connected_to(port), self.untracked.none_active());
        let mut new: Vec<RawFd> = Vec::new();
        let search = poll_fn(|context| {
            let poll = connect.as_mut().poll(context);
            new = connected_to(port).difference(&before).map(|(descriptor, _)| *descriptor).collect();
            match poll {
                Poll::Ready(opened) => Poll::Ready(Some(opened)),
                Poll::Pending if new.is_empty() => Poll::Pending,
                Poll::Pending => Poll::Ready(None),
            }
        });
        let found = timeout(SEARCH_TIMEOUT, search).await;
        if untracked.is_none() || self.untracked.none_active() != untracked {
            new.clear();
        }
        let opened = match found {
            Ok(Some(opened)) => opened,
            Ok(None) => {
                drop(guard);
                connect.await
            }
            Err(_) => {
                let _untracked = self.untracked.begin();
                drop(guard);
                new.clear();
                connect.await
            }
        };
        let socket = match new[..] {
            [only] => Some(Socket(only)),
            _ => None,
        };
        (opened, socket)
    }
}

/// Returns the descriptors of sockets that are connected to this port or to a Unix socket, each with its local port: it
/// differs when a descriptor is reused.
fn connected_to(port: u16) -> BTreeSet<(RawFd, u16)> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return BTreeSet::new() };
    let descriptors = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    descriptors
        .filter_map(|descriptor| {
            let peer = getpeername::<SockaddrStorage>(descriptor).ok()?;
            if peer.family() == Some(AddressFamily::Unix) {
                return Some((descriptor, 0));
            }
            if port_of(&peer)? != port {
                return None;
            }
            Some((descriptor, port_of(&getsockname::<SockaddrStorage>(descriptor).ok()?)?))
        })
        .collect()
}

fn port_of(address: &SockaddrStorage) -> Option<u16> {
    let v4 = address.as_sockaddr_in().map(SockaddrIn::port);
    v4.or_else(|| address.as_sockaddr_in6().map(SockaddrIn6::port))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[tokio::test]
    async fn unread_data_and_the_end_of_the_stream_are_detected_on_the_right_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let finder = SocketFinder::default();
        let connect = || finder.find(port, TcpStream::connect(("127.0.0.1", port)));
        let ((first, first_socket), (second, second_socket)) = tokio::join!(connect(), connect());
        let (mut clients, mut sockets) =
            ([first.unwrap(), second.unwrap()], [first_socket.unwrap(), second_socket.unwrap()]);
        if clients[0].local_addr().unwrap().port() > clients[1].local_addr().unwrap().port() {
            clients.reverse();
            sockets.reverse();
        }
        let mut servers = [listener.accept().await.unwrap(), listener.accept().await.unwrap()];
        servers.sort_by_key(|(_, peer)| peer.port());
        assert_eq!(sockets.map(Socket::has_unread), [false, false]);
        servers[0].0.write_all(b"x").await.unwrap();
        clients[0].readable().await.unwrap();
        assert_eq!(sockets.map(Socket::has_unread), [true, false]);
        let [_, (second, _)] = servers;
        drop(second);
        clients[1].readable().await.unwrap();
        assert_eq!(sockets.map(Socket::has_unread), [true, true]);
    }
}
