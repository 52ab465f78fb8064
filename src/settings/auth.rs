//! The section `[auth]`.

use std::{net::IpAddr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{
    Invalid,
    declaration::{Allowed, section},
};
use crate::auth::ApiKey;

section! {
    /// `auth.*`: who may use the service.
    AuthSettings, SETTINGS: "auth" {
        /// Whether callers authenticate. off: not at all, which is accepted only if server.host is a loopback address.
        /// required: with an API key (users-api keys create). gateway: not here, because something in front of the
        /// service authenticates them; the operator vouches for it.
        pub mode: AuthMode = "off", Allowed::Described("off, required or gateway");
        /// How often the API keys are read from the database, 100ms to 1h. It is the longest time that a revoked key
        /// still works, and that a new key does not work yet. Too low: statements. Too high: a leaked key works longer.
        #[serde(with = "humantime_serde")]
        pub refresh: Duration = "5s", Allowed::duration(Duration::from_millis(100), Duration::from_hours(1));
        /// How long known API keys work while they cannot be read from the database, 0s to 7d. Unknown keys get a 503
        /// in the meantime. Too low: an outage of the database is also one of /pool and /metrics. Too high: a key that
        /// was revoked during an outage works longer.
        #[serde(with = "humantime_serde")]
        pub stale: Duration = "10m", Allowed::duration(Duration::ZERO, Duration::from_hours(7 * 24));
        /// An API key (users-api keys generate) that is stored with all scopes at start, unless it is stored already; for
        /// the first start of a container. Set it by a file: bootstrap_key_file. To remove the key, revoke it.
        pub bootstrap_key: SecretString = "", Allowed::Described("an API key, as users-api keys generate prints it"),
            secret;
    }
}

/// Whether callers have to authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// Not at all.
    Off,
    /// With an API key.
    Required,
    /// Not here: something in front of the service authenticates them.
    Gateway,
}

impl AuthSettings {
    pub(super) fn validate(&self, host: IpAddr) -> Result<(), Invalid> {
        if self.mode == AuthMode::Off && !host.to_canonical().is_loopback() {
            let reason = format!(
                "with auth.mode = off everyone who reaches server.host = {host} could read and change all users. Set \
                 auth.mode to required, or to gateway if something in front of the service authenticates callers, or \
                 server.host to a loopback address"
            );
            return Err(Invalid::because("auth.mode", reason));
        }
        match self.bootstrap_key.expose_secret() {
            text if text.is_empty() || ApiKey::parse(text).is_some() => Ok(()),
            _ => Err(Invalid::not_allowed("auth.bootstrap_key")),
        }
    }
}
