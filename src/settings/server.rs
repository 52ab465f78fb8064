//! The section `[server]`.

use std::{net::IpAddr, time::Duration};

use serde::Deserialize;

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
        Ok(())
    }
}
