//! The URL of a topic of Kafka: `kafka://USER:PASSWORD@HOST:9092,HOST:9092/TOPIC`.

use std::{fmt, str::FromStr};

use percent_encoding::percent_decode_str;
use url::Url;

const DEFAULT_PORT: u16 = 9092;
/// The maximum length of a topic's name.
const MAX_TOPIC: usize = 249;

/// The mechanism by which a user authenticates at Kafka (SASL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mechanism {
    /// PLAIN.
    Plain,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// SCRAM-SHA-512, the default.
    ScramSha512,
}

/// The URL of a topic, with its credentials. It is displayed without them.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaUrl {
    /// `HOST:PORT`, of brokers that know the others of the cluster.
    pub(super) servers: Vec<String>,
    pub(super) is_encrypted: bool,
    pub(super) user: Option<(String, String, Mechanism)>,
    topic: Option<String>,
}

impl KafkaUrl {
    /// Returns the topic, or the one of this name if the URL has none.
    #[must_use]
    pub fn topic_or<'a>(&'a self, default: &'a str) -> &'a str {
        self.topic.as_deref().unwrap_or(default)
    }
}

/// The text is not shown, because it may have a password.
impl FromStr for KafkaUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !cfg!(feature = "kafka") {
            return Err("this build does not support Kafka: it needs the cargo feature kafka".to_owned());
        }
        let (scheme, rest) = text.split_once("://").ok_or("must be a URL of Kafka")?;
        let is_encrypted = match scheme {
            "kafka" => false,
            "kafka+ssl" => true,
            _ => return Err("the scheme must be kafka or kafka+ssl".to_owned()),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (credentials, hosts) =
            authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
        // A URL has one host.
        let servers = hosts.split(',').map(server).collect::<Result<_, _>>()?;
        let others = credentials.map(|user| format!("{user}@")).unwrap_or_default();
        let url: Url = format!("kafka://{others}host{}", &rest[authority.len()..])
            .parse()
            .map_err(|_| "must be a URL of Kafka".to_owned())?;
        if url.fragment().is_some() {
            return Err("the URL must not have a fragment".to_owned());
        }
        // Not that of the parsed URL, which has lost a `..`.
        let path = rest[authority.len()..].split(['?', '#']).next().unwrap_or_default();
        let topic = Some(decoded(path.trim_matches('/'))).filter(|topic| !topic.is_empty());
        if topic.as_deref().is_some_and(|topic| !is_topic(topic)) {
            return Err("the path of the URL must be the name of a topic".to_owned());
        }
        let mechanism = mechanism(&url)?;
        let user = match (url.username(), url.password()) {
            ("", None) if mechanism.is_some() => return Err("sasl needs a user and a password".to_owned()),
            ("", None) => None,
            ("", _) | (_, None) => return Err("the URL must have both a user and a password, or neither".to_owned()),
            (user, Some(password)) => {
                Some((decoded(user), decoded(password), mechanism.unwrap_or(Mechanism::ScramSha512)))
            }
        };
        Ok(Self { servers, is_encrypted, user, topic })
    }
}

/// Returns `HOST:PORT`.
fn server(text: &str) -> Result<String, String> {
    let invalid = || "each host of the URL must be HOST or HOST:PORT".to_owned();
    let url: Url = format!("kafka://{text}").parse().map_err(|_| invalid())?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(invalid)?;
    Ok(format!("{host}:{}", url.port().unwrap_or(DEFAULT_PORT)))
}

fn mechanism(url: &Url) -> Result<Option<Mechanism>, String> {
    let mut found = None;
    for (name, value) in url.query_pairs() {
        found = match (&*name, &*value) {
            ("sasl", "plain") => Some(Mechanism::Plain),
            ("sasl", "scram-sha-256") => Some(Mechanism::ScramSha256),
            ("sasl", "scram-sha-512") => Some(Mechanism::ScramSha512),
            ("sasl", _) => return Err("sasl must be plain, scram-sha-256 or scram-sha-512".to_owned()),
            _ => return Err("the only parameter of the URL is sasl".to_owned()),
        };
    }
    Ok(found)
}

fn is_topic(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.len() <= MAX_TOPIC && text.bytes().all(is_allowed) && ![".", ".."].contains(&text)
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

impl fmt::Display for KafkaUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_encrypted { "kafka+ssl" } else { "kafka" };
        write!(f, "{scheme}://{}", self.servers.join(","))?;
        self.topic.as_ref().map_or(Ok(()), |topic| write!(f, "/{topic}"))
    }
}

impl fmt::Debug for KafkaUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(feature = "kafka")]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_several_hosts_a_topic_and_a_user() {
        let url: KafkaUrl = "kafka://localhost".parse().unwrap();
        assert_eq!((&*url.servers[0], url.topic_or("users"), url.user.is_none()), ("localhost:9092", "users", true));
        let url: KafkaUrl = "kafka+ssl://ann:p%40ss@a.example,[::1]:1/my.topic?sasl=plain".parse().unwrap();
        assert_eq!(url.servers, ["a.example:9092", "[::1]:1"]);
        assert_eq!(url.user, Some(("ann".to_owned(), "p@ss".to_owned(), Mechanism::Plain)));
        assert_eq!(format!("{url} {url:?}").matches("p@ss").count(), 0);
        assert_eq!(url.to_string(), "kafka+ssl://a.example:9092,[::1]:1/my.topic");
    }

    #[test]
    fn invalid_urls_are_refused_without_showing_them() {
        for text in [
            "kafka://",
            "kafka://secret@host",
            "kafka://ann:secret@",
            "kafka://ann:secret@host,",
            "kafka://ann:secret@host:port",
            "kafka://ann:secret@host/a/b",
            "kafka://ann:secret@host/..",
            "kafka://ann:secret@host?sasl=gssapi",
            "kafka://ann:secret@host?acks=0",
            "kafka://ann:secret@host#x",
            "kafka://host?sasl=plain",
            "http://ann:secret@host",
            "host:9092",
        ] {
            assert!(!text.parse::<KafkaUrl>().unwrap_err().contains("secret"), "{text}");
        }
    }
}
