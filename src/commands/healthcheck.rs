//! `users-api healthcheck`: checks the service on this machine.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use clap::Args;
use rustls::{ClientConnection, StreamOwned};

use super::CommandError;
use crate::{settings::Settings, tls};

/// Timeout of the whole check.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Options of `healthcheck`.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct HealthcheckOptions {
    /// Check liveness only, regardless of the database
    #[arg(long)]
    live: bool,
}

/// Checks that the service on this machine is ready, or only live.
pub(crate) fn healthcheck(settings: &Settings, options: HealthcheckOptions) -> Result<(), CommandError> {
    let (path, word) = if options.live { ("/health/live", "live") } else { ("/health/ready", "ready") };
    // A service that listens on all addresses is reached on loopback.
    let host = match settings.server.host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    let address = SocketAddr::new(host, settings.server.port);
    let is_tls = settings.server.tls.files().is_some();
    let status = status_line(address, path, is_tls)
        .map_err(|error| CommandError::failed(format!("no response from {address}: {error}")))?;
    if status.split(' ').nth(1) == Some("200") {
        return super::print(&format!("{word}\n"));
    }
    Err(CommandError::failed(format!("{address} is not {word}: {status}")))
}

/// Requests `path` and returns the status line. A single HTTP/1.0 request needs no client library.
fn status_line(address: SocketAddr, path: &str, is_tls: bool) -> io::Result<String> {
    let began = Instant::now();
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    let remaining = TIMEOUT.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(remaining))?;
    stream.set_write_timeout(Some(remaining))?;
    if !is_tls {
        return exchange(stream, address, path);
    }
    let connection = ClientConnection::new(tls::unverified_client()?, address.ip().into()).map_err(io::Error::other)?;
    exchange(StreamOwned::new(connection, stream), address, path)
}

fn exchange(mut stream: impl Read + Write, address: SocketAddr, path: &str) -> io::Result<String> {
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut response = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut response)?;
    Ok(String::from_utf8_lossy(&response).lines().next().unwrap_or_default().to_owned())
}
