//! The section `[database]`.

use std::collections::BTreeMap;

use orm_pool::{DatabaseUrl, InvalidUrl};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::Invalid;

/// `database.*`: which database.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    /// The URL, password and all.
    url: SecretString,
    /// The password by itself, not percent-encoded; empty = the one in the URL, if any.
    password: SecretString,
    /// What to do about pending migrations at start.
    pub migrate: Migrate,
    /// libpq's variables, for what a PostgreSQL URL leaves open.
    #[serde(skip)]
    pub(super) libpq: BTreeMap<String, SecretString>,
}

/// What to do about pending migrations at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Migrate {
    /// Apply them.
    Auto,
    /// Refuse to start.
    Check,
    /// Do not look.
    Off,
}

impl DatabaseSettings {
    /// The URL, parsed, with the password; `Display` shows it without secrets.
    ///
    /// # Errors
    ///
    /// None once the settings have been validated.
    pub fn url(&self) -> Result<DatabaseUrl, InvalidUrl> {
        let variable = |name: &str| self.libpq.get(name).map(|value| value.expose_secret().to_owned());
        let url = DatabaseUrl::parse_with(self.url.expose_secret(), variable)?;
        match self.password.expose_secret() {
            "" => Ok(url),
            password => url.with_password(password),
        }
    }

    pub(super) fn validate(&self) -> Result<(), Invalid> {
        self.url()
            .and_then(|url| url.check_files())
            .map_err(|error| Invalid::because("database.url", error.to_string()))
    }
}
