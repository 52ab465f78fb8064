//! The public URL of the service, which differs behind a reverse proxy: another host name, or a path prefix. It
//! completes the URLs in `Location` and `Link`, and the servers of the OpenAPI document.

use std::{borrow::Cow, net::IpAddr};

use actix_web::{
    HttpRequest,
    dev::ServiceResponse,
    http::{
        header::{self, HeaderName, HeaderValue},
        uri::Authority,
    },
    web,
};
use ipnet::IpNet;
use url::Url;

const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Determines the public URL.
#[derive(Clone, Debug, Default)]
pub struct PublicUrl {
    /// Configured by the operator; overrides the headers of proxies.
    configured: Option<String>,
    /// Proxies whose `X-Forwarded-*` headers are trusted.
    trusted_proxies: Vec<IpNet>,
}

impl PublicUrl {
    /// `configured` is an absolute URL, or empty.
    #[must_use]
    pub fn new(configured: &str, trusted_proxies: Vec<IpNet>) -> Self {
        // Normalized: the parser also accepts malformed URLs.
        let configured = Url::parse(configured).ok().map(|url| url.as_str().trim_end_matches('/').to_owned());
        Self { configured, trusted_proxies }
    }

    /// Returns the URL or path prefix of the service for the client of this request; `None` if it is unknown.
    pub(super) fn of(&self, request: &HttpRequest) -> Option<Cow<'_, str>> {
        self.configured().map(Cow::from).or_else(|| self.forwarded(request).map(Cow::from))
    }

    /// Returns whether an address is one of a trusted proxy.
    pub(super) fn is_trusted_proxy(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }

    /// Returns the configured URL.
    pub(super) fn configured(&self) -> Option<&str> {
        self.configured.as_deref()
    }

    /// Returns the URL or path prefix from the headers of a trusted proxy, if none is configured.
    pub(super) fn forwarded(&self, request: &HttpRequest) -> Option<String> {
        if self.configured.is_some() || self.trusted_proxies.is_empty() {
            return None;
        }
        let peer = request.peer_addr()?.ip().to_canonical();
        if !self.is_trusted_proxy(peer) {
            return None;
        }
        // Each proxy of a chain may append a value; the first one is the client's.
        let first = |name| {
            let values = request.headers().get(name).and_then(|value| value.to_str().ok())?;
            values.split(',').next().map(str::trim).filter(|value| !value.is_empty())
        };
        let prefix = first(FORWARDED_PREFIX).map(|prefix| prefix.trim_end_matches('/')).filter(|it| is_path(it));
        let scheme = first(FORWARDED_PROTO).filter(|scheme| ["http", "https"].contains(scheme));
        let host = first(FORWARDED_HOST).filter(|host| host.parse::<Authority>().is_ok() && !host.contains('@'));
        match (scheme, host, prefix.unwrap_or_default()) {
            (Some(scheme), Some(host), prefix) => Some(format!("{scheme}://{host}{prefix}")),
            (_, _, "") => None,
            (_, _, prefix) => Some(prefix.to_owned()),
        }
    }
}

/// Whether a prefix is a plain absolute path. Two leading slashes would name another host.
fn is_path(prefix: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%".contains(&byte);
    prefix.starts_with('/') && !prefix.starts_with("//") && prefix.bytes().all(is_plain)
}

/// Completes the paths in the headers of a response.
pub(super) fn complete<B>(response: &mut ServiceResponse<B>) {
    let headers = response.headers();
    let (location, link) = (headers.get(header::LOCATION), headers.get(header::LINK));
    if location.is_none() && link.is_none() {
        return;
    }
    let request = response.request();
    let Some(base) = request.app_data::<web::Data<PublicUrl>>().and_then(|url| url.of(request)) else { return };
    let text = |value: Option<&HeaderValue>| value.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let location = text(location).filter(|path| path.starts_with('/')).map(|path| format!("{base}{path}"));
    let link = text(link).map(|links| links.replace("</", &format!("<{base}/")));
    for (name, value) in [(header::LOCATION, location), (header::LINK, link)] {
        // Both parts have been checked to be valid in a header.
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            response.headers_mut().insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn of(url: &PublicUrl, headers: &[(&'static str, &'static str)]) -> Option<String> {
        let request = TestRequest::default().peer_addr("10.0.0.7:4711".parse().unwrap());
        let request = headers.iter().fold(request, |request, header| request.insert_header(*header));
        url.of(&request.to_http_request()).map(Cow::into_owned)
    }

    #[test]
    fn headers_of_trusted_proxies_are_used() {
        let all = [
            ("x-forwarded-prefix", "/api/"),
            ("x-forwarded-proto", "https, http"),
            ("x-forwarded-host", "users.example:8443"),
        ];
        let trusted = PublicUrl::new("", vec!["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(of(&trusted, &all).unwrap(), "https://users.example:8443/api");
        assert_eq!(of(&trusted, &all[..1]).unwrap(), "/api");
        assert_eq!(of(&trusted, &all[1..]).unwrap(), "https://users.example:8443");
        // A scheme without a host, or a host without a scheme, is not a URL.
        assert_eq!(of(&trusted, &all[1..2]), None);
        assert_eq!(of(&trusted, &all[2..]), None);
        assert_eq!(of(&trusted, &[]), None);
        let other = PublicUrl::new("", vec!["10.0.1.0/24".parse().unwrap()]);
        assert_eq!(of(&other, &all), None);
        assert_eq!(of(&PublicUrl::default(), &all), None);
        let configured = PublicUrl::new("https://a.example/v1/", vec!["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(of(&configured, &all).unwrap(), "https://a.example/v1");
        assert_eq!(
            of(&PublicUrl::new("https:/a.example/x>\ny z", vec![]), &all).unwrap(),
            "https://a.example/x%3Ey%20z"
        );
    }

    #[test]
    fn headers_that_could_lead_elsewhere_are_ignored() {
        let trusted = PublicUrl::new("", vec!["10.0.0.7/32".parse().unwrap()]);
        for prefix in ["//evil.example", "api", "/a b", "/a\"", "/a>", "/a?b", "https://evil.example"] {
            assert_eq!(of(&trusted, &[("x-forwarded-prefix", prefix)]), None, "{prefix}");
        }
        for (scheme, host) in
            [("javascript", "a.example"), ("https", "a@evil.example"), ("https", "a/b"), ("https", "a b")]
        {
            assert_eq!(of(&trusted, &[("x-forwarded-proto", scheme), ("x-forwarded-host", host)]), None, "{host}");
        }
    }
}
