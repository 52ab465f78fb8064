//! Host and port of a server URL.

use std::{
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
};

use super::{
    invalid::InvalidUrl,
    text::{self, ENCODE},
};

/// Where the server listens.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::connect) enum Host {
    /// A name or an IP address, without brackets.
    Name(String),
    /// PostgreSQL: the directory of the Unix socket; MySQL: the socket.
    Socket(PathBuf),
}

pub(super) const PORT: &str = "must be a number from 1 to 65535";

pub(super) fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0 && text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Parses `host`, `host:port`, `[::1]:port` or `%2Fdirectory`.
pub(super) fn host_and_port(server: &str) -> Result<(Option<Host>, Option<u16>), InvalidUrl> {
    if server.contains(',') {
        return Err(InvalidUrl::part("names several hosts; only one is supported: name the primary"));
    }
    let (name, port_text) = match server.strip_prefix('[') {
        Some(rest) => {
            let (address, after) =
                rest.split_once(']').ok_or_else(|| InvalidUrl::part("has a [ without a ] after the IPv6 address"))?;
            if address.parse::<Ipv6Addr>().is_err() {
                return Err(InvalidUrl::part("has something other than an IPv6 address between [ and ]"));
            }
            match after.strip_prefix(':') {
                Some(port) => (address, port),
                None if after.is_empty() => (address, ""),
                None => return Err(InvalidUrl::part("has something other than a port after the IPv6 address")),
            }
        }
        None => match server.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(InvalidUrl::part(format!(
                    "has more than one : in host and port; write an IPv6 address as [::1]. In a password, {ENCODE}"
                )));
            }
            Some(parts) => parts,
            None => (server, ""),
        },
    };
    let port = match port_text {
        "" => None,
        text => Some(
            port(text)
                .ok_or_else(|| InvalidUrl::part(format!("the port {PORT}. If it is part of the password, {ENCODE}")))?,
        ),
    };
    if name.is_empty() {
        return Ok((None, port));
    }
    let name = text::decode("the host", name)?;
    let host = host(&name).map_err(|reason| InvalidUrl::part(format!("the host {reason}")))?;
    Ok((Some(host), port))
}

pub(super) fn host(text: &str) -> Result<Host, &'static str> {
    if text.starts_with('/') {
        return Ok(Host::Socket(text.into()));
    }
    if text.contains(',') {
        return Err("must be a single host: name the primary");
    }
    let name = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if name.parse::<Ipv6Addr>().is_ok() {
        return Ok(Host::Name(name.to_owned()));
    }
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
        return Err("must be an ASCII host name (xn--... for others), an IP address or the path of a socket");
    }
    Ok(Host::Name(name.to_owned()))
}

pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
