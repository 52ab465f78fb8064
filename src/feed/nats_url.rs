//! The URL of a cluster of NATS: `nats://USER:PASSWORD@HOST:4222,HOST:4222`.

use std::{fmt, str::FromStr};

use percent_encoding::percent_decode_str;
use url::Url;

const DEFAULT_PORT: u16 = 4222;

/// A user and a password, or a token.
type Credentials = (String, Option<String>);

/// The URL of one or several servers of a cluster, with its credentials. It is displayed without them.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsUrl {
    /// `nats` or `tls`.
    scheme: String,
    /// `HOST:PORT`, in the order in which they are tried.
    servers: Vec<String>,
    pub(super) credentials: Option<Credentials>,
}

impl NatsUrl {
    /// Returns a URL without credentials for each server.
    pub(super) fn servers(&self) -> impl ExactSizeIterator<Item = String> {
        self.servers.iter().map(|server| format!("{}://{server}", self.scheme))
    }

    fn add(&mut self, part: &str) -> Result<(), String> {
        let other = if part.contains("://") { server(part) } else { server(&format!("{}://{part}", self.scheme)) }?;
        if other.scheme() != self.scheme {
            return Err("must have the scheme of the first one, or none".to_owned());
        }
        // The client has one user for all servers.
        if credentials(&other).is_some_and(|other| self.credentials.as_ref() != Some(&other)) {
            return Err("must have the credentials of the first one, or none; in credentials a comma is %2C".to_owned());
        }
        let address = address(&other);
        if !self.servers.contains(&address) {
            self.servers.push(address);
        }
        Ok(())
    }
}

/// Each server after the first one may repeat the scheme and the credentials. As other clients of NATS do, this splits
/// the text at every comma. The text is not shown in errors, because it may have a password.
impl FromStr for NatsUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',').map(str::trim);
        let is_list = text.contains(',');
        let subject = |number: usize| if is_list { format!("server {number}") } else { "the URL".to_owned() };
        let first = server(parts.next().unwrap_or_default()).map_err(|why| format!("{} {why}", subject(1)))?;
        if !["nats", "tls"].contains(&first.scheme()) {
            return Err("the scheme must be nats or tls".to_owned());
        }
        let mut url = Self {
            scheme: first.scheme().to_owned(),
            servers: vec![address(&first)],
            credentials: credentials(&first),
        };
        for (part, number) in parts.zip(2..) {
            url.add(part).map_err(|why| format!("{} {why}", subject(number)))?;
        }
        Ok(url)
    }
}

/// Parses the URL of a single server. An error continues a sentence.
fn server(text: &str) -> Result<Url, String> {
    let url: Url =
        text.parse().map_err(|_| "must have a valid host and port; in credentials a comma is %2C".to_owned())?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err("must have a host".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must not have parameters".to_owned());
    }
    if !["", "/"].contains(&url.path()) {
        return Err("must not have a path".to_owned());
    }
    let is_utf8 = |text: &str| percent_decode_str(text).decode_utf8().is_ok();
    if !is_utf8(url.username()) || !url.password().is_none_or(is_utf8) {
        return Err("must have credentials in UTF-8".to_owned());
    }
    Ok(url)
}

fn address(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port().unwrap_or(DEFAULT_PORT))
}

fn credentials(url: &Url) -> Option<Credentials> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let found = (decoded(url.username()), url.password().map(decoded));
    Some(found).filter(|(user, password)| !user.is_empty() || password.is_some())
}

impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.servers.join(","))
    }
}

impl fmt::Debug for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> NatsUrl {
        text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    #[test]
    fn a_url_has_one_or_several_servers_of_a_cluster() {
        for (text, shown) in [
            ("nats://localhost", "nats://localhost:4222"),
            ("nats://localhost:1/", "nats://localhost:1"),
            ("NATS://localhost", "nats://localhost:4222"),
            ("nats://a:1,b:2,[::1]", "nats://a:1,b:2,[::1]:4222"),
            ("nats://a:1,nats://b:2/, nats://c", "nats://a:1,b:2,c:4222"),
            ("tls://a,tls://b,c", "tls://a:4222,b:4222,c:4222"),
            ("nats://a,a:4222,nats://a,b,b", "nats://a:4222,b:4222"),
            ("nats://ann:p%40ss@a,b,ann:p%40s%73@c", "nats://a:4222,b:4222,c:4222"),
            ("nats://token@a,nats://token@b", "nats://a:4222,b:4222"),
        ] {
            let url = parse(text);
            assert_eq!((url.to_string(), format!("{url:?}")), (shown.to_owned(), shown.to_owned()), "{text}");
            assert_eq!(parse(shown).servers, url.servers, "{text}");
        }
        let urls: Vec<String> = parse("tls://ann:secret@a,b:1").servers().collect();
        assert_eq!(urls, ["tls://a:4222", "tls://b:1"]);
    }

    #[test]
    fn all_servers_have_the_same_credentials() {
        let credentials = |text: &str| parse(text).credentials;
        let ann = Some(("ann".to_owned(), Some("p@s,s".to_owned())));
        assert_eq!(credentials("nats://a,b"), None);
        assert_eq!(credentials("nats://ann:p%40s%2Cs@a"), ann);
        assert_eq!(credentials("nats://ann:p%40s%2Cs@a,b"), ann);
        assert_eq!(credentials("nats://ann:p%40s%2Cs@a,nats://ann:p%40s%2Cs@b"), ann);
        assert_eq!(credentials("nats://token@a,b"), Some(("token".to_owned(), None)));
        assert_eq!(credentials("nats://:secret@a"), Some((String::new(), Some("secret".to_owned()))));
    }

    #[test]
    fn an_error_names_the_server_and_no_secret() {
        for (text, start) in [
            ("nats://", "the URL must have a host"),
            ("nats://secret@", "the URL must have a"),
            ("nats://ann:secret@a:secret", "the URL must have a valid host and port"),
            ("nats://ann:secret@a/secret", "the URL must not have a path"),
            ("nats://ann:secret@a?secret", "the URL must not have parameters"),
            ("http://ann:secret@a", "the scheme must be nats or tls"),
            ("nats://,b", "server 1 must have a host"),
            ("nats://ann:secret@a,", "server 2 must have a host"),
            ("nats://ann:secret@a,,c", "server 2 must have a host"),
            ("nats://ann:secret@a,b,c:secret", "server 3 must have a valid host and port"),
            ("nats://ann:secret@a,b/secret", "server 2 must not have a path"),
            ("nats://ann:secret@a,b#secret", "server 2 must not have parameters"),
            ("nats://ann:secret@a,tls://b", "server 2 must have the scheme of the first one"),
            ("tls://ann:secret@a,b,nats://c", "server 3 must have the scheme of the first one"),
            ("nats://a,redis://secret@b", "server 2 must have the scheme of the first one"),
            ("nats://a,ann:secret@b", "server 2 must have the credentials of the first one"),
            ("nats://ann:secret@a,b,ann:secret2@c", "server 3 must have the credentials of the first one"),
            ("nats://ann:secret%FF@a", "the URL must have credentials in UTF-8"),
            // Commas that are not encoded.
            ("nats://ann:se,cret@a", "server 1 must have a valid host and port; in credentials a comma is %2C"),
            (
                "nats://sec,secret@a",
                "server 2 must have the credentials of the first one, or none; in credentials a comma",
            ),
        ] {
            let why = text.parse::<NatsUrl>().unwrap_err();
            assert!(why.starts_with(start) && !why.contains("secret") && !why.contains("cret@"), "{text}: {why}");
        }
    }
}
