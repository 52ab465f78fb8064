//! Which names clients may use for this service.
//!
//! A web page can reach a service on loopback by a name of its own that resolves to 127.0.0.1 (DNS rebinding). Its
//! requests are recognised by that name: on loopback only names of this machine are served, and those that are allowed.

use std::net::IpAddr;

use actix_web::{
    dev::ServiceRequest,
    http::{header, uri::Authority},
    web,
};

use super::problem::{Kind, Problem};

/// The names that are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// Any name.
    Any,
    /// Names of this machine, and these.
    Local(Vec<String>),
}

impl Hosts {
    /// Those of a listener on this address. `allowed` are more names for loopback, separated by commas; `*` is any.
    #[must_use]
    pub fn of_listener(address: IpAddr, allowed: &str) -> Self {
        let names = || allowed.split(',').map(str::trim).filter(|name| !name.is_empty());
        if !address.to_canonical().is_loopback() || names().any(|name| name == "*") {
            return Self::Any;
        }
        Self::Local(names().map(str::to_ascii_lowercase).collect())
    }

    /// Whether a `Host` header, with or without a port, names this service.
    fn serve(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            // Parsing would take 2 % of the instructions of a GET by id.
            Self::Local(_) if is_usual(host) => true,
            Self::Local(allowed) => {
                let Ok(authority) = host.parse::<Authority>() else { return false };
                let after_user = host.rsplit_once('@').map_or(host, |(_, after)| after);
                let (_, port) = after_user.split_at(authority.host().len());
                if !is_port(port) {
                    return false;
                }
                let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
                is_local(&name) || allowed.contains(&name)
            }
        }
    }
}

fn is_local(name: &str) -> bool {
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    // No resolver asks the network for names below localhost (RFC 6761).
    name == "localhost" || name.ends_with(".localhost") || address.is_ok_and(|it| it.to_canonical().is_loopback())
}

/// Whether it is `localhost` or `127.0.0.1`, with or without a port.
fn is_usual(host: &str) -> bool {
    let rest = host.strip_prefix("localhost").or_else(|| host.strip_prefix("127.0.0.1"));
    let Some(rest) = rest else { return false };
    is_port(rest)
}

/// Whether what follows a host is a port, or nothing.
fn is_port(rest: &str) -> bool {
    rest.is_empty() || rest.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Refuses requests for other hosts. Browsers always send the header; other clients may omit it.
///
/// # Errors
///
/// The problem `host-unknown`.
pub(super) fn check(request: &ServiceRequest) -> Result<(), Problem> {
    let hosts = request.app_data::<web::Data<Hosts>>();
    let is_served = |host: &str| host.is_empty() || hosts.is_none_or(|hosts| hosts.serve(host));
    let mut headers = request.headers().get_all(header::HOST);
    let is_known = headers.all(|host| host.to_str().is_ok_and(is_served))
        && request.uri().authority().is_none_or(|authority| is_served(authority.as_str()));
    if is_known {
        return Ok(());
    }
    let detail = "This service serves localhost only. Use that name, or add the one you used to server.allowed_hosts.";
    Err(Problem::new(Kind::HostUnknown, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_serves_names_of_this_machine() {
        let hosts = Hosts::of_listener([127, 0, 0, 1].into(), " Users.Example, other.example ");
        for served in [
            "localhost",
            "LOCALHOST:8080",
            "localhost.",
            "a.localhost:1",
            "127.0.0.1",
            "127.1.2.3:8080",
            "[::1]",
            "[::1]:8080",
            "[::ffff:127.0.0.1]",
            "users.example:443",
            "OTHER.example",
        ] {
            assert!(hosts.serve(served), "{served}");
        }
        for refused in [
            "evil.example",
            "localhost.evil.example",
            "notlocalhost",
            "127.0.0.1.evil.example",
            "localhost:80@evil.example",
            "127.0.0.1:evil.example",
            "LOCALHOST:99a",
            "localhost.:localhost.",
            "[::1]:x",
            "10.0.0.1",
            "[::2]",
            "x y",
        ] {
            assert!(!hosts.serve(refused), "{refused}");
        }
    }

    #[test]
    fn other_listeners_serve_any_name() {
        assert_eq!(Hosts::of_listener([0, 0, 0, 0].into(), ""), Hosts::Any);
        assert_eq!(Hosts::of_listener([127, 0, 0, 1].into(), "a,*"), Hosts::Any);
        assert!(Hosts::Any.serve("evil.example"));
    }
}
