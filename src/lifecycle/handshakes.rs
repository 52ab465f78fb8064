//! Stops handshakes of new TCP connections before a listener is closed.
//!
//! A client is connected as soon as the kernel has completed the handshake, and may have sent its request before the service
//! accepts the connection. Closing the listener resets such connections, and a proxy does not retry a POST whose connection
//! was reset.

use std::{io, net::TcpListener};

#[cfg(any(target_os = "linux", target_os = "android"))]
use socket2::{SockFilter, SockRef};

/// Drops incoming SYN packets. Handshakes in progress complete. The client's kernel retransmits its SYN after about a
/// second. By then the listener is closed, and the connection is refused.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn stop(listener: &TcpListener) -> io::Result<()> {
    /// Byte of the TCP header with the flags.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    // linux/filter.h: the instructions, and how much of the packet to keep.
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const NOTHING: u32 = 0;
    const ALL: u32 = u32::MAX;
    SockRef::from(listener).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, NOTHING),
        SockFilter::new(RETURN, 0, 0, ALL),
    ])
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn stop(_listener: &TcpListener) -> io::Result<()> {
    Ok(())
}
