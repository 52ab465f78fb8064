//! The database's address: which engine it names, and how to show it without its secrets.

use std::fmt;

use url::Url;

use crate::{PoolOptions, health::words, target::Target};

/// The engines that the pool speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// An embedded SQLite file.
    Sqlite,
    /// PostgreSQL.
    Postgres,
    /// MySQL or MariaDB.
    MySql,
}

impl Engine {
    /// The name that OpenTelemetry's `db.system.name` gives the engine.
    #[must_use]
    pub fn system_name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgresql",
            Self::MySql => "mysql",
        }
    }
}

/// A database URL that was understood. `Display` and `Debug` never show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl {
    url: Url,
    engine: Engine,
}

/// Why a text is no database URL. The text itself is not repeated: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    /// It is no URL at all.
    #[error("not a URL; expected sqlite://FILE, postgres://USER@HOST/DATABASE or mysql://USER@HOST/DATABASE")]
    NotAUrl,
    /// It is a URL of something else.
    #[error("unknown scheme; expected sqlite, postgres, postgresql, mysql or mariadb")]
    UnknownScheme,
    /// A part of it means nothing to the engine's driver, in whose words this is.
    #[error("{0}")]
    NotUnderstood(String),
}

impl DatabaseUrl {
    /// Reads `sqlite:`, `postgres:`, `postgresql:`, `mysql:` and `mariadb:` URLs.
    ///
    /// # Errors
    ///
    /// [`InvalidUrl`] if the text is no URL or names no engine of ours.
    pub fn parse(text: &str) -> Result<Self, InvalidUrl> {
        // SeaORM knows MariaDB by MySQL's scheme only.
        let text = match text.strip_prefix("mariadb:") {
            Some(rest) => format!("mysql:{rest}"),
            None => text.to_owned(),
        };
        let url = Url::parse(&text).map_err(|_| InvalidUrl::NotAUrl)?;
        let engine = match url.scheme() {
            "sqlite" => Engine::Sqlite,
            "postgres" | "postgresql" => Engine::Postgres,
            "mysql" => Engine::MySql,
            _ => return Err(InvalidUrl::UnknownScheme),
        };
        let url = Self { url, engine };
        match Target::new(&url, &PoolOptions::default()) {
            Ok(_) => Ok(url),
            Err(error) => Err(InvalidUrl::NotUnderstood(words(&error))),
        }
    }

    /// The engine that the URL names.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Whether this is an SQLite database that lives only as long as its connections.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        self.engine == Engine::Sqlite
            && (self.url.as_str().contains(":memory:")
                || self.url.query_pairs().any(|(key, value)| key == "mode" && value == "memory"))
    }

    /// Whether the file of an SQLite database may be created (`mode=rwc`).
    pub(crate) fn creates_file(&self) -> bool {
        self.engine == Engine::Sqlite && self.url.query_pairs().any(|(key, value)| key == "mode" && value == "rwc")
    }

    /// The host, if it is told by a name and not by a number.
    pub(crate) fn host_name(&self) -> Option<&str> {
        // Schemes that the standard does not know keep a number's text as a domain.
        let host = self.url.host_str().filter(|_| self.engine != Engine::Sqlite)?;
        let number = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        number.is_err().then_some(host)
    }

    /// Whether the other URL leads to the same database, as whomever.
    #[must_use]
    pub fn differs_in_credentials_only(&self, other: &Self) -> bool {
        let bare = |url: &Self| {
            let mut url = url.url.clone();
            // Refused only by URLs without a host, and those hold no credentials.
            let _ = (url.set_username(""), url.set_password(None));
            url
        };
        bare(self) == bare(other)
    }

    /// The whole URL, password included: for the driver alone.
    pub(crate) fn expose(&self) -> &str {
        self.url.as_str()
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.url.clone();
        if shown.password().is_some() {
            // Refused only by URLs without a host, and those hold no password.
            let _ = shown.set_password(Some("***"));
        }
        if shown.query().is_some() {
            let pairs: Vec<(String, String)> = shown.query_pairs().into_owned().collect();
            shown.query_pairs_mut().clear().extend_pairs(pairs.into_iter().map(|(key, value)| {
                let secret = ["password", "key", "secret"].iter().any(|word| key.to_ascii_lowercase().contains(word));
                (key, if secret { "***".to_owned() } else { value })
            }));
        }
        f.write_str(shown.as_str())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_engine() {
        for (text, engine) in [
            ("sqlite://users.db?mode=rwc", Engine::Sqlite),
            ("sqlite::memory:", Engine::Sqlite),
            ("postgres://u@h/d", Engine::Postgres),
            ("postgresql://u@h/d", Engine::Postgres),
            ("mysql://u@h/d", Engine::MySql),
            ("mariadb://u@h/d", Engine::MySql),
        ] {
            assert_eq!(DatabaseUrl::parse(text).unwrap().engine(), engine, "{text}");
        }
        assert_eq!(DatabaseUrl::parse("users.db").unwrap_err(), InvalidUrl::NotAUrl);
        assert_eq!(DatabaseUrl::parse("mongodb://h/d").unwrap_err(), InvalidUrl::UnknownScheme);
    }

    #[test]
    fn a_parameter_that_means_nothing_is_told_without_the_password() {
        for (text, part) in [
            ("postgres://ann:hunter2@h/d?sslmode=bogus", "bogus"),
            ("mysql://ann:hunter2@h/d?ssl-mode=bogus", "bogus"),
            ("sqlite://users.db?mode=bogus", "bogus"),
            ("sqlite://users.db?key=hunter2", "key"),
            ("postgres://ann:%ff%fehunter2@h/d", "utf-8"),
        ] {
            let told = DatabaseUrl::parse(text).unwrap_err().to_string();
            assert!(told.contains(part) && !told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn never_shows_a_password() {
        for text in [
            "postgres://ann:hunter2@db:5432/app",
            "postgres://ann@db/app?password=hunter2&application_name=x",
            "mysql://ann:hunter2@db/app?ssl-key=hunter2",
        ] {
            let url = DatabaseUrl::parse(text).unwrap();
            assert!(!url.to_string().contains("hunter2"), "{url}");
            assert!(!format!("{url:?}").contains("hunter2"), "{url:?}");
            assert!(url.expose().contains("hunter2"));
        }
        assert_eq!(DatabaseUrl::parse("postgres://ann:s@db:1/app").unwrap().to_string(), "postgres://ann:***@db:1/app");
    }

    #[test]
    fn tells_credentials_from_the_rest() {
        let url = |text| DatabaseUrl::parse(text).unwrap();
        let ann = url("postgres://ann:one@db/app");
        assert!(ann.differs_in_credentials_only(&url("postgres://ann:two@db/app")));
        assert!(ann.differs_in_credentials_only(&url("postgres://bob@db/app")));
        assert!(!ann.differs_in_credentials_only(&url("postgres://ann:one@other/app")));
        assert!(!ann.differs_in_credentials_only(&url("postgres://ann:one@db/other")));
    }

    #[test]
    fn knows_what_lives_in_memory() {
        assert!(DatabaseUrl::parse("sqlite::memory:").unwrap().is_in_memory());
        assert!(DatabaseUrl::parse("sqlite://x?mode=memory").unwrap().is_in_memory());
        assert!(!DatabaseUrl::parse("sqlite://users.db?mode=rwc").unwrap().is_in_memory());
    }
}
