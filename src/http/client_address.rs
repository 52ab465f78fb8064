//! The address of the client, which a trusted proxy reports.

use std::net::{IpAddr, SocketAddr};

use actix_web::{
    HttpRequest,
    http::header::{HeaderName, HeaderValue},
    web,
};

use super::public_url::PublicUrl;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Returns the address of the client. Each proxy appends the address that it was called from to `X-Forwarded-For`, so the
/// client is the last one that is not a trusted proxy: what stands before it, a client can forge.
pub(super) fn client_address(request: &HttpRequest) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip().to_canonical();
    let is_trusted = |address: IpAddr| {
        request.app_data::<web::Data<PublicUrl>>().is_some_and(|public_url| public_url.is_trusted_proxy(address))
    };
    let mut client = peer;
    // As bytes: what a client puts in front must not make the rest unreadable.
    let values: Vec<&[u8]> = request.headers().get_all(FORWARDED_FOR).map(HeaderValue::as_bytes).collect();
    for address in values.iter().rev().flat_map(|value| value.rsplit(|byte| *byte == b',')) {
        if !is_trusted(client) {
            break;
        }
        let Some(address) = std::str::from_utf8(address).ok().and_then(|text| parse(text.trim())) else { break };
        client = address;
    }
    Some(client)
}

/// Parses an address, which some proxies send with a port.
fn parse(text: &str) -> Option<IpAddr> {
    let address = text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn the_last_untrusted_address_is_the_client() {
        let of = |peer: &str, headers: &[&str]| {
            let trusted = vec!["10.0.0.0/8".parse().unwrap()];
            let mut request = TestRequest::default().app_data(web::Data::new(PublicUrl::new("", trusted)));
            request = request.peer_addr(SocketAddr::new(peer.parse().unwrap(), 1));
            for value in headers {
                request = request.append_header((FORWARDED_FOR, HeaderValue::from_bytes(value.as_bytes()).unwrap()));
            }
            client_address(&request.to_http_request()).unwrap().to_string()
        };
        assert_eq!(of("192.0.2.1", &["198.51.100.1"]), "192.0.2.1", "an untrusted peer is the client");
        assert_eq!(of("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(of("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(of("::ffff:10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(of("10.0.0.1", &["1.1.1.1, 198.51.100.1, 10.0.0.2"]), "198.51.100.1");
        assert_eq!(of("10.0.0.1", &["1.1.1.1", "198.51.100.1,10.0.0.2"]), "198.51.100.1");
        assert_eq!(of("10.0.0.1", &["198.51.100.1:4711"]), "198.51.100.1");
        assert_eq!(of("10.0.0.1", &["[2001:db8::1]:4711"]), "2001:db8::1");
        assert_eq!(of("10.0.0.1", &["ä, 198.51.100.1"]), "198.51.100.1");
        assert_eq!(of("10.0.0.1", &["198.51.100.1, unknown, 10.0.0.2"]), "10.0.0.2");
    }
}
