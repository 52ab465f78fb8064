//! The section `[auth]`.

use std::{net::IpAddr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{
    Invalid, List,
    declaration::{Allowed, section},
};
use crate::{auth::TokenRules, domain::ApiKey};

section! {
    /// `auth.*`: who may use the service.
    AuthSettings, SETTINGS: "auth" {
        /// Whether callers have to authenticate. off: no; accepted only if the service listens on loopback addresses.
        /// required: yes, with an API key (users-api keys create) or an access token (auth.jwt). gateway: not to this
        /// service, because a gateway in front of it authenticates them; the operator has to ensure that.
        pub mode: AuthMode = "off", Allowed::Described("off, required or gateway");
        /// How often the API keys are read from the database. A revoked key works for at most this time, and a new key
        /// works after at most this time. Too low: needless statements. Too high: a leaked key works longer after it
        /// was revoked.
        #[serde(with = "humantime_serde")]
        pub refresh: Duration = "5s", Allowed::duration(Duration::from_millis(100), Duration::from_hours(1));
        /// How long known API keys work while they cannot be read from the database. Unknown keys get a 503 in the
        /// meantime. Too low: /pool and /metrics fail too during a database outage. Too high: a key that was revoked
        /// during an outage works longer.
        #[serde(with = "humantime_serde")]
        pub stale: Duration = "10m", Allowed::duration(Duration::ZERO, Duration::from_hours(7 * 24));
        /// API key (from users-api keys generate) that is stored with all scopes at start, unless it exists already.
        /// Use it for the first start of a container, and set it by a file: bootstrap_key_file. To disable the key,
        /// revoke it.
        pub bootstrap_key: SecretString = "", Allowed::Described("an API key, as users-api keys generate prints it"),
            secret;
    }
    with {
        /// Access tokens.
        pub jwt: JwtSettings,
    }
}

section! {
    /// `auth.jwt.*`: access tokens of an identity provider, in addition to API keys.
    JwtSettings, JWT_SETTINGS: "auth.jwt" {
        /// The issuer of the tokens (iss), such as `https://login.example.com/`. Empty: no tokens are accepted.
        pub issuer: String = "", Allowed::Described("the issuer of access tokens");
        /// The audience that a token must contain (aud): usually the URL or the name of this service.
        pub audience: String = "", Allowed::Described("a text; required with auth.jwt.issuer");
        /// The issuer's public keys: a JWK set, as the URL that the issuer documents (jwks_uri) or a file. It is read
        /// every 10m, and also when a token names an unknown key, but then at most once in 1m. If it cannot be read,
        /// the known keys stay valid.
        jwks: SecretString = "", Allowed::Described("an http or https URL, or a file; required with auth.jwt.issuer"),
            secret;
        /// Accepted signature algorithms of tokens. Supported are EdDSA, ES256, ES384, RS256, RS384, RS512, PS256,
        /// PS384 and PS512.
        pub algorithms: List = "EdDSA,ES256,RS256", Allowed::List("an array of asymmetric algorithms such as ES256");
        /// Name of the claim with the scopes: a text, separated by spaces, or an array.
        pub scope_claim: String = "scope", Allowed::Described("the name of a claim");
    }
}

impl JwtSettings {
    fn validate(&self) -> Result<(), Invalid> {
        if self.issuer.is_empty() {
            return Ok(());
        }
        for (key, value) in [("auth.jwt.audience", self.audience.as_str()), ("auth.jwt.jwks", self.jwks())] {
            if value.is_empty() {
                return Err(Invalid::not_allowed(key));
            }
        }
        match self.token_rules() {
            Some(_) => Ok(()),
            None => Err(Invalid::not_allowed("auth.jwt.algorithms")),
        }
    }

    /// Returns the URL or file of the keys. A URL may contain a secret.
    #[must_use]
    pub fn jwks(&self) -> &str {
        self.jwks.expose_secret()
    }

    /// Returns the claims that a token must have; `None` if no tokens are accepted.
    #[must_use]
    pub fn token_rules(&self) -> Option<TokenRules> {
        let algorithms: Vec<_> =
            self.algorithms.iter().map(|name| TokenRules::algorithm(name)).collect::<Option<_>>()?;
        (!self.issuer.is_empty() && !algorithms.is_empty()).then(|| TokenRules {
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            algorithms,
            scope_claim: self.scope_claim.clone(),
        })
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
    /// `hosts` are the settings of the listeners and their addresses.
    pub(super) fn validate(&self, mut hosts: impl Iterator<Item = (&'static str, IpAddr)>) -> Result<(), Invalid> {
        if let (AuthMode::Off, Some((setting, host))) =
            (self.mode, hosts.find(|(_, host)| !host.to_canonical().is_loopback()))
        {
            let reason = format!(
                "with auth.mode = off everyone who reaches {setting} = {host} could read and change all users. Set \
                 auth.mode to required, or to gateway if something in front of the service authenticates callers, or \
                 {setting} to a loopback address"
            );
            return Err(Invalid::because("auth.mode", reason));
        }
        self.jwt.validate()?;
        match self.bootstrap_key.expose_secret() {
            text if text.is_empty() || ApiKey::parse(text.as_bytes()).is_some() => Ok(()),
            _ => Err(Invalid::not_allowed("auth.bootstrap_key")),
        }
    }
}
