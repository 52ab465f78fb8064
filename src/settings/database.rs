//! The section `[database]`.

use std::collections::BTreeMap;

use orm_pool::{DatabaseUrl, InvalidUrl};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{
    Invalid,
    declaration::{Allowed, section},
};

section! {
    /// `database.*`: which database.
    DatabaseSettings, SETTINGS: "database" {
        /// `sqlite://FILE?mode=rwc`, `postgres://USER:PASSWORD@HOST/DATABASE` or `mysql://USER:PASSWORD@HOST/DATABASE`.
        /// `DATABASE_URL` also sets it. Unknown and unsupported parameters are refused. Percent-encode special
        /// characters in user and password (@ is %40, / is %2F, # is %23). For a database on another machine, add
        /// sslmode=verify-full (PostgreSQL) or ssl-mode=VERIFY_IDENTITY (MySQL, MariaDB).
        url: SecretString = "sqlite://users.db?mode=rwc", Allowed::Described("a database URL"), secret, reloadable,
            alias("DATABASE_URL");
        /// Password of the database user, not percent-encoded. Set it here or in the URL, not in both. Every secret can
        /// also come from a file, such as a Docker or Kubernetes secret, which SIGHUP reads again:
        /// `USERS_API__DATABASE__PASSWORD_FILE`.
        password: SecretString = "", Allowed::Described("a text"), secret, reloadable;
        /// What to do about pending migrations at start. auto: apply them. check: refuse to start. off: do not check.
        pub migrate: Migrate = "auto", Allowed::Described("auto, check or off");
    }
    with {
        /// The environment variables of libpq, for what a PostgreSQL URL does not say.
        #[serde(skip)]
        pub(super) libpq: BTreeMap<String, SecretString>,
    }
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
