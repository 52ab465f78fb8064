//! The section `[database]`.

use std::{collections::BTreeMap, path::PathBuf};

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
        /// Unknown and unsupported parameters are refused. Percent-encode special characters in user and password (@ is
        /// %40, / is %2F, # is %23). For a database on another machine, add sslmode=verify-full (PostgreSQL) or
        /// ssl-mode=VERIFY_IDENTITY (MySQL, MariaDB). Several hosts, separated by commas, are those of a cluster or of
        /// a primary with replicas: the first that accepts writes is used.
        url: SecretString = "sqlite://users.db?mode=rwc", Allowed::Described("a database URL"), secret, reloadable,
            alias("DATABASE_URL");
        /// Password of the database user, not percent-encoded. Set it here or in the URL, not in both. Every secret can
        /// also come from a file, such as a Docker or Kubernetes secret, which SIGHUP reads again:
        /// `USERS_API__DATABASE__PASSWORD_FILE`. That of the password is also read before each new connection.
        password: SecretString = "", Allowed::Described("a text"), secret, reloadable;
        /// A command that prints the password, for one that expires, such as a token of a cloud provider: words separated
        /// by spaces, without a shell. It runs when a connection is opened, not again within 10 s, and may take
        /// 10 s. Its output is used for up to 10 min while it runs again.
        password_command: SecretString = "", Allowed::Described("a command without quotation marks"), secret;
        /// What to do about pending migrations at start. auto: apply them. check: refuse to start. off: do not check.
        pub migrate: Migrate = "auto", Allowed::Described("auto, check or off");
    }
    with {
        /// The environment variables of libpq, for what a PostgreSQL URL does not say.
        #[serde(skip)]
        pub(super) libpq: BTreeMap<String, SecretString>,
        /// The file that the password comes from.
        #[serde(skip)]
        pub(super) password_file: Option<PathBuf>,
    }
}

/// Where a password comes from that is read again before each connection.
#[derive(Clone, Debug)]
pub enum PasswordSource {
    /// A file with one line.
    File(PathBuf),
    /// The standard output of a command: its program and arguments.
    Command(Vec<SecretString>),
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
            // Refuses another password, and engines without.
            "" if self.password_source().is_some() => url.with_password(""),
            "" => Ok(url),
            password => url.with_password(password),
        }
    }

    /// Returns where the password comes from, if it has to be read again before each connection.
    #[must_use]
    pub fn password_source(&self) -> Option<PasswordSource> {
        let words = self.password_command.expose_secret().split_whitespace();
        let words: Vec<SecretString> = words.map(SecretString::from).collect();
        if words.is_empty() {
            return self.password_file.clone().map(PasswordSource::File);
        }
        Some(PasswordSource::Command(words))
    }

    /// Whether both take the password from the same file or command. The password itself may differ.
    #[must_use]
    pub fn has_same_password_source(&self, other: &Self) -> bool {
        let command = |settings: &Self| settings.password_command.expose_secret().to_owned();
        self.password_file == other.password_file && command(self) == command(other)
    }

    pub(super) fn validate(&self) -> Result<(), Invalid> {
        let command = self.password_command.expose_secret();
        if !command.is_empty() && !self.password.expose_secret().is_empty() {
            let reason = "database.password is set too; remove one of them";
            return Err(Invalid::because("database.password_command", reason.to_owned()));
        }
        if command.contains(['"', '\'']) {
            return Err(Invalid::new(
                "database.password_command".to_owned(),
                "a command without quotation marks".to_owned(),
            ));
        }
        self.url()
            .and_then(|url| url.check_files())
            .map_err(|error| Invalid::because("database.url", error.to_string()))
    }
}
