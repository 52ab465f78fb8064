//! Database URLs: one parser, with a table of known parameters per engine.
//!
//! Every part of a URL is applied or refused, never ignored: the drivers' own parsers skip what they do not know, and
//! print its value. No error and no `Display` here reveals a password or the value of a parameter, unless the value is
//! from a closed set.

mod engine;
mod host;
mod invalid;
mod parameter_tables;
mod parameters;
mod server;
mod sqlite;
mod text;
mod tls;

use std::{fmt, path::Path};

pub use self::{engine::Engine, invalid::InvalidUrl};
pub(in crate::connect) use self::{
    host::{Host, HostAddress, TargetServer},
    server::ServerAddress,
    sqlite::{FileAddress, OpenMode},
    tls::TlsMode,
};

/// A valid database URL. `Display` and `Debug` never reveal a password or the value of a free-text parameter.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(Address);

#[derive(Clone, PartialEq, Eq)]
pub(in crate::connect) enum Address {
    File(FileAddress),
    Server(Box<ServerAddress>),
}

impl DatabaseUrl {
    /// Parses `sqlite:`, `postgres:`, `postgresql:`, `mysql:` and `mariadb:` URLs.
    ///
    /// # Errors
    ///
    /// [`InvalidUrl`] if the text is not a URL of one of the engines, or if any part of it is not supported.
    pub fn parse(text: &str) -> Result<Self, InvalidUrl> {
        Self::parse_with(text, |_| None)
    }

    /// Like [`parse`](Self::parse). Parts that a PostgreSQL URL omits are taken from libpq's environment variables
    /// (`PGSSLMODE`), which `variable` looks up. They follow the same rules as the parameters of the URL.
    ///
    /// # Errors
    ///
    /// As for [`parse`](Self::parse).
    pub fn parse_with(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidUrl> {
        if text.starts_with(['"', '\'']) {
            return Err(InvalidUrl::NotAUrl("; remove the quotation marks around it"));
        }
        if text.trim() != text {
            return Err(InvalidUrl::NotAUrl("; remove the whitespace around it"));
        }
        let Some((scheme, rest)) = text.split_once(':') else { return Err(InvalidUrl::NotAUrl("")) };
        let address = match scheme.to_ascii_lowercase().as_str() {
            "sqlite" => Address::File(FileAddress::parse(rest)?),
            "postgres" => {
                Address::Server(Box::new(ServerAddress::parse(&server::POSTGRES, "postgres", rest, variable)?))
            }
            "postgresql" => {
                Address::Server(Box::new(ServerAddress::parse(&server::POSTGRES, "postgresql", rest, variable)?))
            }
            "mysql" => Address::Server(Box::new(ServerAddress::parse(&server::MYSQL, "mysql", rest, |_| None)?)),
            "mariadb" => Address::Server(Box::new(ServerAddress::parse(&server::MYSQL, "mariadb", rest, |_| None)?)),
            "file" => return Err(InvalidUrl::UnknownScheme("; use sqlite: instead of file:")),
            "jdbc" => return Err(InvalidUrl::UnknownScheme("; remove the jdbc: prefix")),
            scheme if scheme.contains('+') => {
                return Err(InvalidUrl::UnknownScheme("; remove the + and the driver name after it"));
            }
            _ => return Err(InvalidUrl::UnknownScheme("")),
        };
        Ok(Self(address))
    }

    /// Returns the URL with this password, which is not percent-encoded.
    ///
    /// # Errors
    ///
    /// [`InvalidUrl`] if the URL already contains a password, or if its engine has no passwords.
    pub fn with_password(self, password: &str) -> Result<Self, InvalidUrl> {
        match self.0 {
            Address::File(_) => Err(InvalidUrl::part("SQLite has no passwords, but one is set; remove it")),
            Address::Server(address) => Ok(Self(Address::Server(Box::new(address.with_password(password)?)))),
        }
    }

    /// Checks that the certificate and key files of the URL can be used for a connection.
    ///
    /// # Errors
    ///
    /// [`InvalidUrl`], which names the parameter and the file that is missing, unreadable or not PEM.
    pub fn check_files(&self) -> Result<(), InvalidUrl> {
        match &self.0 {
            Address::File(_) => Ok(()),
            Address::Server(address) => address.tls.check_files(),
        }
    }

    pub(in crate::connect) fn address(&self) -> &Address {
        &self.0
    }

    /// Returns the engine that the URL names.
    #[must_use]
    pub fn engine(&self) -> Engine {
        match &self.0 {
            Address::File(_) => Engine::Sqlite,
            Address::Server(address) => address.engine,
        }
    }

    /// Whether this is an in-memory SQLite database, which exists only as long as its connections.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        matches!(&self.0, Address::File(file) if file.is_in_memory())
    }

    /// Returns how many prepared statements a connection caches, if the URL sets it.
    pub(crate) fn statement_cache(&self) -> Option<usize> {
        match &self.0 {
            Address::File(_) => None,
            Address::Server(address) => address.statement_cache,
        }
    }

    /// Returns the file of CA certificates that the server's certificate is verified against, if set.
    pub(crate) fn tls_authority(&self) -> Option<&Path> {
        match &self.0 {
            Address::File(_) => None,
            Address::Server(address) => address.tls.authority.as_ref().map(|file| file.path.as_path()),
        }
    }

    /// Returns the file of the client certificate, if set.
    pub(crate) fn tls_certificate(&self) -> Option<&Path> {
        match &self.0 {
            Address::File(_) => None,
            Address::Server(address) => address.tls.certificate.as_ref().map(|file| file.path.as_path()),
        }
    }

    /// Returns the host if connections leave the machine without a verified certificate and host name, so that a network
    /// attacker could read and modify them; the first such host of several.
    #[must_use]
    pub fn unverified_host(&self) -> Option<&str> {
        match &self.0 {
            Address::File(_) => None,
            Address::Server(address) => address.unverified_host(),
        }
    }

    /// Returns the SQLite database file; `None` for in-memory databases and servers.
    #[must_use]
    pub fn sqlite_path(&self) -> Option<&Path> {
        match &self.0 {
            Address::File(file) => file.path(),
            Address::Server(_) => None,
        }
    }

    /// Whether the other URL refers to the same database, regardless of user and password.
    #[must_use]
    pub fn differs_in_credentials_only(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Address::File(one), Address::File(other)) => one == other,
            (Address::Server(one), Address::Server(other)) => one.without_credentials() == other.without_credentials(),
            _ => false,
        }
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Address::File(file) => file.fmt(f),
            Address::Server(address) => address.fmt(f),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

#[cfg(test)]
mod tests;
