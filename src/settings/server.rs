//! The section `[server]`.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use serde::Deserialize;
use url::Url;

use super::Invalid;

/// `server.*`: where and how to listen.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSettings {
    /// Address to listen on.
    pub host: IpAddr,
    /// Port to listen on; 0 takes any free one.
    pub port: u16,
    /// HTTP threads; 0 = one a processor.
    pub workers: usize,
    /// Most connections of clients; 0 = as many as the limit of open files allows, 10,000 at most.
    pub max_connections: usize,
    /// Names that clients may use in `Host` besides localhost, on a loopback listener; separated by commas.
    pub allowed_hosts: String,
    /// URL under which clients reach the service; empty if it is the one that they connect to.
    pub public_url: String,
    /// Addresses and networks of proxies whose `X-Forwarded-*` headers are believed; separated by commas.
    pub trusted_proxies: String,
    /// Longest time to an answer.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// How long a client may take nothing of its answer before it is let go; 0 = for ever.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// How long new connections are still accepted after readiness has turned false.
    #[serde(with = "humantime_serde")]
    pub drain_delay: Duration,
    /// How long running requests and the pool may take to end after that.
    #[serde(with = "humantime_serde")]
    pub shutdown_timeout: Duration,
}

impl ServerSettings {
    pub(super) fn validate(&self) -> Result<(), Invalid> {
        if self.workers > 512 {
            return Err(Invalid::new("server.workers", "a whole number from 0 to 512"));
        }
        if self.max_connections > 1_000_000 {
            return Err(Invalid::new("server.max_connections", "a whole number from 0 to 1000000"));
        }
        if self.drain_delay > Duration::from_hours(1) {
            return Err(Invalid::new("server.drain_delay", "a duration from 0s to 1h"));
        }
        if self.write_timeout > Duration::from_hours(1) {
            return Err(Invalid::new("server.write_timeout", "a duration from 0s to 1h"));
        }
        for (key, value) in
            [("server.request_timeout", self.request_timeout), ("server.shutdown_timeout", self.shutdown_timeout)]
        {
            if !(Duration::from_millis(1)..=Duration::from_hours(1)).contains(&value) {
                return Err(Invalid::new(key, "a duration from 1ms to 1h"));
            }
        }
        let is_absolute = |url: &Url| {
            let has_rest = url.query().is_some() || url.fragment().is_some() || !url.username().is_empty();
            ["http", "https"].contains(&url.scheme()) && url.has_host() && url.password().is_none() && !has_rest
        };
        if !self.public_url.is_empty() && !self.public_url.parse().is_ok_and(|url| is_absolute(&url)) {
            return Err(Invalid::new("server.public_url", "a URL such as https://api.example.com/users-api"));
        }
        if self.trusted_proxies().is_none() {
            let example = "addresses or networks such as 10.0.0.0/8, separated by commas";
            return Err(Invalid::new("server.trusted_proxies", example));
        }
        Ok(())
    }

    /// The networks of trusted proxies; `None` if one is neither an address nor a network.
    #[must_use]
    pub fn trusted_proxies(&self) -> Option<Vec<IpNet>> {
        let names = self.trusted_proxies.split(',').map(str::trim).filter(|name| !name.is_empty());
        let network = |name: &str| name.parse().or_else(|_| name.parse::<IpAddr>().map(IpNet::from)).ok();
        names.map(network).collect()
    }
}
