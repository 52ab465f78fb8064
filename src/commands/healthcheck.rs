//! `users-api healthcheck`: asks the service on this machine how it is.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use clap::Args;

use super::CommandError;
use crate::settings::Settings;

/// For all of it.
const LIMIT: Duration = Duration::from_secs(5);

/// What to ask for.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct HealthcheckOptions {
    /// Whether it is alive, however its database is
    #[arg(long)]
    live: bool,
}

/// Asks the service on this machine whether it is ready, or merely alive.
pub(crate) fn healthcheck(settings: &Settings, options: HealthcheckOptions) -> Result<(), CommandError> {
    let (path, word) = if options.live { ("/health/live", "live") } else { ("/health/ready", "ready") };
    // An address that means "all of them" is no address to ask.
    let host = match settings.server.host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    let address = SocketAddr::new(host, settings.server.port);
    let status =
        ask(address, path).map_err(|error| CommandError::failed(format!("{address} does not answer: {error}")))?;
    if status.split(' ').nth(1) == Some("200") {
        return super::print(&format!("{word}\n"));
    }
    Err(CommandError::failed(format!("{address} is not {word}: {status}")))
}

/// The status line. One request of HTTP/1.0 is not worth a client library.
fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let began = Instant::now();
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    let left = LIMIT.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left))?;
    stream.set_write_timeout(Some(left))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned())
}
