//! Where clients find the service: a proxy may serve it by another name and below a prefix. What points back to the service
//! (`Location`, `Link`, the servers of the OpenAPI document) goes through here.

use std::borrow::Cow;

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

/// What is known of the way to the service.
#[derive(Clone, Debug, Default)]
pub struct PublicUrl {
    /// Set by the operator; wins over what proxies say.
    configured: Option<String>,
    /// Proxies whose `X-Forwarded-*` headers count.
    trusted_proxies: Vec<IpNet>,
}

impl PublicUrl {
    /// `configured` is an absolute URL, or empty.
    #[must_use]
    pub fn new(configured: &str, trusted_proxies: Vec<IpNet>) -> Self {
        // As a URL is written, whatever else was accepted.
        let configured = Url::parse(configured).ok().map(|url| url.as_str().trim_end_matches('/').to_owned());
        Self { configured, trusted_proxies }
    }

    /// What precedes the paths of the service for the client that sent this request; `None` if nothing is known.
    pub(super) fn of(&self, request: &HttpRequest) -> Option<Cow<'_, str>> {
        self.configured().map(Cow::from).or_else(|| self.forwarded(request).map(Cow::from))
    }

    /// What the operator has set.
    pub(super) fn configured(&self) -> Option<&str> {
        self.configured.as_deref()
    }

    /// What a trusted proxy says, where nothing is set.
    pub(super) fn forwarded(&self, request: &HttpRequest) -> Option<String> {
        if self.configured.is_some() || self.trusted_proxies.is_empty() {
            return None;
        }
        let peer = request.peer_addr()?.ip().to_canonical();
        if !self.trusted_proxies.iter().any(|network| network.contains(&peer)) {
            return None;
        }
        // Each proxy of a chain may add a value; the first is what the client used.
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

/// Whether a prefix is a plain absolute path. Two slashes at the beginning would name another host.
fn is_path(prefix: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%".contains(&byte);
    prefix.starts_with('/') && !prefix.starts_with("//") && prefix.bytes().all(is_plain)
}

/// Completes the paths in the headers of an answer.
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
    fn proxies_that_are_trusted_are_believed() {
        let all = [
            ("x-forwarded-prefix", "/api/"),
            ("x-forwarded-proto", "https, http"),
            ("x-forwarded-host", "users.example:8443"),
        ];
        let trusting = PublicUrl::new("", vec!["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(of(&trusting, &all).unwrap(), "https://users.example:8443/api");
        assert_eq!(of(&trusting, &all[..1]).unwrap(), "/api");
        assert_eq!(of(&trusting, &all[1..]).unwrap(), "https://users.example:8443");
        // A scheme without a host, or a host without a scheme, is no URL.
        assert_eq!(of(&trusting, &all[1..2]), None);
        assert_eq!(of(&trusting, &all[2..]), None);
        assert_eq!(of(&trusting, &[]), None);
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
    fn what_could_lead_elsewhere_is_ignored() {
        let trusting = PublicUrl::new("", vec!["10.0.0.7/32".parse().unwrap()]);
        for prefix in ["//evil.example", "api", "/a b", "/a\"", "/a>", "/a?b", "https://evil.example"] {
            assert_eq!(of(&trusting, &[("x-forwarded-prefix", prefix)]), None, "{prefix}");
        }
        for (scheme, host) in
            [("javascript", "a.example"), ("https", "a@evil.example"), ("https", "a/b"), ("https", "a b")]
        {
            assert_eq!(of(&trusting, &[("x-forwarded-proto", scheme), ("x-forwarded-host", host)]), None, "{host}");
        }
    }
}
