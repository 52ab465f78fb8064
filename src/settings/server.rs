//! The section `[server]`.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use url::Url;

use super::{
    Invalid, List,
    declaration::{Allowed, section},
};

section! {
    /// `server.*`: where and how the service listens.
    ServerSettings, SETTINGS: "server" {
        /// IP address to listen on. 127.0.0.1 admits only clients on this machine; use 0.0.0.0 or :: in a container.
        pub host: IpAddr = "127.0.0.1", Allowed::Described("an IP address such as 127.0.0.1 or ::");
        /// TCP port to listen on; 0 picks a free one.
        pub port: u16 = 8080, Allowed::Integer { min: 0, max: 65_535 }, alias("PORT");
        /// Number of HTTP worker threads; 0 = one per processor. Too low: processors stay idle. Too high: more memory
        /// and context switches. Workers never block on the database, so raising this rarely helps.
        pub workers: usize = 0, Allowed::Integer { min: 0, max: 512 };
        /// Maximum number of client connections; 0 = as many as the limit of open files allows, at most 10000. At the
        /// maximum, the connection that has been idle longest is closed for each new one. Too low: connections in use
        /// are closed. Too high: more memory, about 20 KiB per connection. The limit of open files is raised to its
        /// hard limit (`ulimit -Hn`) at start.
        pub max_connections: usize = 0, Allowed::Integer { min: 0, max: 1_000_000 };
        /// Host names that clients may use in addition to localhost; * = any. They are checked only if the listener is
        /// on a loopback address, because web pages could otherwise reach it by DNS rebinding. Set it behind a proxy on
        /// the same machine that forwards the public host name.
        pub allowed_hosts: List = "", Allowed::List("an array of host names, or *");
        /// URL under which clients reach the service through a proxy, including a prefix that the proxy removes, such
        /// as `https://api.example.com/users-api`. Location, Link and the server of the OpenAPI document begin with it.
        /// If it is empty, they are paths without a host.
        pub public_url: String = "", Allowed::Described("a URL such as https://api.example.com/users-api");
        /// Addresses and networks of trusted proxies, such as 10.0.0.0/8. In the requests of
        /// such a proxy, X-Forwarded-For names the client, and X-Forwarded-Proto, X-Forwarded-Host and
        /// X-Forwarded-Prefix are used if public_url is empty. The proxy must append to X-Forwarded-For and set or
        /// remove the others, because clients can send them too.
        pub trusted_proxies: List = "", Allowed::List("an array of addresses or networks such as 10.0.0.0/8");
        /// Maximum time until a request has a response; then it gets a 503. Too low: slow but valid requests fail. Too
        /// high: the service works on requests whose clients have given up. Keep it below the timeout of a reverse
        /// proxy. For a body of unlimited length (POST /users/bulk), it limits the time without data instead.
        #[serde(with = "humantime_serde")]
        pub request_timeout: Duration = "30s", Allowed::duration(Duration::from_millis(1), Duration::from_hours(1));
        /// A client that reads nothing of its response for this long is disconnected (Linux); 0s = never. Too low:
        /// clients on bad networks are disconnected. Too high: responses are kept in memory for clients that have
        /// disappeared.
        #[serde(with = "humantime_serde")]
        pub write_timeout: Duration = "30s", Allowed::duration(Duration::ZERO, Duration::from_hours(1));
        /// After SIGTERM, /health/ready responds 503 and new connections are still accepted for this long. Too low:
        /// load balancers still send requests to a closed listener. Too high: each shutdown takes longer. Use 5s on
        /// Kubernetes, which removes a pod from its endpoints while it sends SIGTERM, and 0s if the load balancer
        /// removes the instance first.
        #[serde(with = "humantime_serde")]
        pub drain_delay: Duration = "0s", Allowed::duration(Duration::ZERO, Duration::from_hours(1));
        /// Maximum time after drain_delay for requests in flight to finish and the pool to close. Too low: requests are
        /// aborted. Too high: the process is killed before it ends. The process ends within drain_delay +
        /// shutdown_timeout + 2s (+ 4s if the trace collector and the readers of the log and of standard error stall).
        /// Keep the sum below the time after which it is killed (Kubernetes 30s; docker stop 10s unless --stop-timeout
        /// or stop_grace_period is set).
        #[serde(with = "humantime_serde")]
        pub shutdown_timeout: Duration = "20s", Allowed::duration(Duration::from_millis(1), Duration::from_hours(1));
    }
    with {
        /// TLS.
        pub tls: TlsSettings,
    }
}

section! {
    /// `server.tls.*`: HTTPS, for a service without a reverse proxy that terminates TLS.
    TlsSettings, TLS_SETTINGS: "server.tls" {
        /// PEM file with the certificate of the service, followed by those of intermediate authorities. Empty: HTTP
        /// without TLS. With a certificate, the service speaks HTTPS only (HTTP/2 and HTTP/1.1), also on admin.port.
        /// SIGHUP reads both files again, for new connections.
        pub certificate: String = "", Allowed::Described("a PEM file with a chain of certificates");
        /// PEM file with the private key of the certificate.
        pub key: String = "", Allowed::Described("a PEM file with a private key; required with server.tls.certificate");
    }
}

impl TlsSettings {
    fn validate(&self) -> Result<(), Invalid> {
        match (self.certificate.is_empty(), self.key.is_empty()) {
            (false, true) => Err(Invalid::not_allowed("server.tls.key")),
            (true, false) => Err(Invalid::because(
                "server.tls.certificate",
                "server.tls.key is set without a certificate".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// Returns the files of the certificate and its key; `None` without TLS.
    #[must_use]
    pub fn files(&self) -> Option<(PathBuf, PathBuf)> {
        (!self.certificate.is_empty()).then(|| (self.certificate.clone().into(), self.key.clone().into()))
    }
}

impl ServerSettings {
    pub(super) fn validate(&self) -> Result<(), Invalid> {
        let is_absolute = |url: &Url| {
            let has_rest = url.query().is_some() || url.fragment().is_some() || !url.username().is_empty();
            ["http", "https"].contains(&url.scheme()) && url.has_host() && url.password().is_none() && !has_rest
        };
        if !self.public_url.is_empty() && !self.public_url.parse().is_ok_and(|url| is_absolute(&url)) {
            return Err(Invalid::not_allowed("server.public_url"));
        }
        if self.trusted_proxies().is_none() {
            return Err(Invalid::not_allowed("server.trusted_proxies"));
        }
        self.tls.validate()
    }

    /// The networks of trusted proxies; `None` if one is neither an address nor a network.
    #[must_use]
    pub fn trusted_proxies(&self) -> Option<Vec<IpNet>> {
        let network = |name: &String| name.parse().or_else(|_| name.parse::<IpAddr>().map(IpNet::from)).ok();
        self.trusted_proxies.iter().map(network).collect()
    }
}
