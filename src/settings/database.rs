//! The section `[database]`.

use orm_pool::DatabaseUrl;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::Invalid;

/// `database.*`: which database.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    /// The URL, password and all.
    url: SecretString,
    /// What to do about pending migrations at start.
    pub migrate: Migrate,
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
    /// The URL, understood; it shows itself without the password.
    ///
    /// # Errors
    ///
    /// None once the settings have been validated.
    pub fn url(&self) -> Result<DatabaseUrl, orm_pool::InvalidUrl> {
        DatabaseUrl::parse(self.url.expose_secret())
    }

    pub(super) fn validate(&self) -> Result<(), Invalid> {
        self.url().map(drop).map_err(|error| {
            let allowed = match error {
                orm_pool::InvalidUrl::NotAUrl(_) => "a URL".to_owned(),
                orm_pool::InvalidUrl::UnknownScheme(_) => "a URL of a known engine".to_owned(),
                error => format!("a URL that can be used ({error})"),
            };
            Invalid::new(
                "database.url",
                format!(
                    "{allowed}: sqlite://FILE?mode=rwc, postgres://USER@HOST/DATABASE or mysql://USER@HOST/DATABASE"
                ),
            )
        })
    }
}
