//! Hosts and ports of a server URL.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
};

use super::{
    invalid::InvalidUrl,
    text::{self, ENCODE},
};

/// The endpoint on which the server listens.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::connect) enum Host {
    /// A name or an IP address, without brackets.
    Name(String),
    /// PostgreSQL: the directory of the Unix socket; MySQL: the socket.
    Socket(PathBuf),
}

/// A host and its port.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::connect) struct HostAddress {
    pub(in crate::connect) host: Host,
    pub(in crate::connect) port: u16,
}

impl HostAddress {
    /// Returns the name or IP address; `None` for a socket.
    pub(in crate::connect) fn text(&self) -> Option<&str> {
        match &self.host {
            Host::Name(host) => Some(host),
            Host::Socket(_) => None,
        }
    }

    /// Returns the host if it is a name rather than an IP address.
    pub(in crate::connect) fn name(&self) -> Option<&str> {
        self.text().filter(|host| host.parse::<IpAddr>().is_err())
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(host) if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            Host::Name(host) => write!(f, "{host}:{}", self.port),
            Host::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The hosts of a URL without their ports, and its ports: none, one, or one for each host.
#[derive(Default)]
pub(super) struct HostList {
    pub(super) hosts: Vec<Host>,
    pub(super) ports: Vec<Option<u16>>,
}

impl HostList {
    /// Parses the part of a URL before its path: `a`, `a:5433,b`, `:5433`.
    pub(super) fn parse(server: &str) -> Result<Self, InvalidUrl> {
        let mut list = Self::default();
        for server in server.split(',') {
            let (host, port) = host_and_port(server)?;
            list.hosts.extend(host);
            list.ports.push(port);
        }
        if list.ports.len() > 1 && list.hosts.len() < list.ports.len() {
            return Err(InvalidUrl::part("has an empty host between commas; remove the comma, or add the host"));
        }
        Ok(list)
    }

    /// Returns the only host, or the first of several.
    pub(super) fn first(&self) -> Option<&Host> {
        self.hosts.first()
    }

    pub(super) fn has_port(&self) -> bool {
        self.ports.iter().any(Option::is_some)
    }

    /// Returns each host with its port. A single port is that of all hosts.
    pub(super) fn addresses(self, default_port: u16) -> Result<Vec<HostAddress>, InvalidUrl> {
        let Self { hosts, ports } = self;
        if ports.len() > 1 && ports.len() != hosts.len() {
            let (hosts, ports) = (hosts.len(), ports.len());
            return Err(InvalidUrl::part(format!(
                "has {hosts} hosts and {ports} ports; give one port, or one for each host"
            )));
        }
        let port = |at: usize| ports.get(if ports.len() == 1 { 0 } else { at }).copied().flatten();
        let address = |(at, host)| HostAddress { host, port: port(at).unwrap_or(default_port) };
        Ok(hosts.into_iter().enumerate().map(address).collect())
    }
}

/// The servers that a connection may be to, if the URL has several hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::connect) enum TargetServer {
    Any,
    /// Neither a replica nor read-only for another reason.
    ReadWrite,
}

/// The values of libpq and JDBC. The others are for clients that only read.
pub(super) const TARGETS: [(&str, TargetServer); 4] = [
    ("any", TargetServer::Any),
    ("read-write", TargetServer::ReadWrite),
    ("primary", TargetServer::ReadWrite),
    ("master", TargetServer::ReadWrite),
];

/// Whether hosts are tried in a random order.
pub(super) const BALANCES: [(&str, bool); 4] = [("disable", false), ("random", true), ("false", false), ("true", true)];

pub(super) const PORT: &str = "must be a number from 1 to 65535";

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0 && text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Parses `host`, `host:port`, `[::1]:port` or `%2Fdirectory`.
fn host_and_port(server: &str) -> Result<(Option<Host>, Option<u16>), InvalidUrl> {
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

/// Parses a list of hosts without ports.
pub(super) fn hosts(text: &str) -> Result<Vec<Host>, &'static str> {
    text.split(',').map(host).collect()
}

/// Parses a list of ports.
pub(super) fn ports(text: &str) -> Option<Vec<Option<u16>>> {
    text.split(',').map(|text| port(text).map(Some)).collect()
}

fn host(text: &str) -> Result<Host, &'static str> {
    if text.starts_with('/') {
        return Ok(Host::Socket(text.into()));
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
