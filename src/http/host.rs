//! The host names that this service accepts.
//!
//! A web page can reach a service on loopback by a foreign host name that resolves to 127.0.0.1 (DNS rebinding). So on
//! loopback only requests for localhost names and for the allowed names are served.

use std::net::IpAddr;

use actix_web::{
    dev::ServiceRequest,
    http::{header, uri::Authority},
    web,
};

use super::problem::{Kind, Problem};

/// The accepted host names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// All names.
    Any,
    /// Localhost names and loopback addresses, and these names.
    Local(Vec<String>),
}

impl Hosts {
    /// Returns the accepted names of a listener on this address. `allowed` are additional names for loopback, separated
    /// by commas; `*` accepts all names.
    #[must_use]
    pub fn of_listener(address: IpAddr, allowed: &[String]) -> Self {
        if !address.to_canonical().is_loopback() || allowed.iter().any(|name| name == "*") {
            return Self::Any;
        }
        Self::Local(allowed.iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    /// Whether a `Host` header, with or without a port, has an accepted name.
    fn accept(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            // Parsing would cost 2 % of the instructions of a GET by id.
            Self::Local(_) if is_plain_localhost(host) => true,
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
    // Resolvers resolve names below localhost to loopback without a query (RFC 6761).
    name == "localhost" || name.ends_with(".localhost") || address.is_ok_and(|it| it.to_canonical().is_loopback())
}

/// Whether the host is `localhost` or `127.0.0.1`, with or without a port.
fn is_plain_localhost(host: &str) -> bool {
    let rest = host.strip_prefix("localhost").or_else(|| host.strip_prefix("127.0.0.1"));
    let Some(rest) = rest else { return false };
    is_port(rest)
}

/// Whether the rest after a host is a port or empty.
fn is_port(rest: &str) -> bool {
    rest.is_empty() || rest.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Refuses requests for other hosts. Browsers always send `Host`; other clients may omit it.
///
/// # Errors
///
/// The problem `host-unknown`.
pub(super) fn check(request: &ServiceRequest) -> Result<(), Problem> {
    let hosts = request.app_data::<web::Data<Hosts>>();
    let is_accepted = |host: &str| host.is_empty() || hosts.is_none_or(|hosts| hosts.accept(host));
    let mut headers = request.headers().get_all(header::HOST);
    let is_known = headers.all(|host| host.to_str().is_ok_and(is_accepted))
        && request.uri().authority().is_none_or(|authority| is_accepted(authority.as_str()));
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
    fn loopback_accepts_localhost_names() {
        let hosts =
            Hosts::of_listener([127, 0, 0, 1].into(), &["Users.Example".to_owned(), "other.example".to_owned()]);
        for accepted in [
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
            assert!(hosts.accept(accepted), "{accepted}");
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
            assert!(!hosts.accept(refused), "{refused}");
        }
    }

    #[test]
    fn other_listeners_accept_all_names() {
        assert_eq!(Hosts::of_listener([0, 0, 0, 0].into(), &[]), Hosts::Any);
        assert_eq!(Hosts::of_listener([127, 0, 0, 1].into(), &["a".to_owned(), "*".to_owned()]), Hosts::Any);
        assert!(Hosts::Any.accept("evil.example"));
    }
}
