use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use super::CommandError;
use crate::settings::Settings;

const LIMIT: Duration = Duration::from_secs(5);

/// Asks the service on this machine whether it is ready.
pub(crate) fn healthcheck(settings: &Settings) -> Result<(), CommandError> {
    // An address that means "all of them" is no address to ask.
    let host = match settings.server.host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    let address = SocketAddr::new(host, settings.server.port);
    let status = ask(address).map_err(|error| CommandError::failed(format!("{address} does not answer: {error}")))?;
    if status.split(' ').nth(1) == Some("200") {
        return super::print("ready\n");
    }
    Err(CommandError::failed(format!("{address} is not ready: {status}")))
}

/// The status line. One request of HTTP/1.0 is not worth a client library.
fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    write!(stream, "GET /health/ready HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned())
}
